"""tinygate's side of the protocol, for tests: starts a program, sends commands, checks every line that comes back."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any

from messages import problems_of

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "python"
#: A test that waits longer hangs. Seconds.
PATIENCE = 120
TOKEN = "secret"
LAST = ("interrupted", "environment", "chunk_failed")

SETTINGS = {
    "learning_rate": 0.1,
    "n_updates": 100,
    "schedule_updates": 100,
    "batch_size_per_gpu": 4,
    "gradient_accumulation_steps": 2,
    "log_interval": 1,
    "chunk_size": 10,
    "checkpoint_interval": None,
    "width": 3,
}
STAGE = "classifier"
CONFIG = {"stages": [STAGE], STAGE: {"loss": "loss"}}

#: A program that trains, with the body of an update as a parameter.
PROGRAM = """
import json, os, subprocess, sys, time
import tinygate

def save(folder):
    (folder / "state.json").write_text(json.dumps(chunk.samples_seen))
    (folder / "shards").mkdir()
    (folder / "shards" / "0").write_bytes(b"0" * 10)

def wait_for_stop():
    while run._session.stop_signal is None:
        time.sleep(0.001)

with tinygate.connect(name="test") as run:
    {before}
    for chunk in run.chunks():
        {start}
        for update in chunk.updates(save):
            {body}
        {after}
{end}
"""


def program(
    body: str = 'chunk.log({"loss": 1 / update})',
    *,
    before: str = "pass",
    start: str = "pass",
    after: str = "pass",
    end: str = "",
) -> str:
    """A program. The parts are statements."""

    def indented(part: str, spaces: int) -> str:
        return part.replace("\n", "\n" + " " * spaces)

    text = PROGRAM.replace("{before}", indented(before, 4)).replace("{start}", indented(start, 8))
    return text.replace("{body}", indented(body, 12)).replace("{after}", indented(after, 8)).replace("{end}", end)


def train_chunk(first: int, last: int, **changes: Any) -> dict[str, Any]:
    """A chunk of (first, last], from the checkpoint at its start."""
    settings = {**SETTINGS, **changes.pop("settings", {})}
    command = {
        "command": "train_chunk",
        "stage": STAGE,
        "model": STAGE,
        "chunk": 1,
        "attempt": 1,
        "restart": 0,
        "from": first,
        "to": last,
        "settings": settings,
        "resume": resume_at(first) if first else None,
        "upstream": [],
        "taken": [],
    }
    return {**command, **changes}


def resume_at(step: int) -> dict[str, Any]:
    checkpoint = {"path": f"{STAGE}/checkpoints/{STAGE}_step_{step}", "step": step}
    return {"checkpoint": checkpoint, "samples_seen": step * 8, "files": [], "fresh_optimizer": False}


MEASURE = {"command": "measure_stage", "stage": STAGE, "model": STAGE, "settings": SETTINGS, "upstream": []}


class Host:
    """One program and the connection with it."""

    def __init__(self, test: unittest.TestCase) -> None:
        self.test = test
        self.folder = Path(tempfile.mkdtemp(prefix="tg"))
        test.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.directory = self.folder / "run"
        self.directory.mkdir()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        test.addCleanup(self._listener.close)
        self._listener.settimeout(PATIENCE)
        self._listener.bind(str(self.folder / "socket"))
        self._listener.listen(1)
        self._chunk: dict[str, Any] = {}
        self._steps: dict[str, int] = {}
        self._step = 0
        self._checkpoints: list[int] = []
        self._left = False

    def environment(self, **more: str) -> dict[str, str]:
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        plain = {name: value for name, value in os.environ.items() if name not in names}
        ours = {"TINYGATE_SOCKET": str(self.folder / "socket"), "TINYGATE_TOKEN": TOKEN, "PYTHONPATH": str(PACKAGE)}
        return {**plain, **ours, **more}

    def start(self, source: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Starts a program from its text."""
        file = self.folder / "program.py"
        file.write_text(source)
        return self.start_command([sys.executable, str(file), *arguments], **environment)

    def start_command(self, command: list[str], **environment: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            command, env=self.environment(**environment), stdin=pipe, stdout=pipe, stderr=pipe, universal_newlines=True
        )

        def clean_up() -> None:
            process.kill()
            process.communicate()

        self.test.addCleanup(clean_up)
        return process

    def accept(self) -> dict[str, Any]:
        """Waits for the program. Returns its hello."""
        self.connection, _ = self._listener.accept()
        self._listener.close()
        self.connection.settimeout(PATIENCE)
        self.test.addCleanup(self.connection.close)
        self._reader = self.connection.makefile("r")
        self.test.addCleanup(self._reader.close)
        hello = self.receive()
        self.test.assertEqual(hello["report"], "hello")
        return hello

    def welcome(self, **changes: Any) -> dict[str, Any]:
        """Greets the program. Returns its hello."""
        hello = self.accept()
        self.send({"command": "welcome", "directory": str(self.directory), "config": CONFIG, **changes})
        return hello

    def send(self, command: dict[str, Any]) -> None:
        message = {"version": 1, **command}
        self.test.assertEqual(problems_of(message), [], message)
        if command["command"] == "train_chunk":
            self._chunk = command
            self._step = command["resume"]["checkpoint"]["step"] if command["resume"] else 0
            self._start = self._step
            self._steps.clear()
            self._checkpoints.clear()
        self.send_line(json.dumps(message))

    def send_line(self, line: str) -> None:
        self.connection.sendall(line.encode() + b"\n")

    def receive(self) -> dict[str, Any]:
        """The next report, which must follow the protocol."""
        message = self.receive_or_end()
        assert message is not None, "the program closed the connection"
        return message

    def receive_or_end(self) -> dict[str, Any] | None:
        """The next report; None if the connection is closed."""
        line = self._reader.readline()
        if not line:
            return None
        message = json.loads(line)
        self.test.assertEqual(problems_of(message), [], line)
        self.test.assertFalse(self._left, f"after its last report: {line}")
        self._check(message)
        return message

    def receive_or_end_of_killed(self) -> dict[str, Any] | None:
        """The next report of a program that was killed; None at the end, where a line may be cut off."""
        line = self._reader.readline()
        if not line.endswith("\n"):
            return None
        message: dict[str, Any] = json.loads(line)
        self.test.assertEqual(problems_of(message), [], line)
        self._check(message)
        return message

    def receive_until(self, *kinds: str) -> list[dict[str, Any]]:
        """All reports up to one of these, without progress."""
        messages = []
        while True:
            message = self.receive()
            if message["report"] != "progress":
                messages.append(message)
            if kind(message) in kinds:
                return messages

    def end(self) -> None:
        """Ends the run as a host does that exits."""
        self.send({"command": "end"})
        self.close()

    def close(self) -> None:
        self._reader.close()
        self.connection.close()

    def _check(self, message: dict[str, Any]) -> None:
        """Rules across messages."""
        test, chunk = self.test, self._chunk
        self._left = kind(message) in LAST
        if message["report"] == "progress":
            test.assertLessEqual(self._step, message["step"])
            test.assertEqual(message["gate"], chunk["to"])
            self._step = message["step"]
        if message["report"] != "fact" or message["fact"] == "stage_measured":
            return
        subject = {name: message[name] for name in ("stage", "chunk", "attempt")}
        test.assertEqual(subject, {name: chunk[name] for name in subject}, message)
        if message["fact"] == "metrics_logged":
            for column in message["columns"]:
                for step in column["steps"]["list"]:
                    lowest = self._start if self._start == chunk["to"] else self._start + 1
                    test.assertLess(self._steps.get(column["name"], lowest - 1), step, column)
                    test.assertLessEqual(step, chunk["to"], column)
                    self._steps[column["name"]] = step
        if message["fact"] == "checkpoint_written":
            self._check_checkpoint(message)
        if message["fact"] in ("held_out_scored", "chunk_finished"):
            test.assertEqual(message["step"], chunk["to"])
            test.assertIn(chunk["to"], [self._start, *self._checkpoints], "no checkpoint at the end")
            self._chunk = {} if message["fact"] == "chunk_finished" else chunk

    def _check_checkpoint(self, message: dict[str, Any]) -> None:
        test, chunk = self.test, self._chunk
        step, path = message["checkpoint"]["step"], message["checkpoint"]["path"]
        test.assertLess(max([self._start, *self._checkpoints]), step)
        test.assertLessEqual(step, chunk["to"])
        test.assertNotIn(path, chunk["taken"])
        folder = self.directory / path
        found = {file.relative_to(folder).as_posix(): file.stat().st_size for file in folder.rglob("*") if file.is_file()}
        test.assertEqual({file["name"]: file["size"] for file in message["files"]}, found)
        self._checkpoints.append(step)


def kind(message: dict[str, Any]) -> str:
    """The fact, or the report."""
    return str(message.get("fact", message["report"]))


def kinds(messages: list[dict[str, Any]]) -> list[str]:
    return [kind(message) for message in messages]


def samples(messages: list[dict[str, Any]], name: str = "loss") -> list[tuple[int, Any]]:
    """The samples of a metric in all reports."""
    columns = [column for message in messages for column in message.get("columns", []) if column["name"] == name]
    return [pair for column in columns for pair in zip(column["steps"]["list"], column["values"])]


def checkpoints(messages: list[dict[str, Any]]) -> list[int]:
    """The steps of the checkpoints in all reports."""
    return [message["checkpoint"]["step"] for message in messages if kind(message) == "checkpoint_written"]


class TestCase(unittest.TestCase):
    def host(self, source: str, *arguments: str, **environment: str) -> tuple[Host, subprocess.Popen[str]]:
        """A host whose program is connected and waits for a command."""
        host = Host(self)
        process = host.start(source, *arguments, **environment)
        host.welcome()
        return host, process

    def finish(self, process: subprocess.Popen[str], status: int = 0) -> tuple[str, str]:
        """Waits for a program to exit. Returns its output and its errors."""
        output, errors = process.communicate(timeout=PATIENCE)
        self.assertEqual(process.returncode, status, errors)
        return output, errors


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
