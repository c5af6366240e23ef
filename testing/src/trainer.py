"""A small trainer for tests: the protocol, and updates that depend on nothing but the checkpoint and the settings."""
import json, os, select, socket, sys

def start_time(pid):
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except OSError:
        return None

class Program:
    def __init__(self, token=None):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(os.environ["TINYGATE_SOCKET"])
        self.lines = self.socket.makefile("rb")
        ranks = [{"rank": 0, "pid": os.getpid(), "start_time": start_time(os.getpid())}]
        token = token or os.environ["TINYGATE_TOKEN"]
        self.send(report="hello", token=token, name="test", ranks=ranks, torch=None)
        welcome = self.receive()
        self.directory = welcome["directory"]
        self.config = welcome["config"]

    def raw(self, data):
        self.socket.sendall(data)

    def send(self, **message):
        self.raw(json.dumps({"version": 1, **message}).encode() + b"\n")

    def receive(self):
        line = self.lines.readline()
        if not line:
            sys.exit("the connection is closed")
        return json.loads(line)

    def fact(self, fact, **fields):
        self.send(report="fact", fact=fact, **fields)

    def about(self, command):
        return {key: command[key] for key in ("stage", "chunk", "attempt")}

    def metrics(self, command, step, **values):
        columns = [{"name": name, "steps": {"list": [step]}, "values": [value]} for name, value in values.items()]
        self.fact("metrics_logged", **self.about(command), columns=columns)

    def save(self, command, step, weight):
        path = f"{command['stage']}/checkpoints/{command['stage']}_step_{step}"
        number = 1
        while path in command["taken"]:
            number += 1
            path = f"{command['stage']}/checkpoints/{command['stage']}_step_{step}_{number}"
        folder = os.path.join(self.directory, path)
        os.makedirs(folder, exist_ok=True)
        text = json.dumps({"weight": weight, "update": step})
        with open(os.path.join(folder, "state.json"), "w") as file:
            file.write(text)
        files = [{"name": "state.json", "size": len(text)}]
        self.fact("checkpoint_written", **self.about(command), checkpoint={"path": path, "step": step},
                  samples_seen=step * 8, files=files)

    def stopped(self, step):
        """The signal to stop for. Waits for it, for a lost connection or for ever if `hold-STEP` exists."""
        hold = f"hold-{step}"
        held = os.path.exists(hold)
        if held:
            with open(f"held-{step}.partial", "w") as file:
                file.write(str(os.getpid()))
            os.rename(f"held-{step}.partial", f"held-{step}")
        ready, _, _ = select.select([self.socket], [], [], None if held else 0)
        if ready:
            message = self.receive()
            if message["command"] == "stop":
                return message["signal"]
            raise RuntimeError(message)
        return None

    def measure(self, command):
        self.fact("stage_measured", stage=command["stage"], trivial=[], predictor="none")

    def train(self, command):
        """Trains a chunk. False: it was stopped."""
        settings = command["settings"]
        step, weight = 0, 1.0
        if command["resume"]:
            path = os.path.join(self.directory, command["resume"]["checkpoint"]["path"], "state.json")
            with open(path) as file:
                state = json.load(file)
            step, weight = state["update"], state["weight"]
        saved = step
        while step < command["to"]:
            signal = self.stopped(step)
            if signal:
                if saved < step:
                    self.save(command, step, weight)
                self.send(report="interrupted", signal=signal)
                return False
            step += 1
            weight -= settings["learning_rate"] * weight * 0.01
            accuracy = 0.9 if settings["learning_rate"] < 0.06 else 0.3
            self.metrics(command, step, cross_entropy=weight, accuracy=accuracy)
            if step % 10 == 0:
                self.save(command, step, weight)
                saved = step
        self.fact("chunk_finished", **self.about(command), step=step, samples_seen=step * 8, seconds=0.5)
        return True

    def run(self, train=None):
        while True:
            command = self.receive()
            kind = command["command"]
            if kind == "measure_stage":
                self.measure(command)
            elif kind == "train_chunk":
                if not (train or self.train)(command):
                    return
            else:
                return
