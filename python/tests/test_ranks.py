"""Several ranks with torch.distributed. Skipped where torch is not installed."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
import unittest

from fake_host import MEASURE, PATIENCE, Host, TestCase, checkpoints, kill, kind, samples, train_chunk

RANKS = """
import os, sys, time
import torch, torch.distributed as dist
import tinygate

dist.init_process_group("gloo")
rank = dist.get_rank()

def save(folder):
    (folder / f"rank-{rank}").write_text("saved")

def wait_for_stop():
    while rank == 0 and run._session.stop_signal is None:
        time.sleep(0.001)

def trains(update):
    total = torch.tensor(float(rank))
    dist.all_reduce(total)
    return total

with tinygate.connect(name="ranks") as run:
    run.on_measure("constant", lambda stage: {"trivial": 1.0})
    for chunk in run.chunks():
        for update in chunk.updates(save, every_rank=EVERY):
            chunk.log({"loss": trains(update)})
            BODY
        print("rank", run.rank, "of", run.world_size, "did", chunk._done, "stopped", chunk.stopped, flush=True)
dist.destroy_process_group()
"""

#: The second rank says that it trains.
READY = 'if rank == 1:\n                print("ready", flush=True)\n                '


def source(body: str = "pass", every: bool = False) -> str:
    return RANKS.replace("BODY", body).replace("EVERY", str(every))


def free_port() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return str(sock.getsockname()[1])


def setUpModule() -> None:
    if importlib.util.find_spec("torch") is None:
        text = "skipped: torch is not installed, so nothing with several ranks was tested"
        print(text, file=sys.stderr)
        raise unittest.SkipTest(text)


class Ranks(TestCase):
    def launch(self, text: str) -> tuple[Host, subprocess.Popen[str], dict[str, object]]:
        """Starts two ranks with torchrun. Returns the hello of rank 0."""
        host = Host(self)
        file = host.folder / "ranks.py"
        file.write_text(text)
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port", free_port(), str(file)]
        process = host.start_command(torchrun, OMP_NUM_THREADS="1")
        return host, process, host.welcome()

    def lines(self, process: subprocess.Popen[str]) -> list[str]:
        output, errors = process.communicate(timeout=PATIENCE)
        self.assertEqual(process.returncode, 0, errors)
        return sorted(output.splitlines())

    def test_rank_0_reports_for_all(self) -> None:
        host, process, hello = self.launch(source())
        self.assertEqual([rank["rank"] for rank in hello["ranks"]], [0, 1])
        self.assertEqual(len({rank["pid"] for rank in hello["ranks"]}), 2)
        self.assertRegex(hello["torch"], r"^\d+\.\d+")
        host.send(MEASURE)
        self.assertEqual(host.receive()["trivial"], [{"name": "trivial", "value": 1.0}])
        for number, first in enumerate((0, 10), 1):
            host.send(train_chunk(first, first + 10, chunk=number))
            messages = host.receive_until("chunk_finished")
            self.assertEqual(samples(messages), [(update, 1.0) for update in range(first + 1, first + 11)])
            self.assertEqual(messages[-1]["samples_seen"], first * 8 + 10 * 4 * 2 * 2)
            files = [file["name"] for message in messages if kind(message) == "checkpoint_written" for file in message["files"]]
            self.assertEqual(set(files), {"rank-0"})
        host.end()
        did = [f"rank {rank} of 2 did {update} stopped False" for rank in (0, 1) for update in (10, 20)]
        self.assertEqual(self.lines(process), did)

    def test_every_rank_writes_its_part_of_a_checkpoint(self) -> None:
        host, process, _ = self.launch(source(every=True))
        host.send(train_chunk(0, 10))
        messages = host.receive_until("chunk_finished")
        for message in messages:
            if kind(message) == "checkpoint_written":
                self.assertEqual([file["name"] for file in message["files"]], ["rank-0", "rank-1"])
        host.end()
        self.lines(process)

    def test_all_ranks_stop_after_the_same_update(self) -> None:
        host, process, _ = self.launch(source("if update == 1003:\n                wait_for_stop()"))
        host.send(train_chunk(0, 2000, settings={"checkpoint_interval": 1000}))
        host.receive_until("checkpoint_written")
        host.send({"command": "stop", "signal": "SIGTERM"})
        messages = host.receive_until("interrupted")
        stopped = max([*checkpoints(messages), 1000])
        self.assertEqual(self.lines(process), [f"rank {rank} of 2 did {stopped} stopped True" for rank in (0, 1)])

    def test_a_rank_that_runs_out_of_memory(self) -> None:
        for rank in (0, 1):
            with self.subTest(rank):
                text = source(f'if rank == {rank} and update == 3:\n                raise MemoryError("no space")')
                host, process, _ = self.launch(text)
                host.send(train_chunk(0, 10))
                message = host.receive_until("chunk_failed")[-1]
                self.assertEqual(message["failure"]["failure"], "out_of_memory")
                where = "" if rank == 0 else "rank 1: "
                self.assertEqual(message["failure"]["detail"], where + "MemoryError: no space")
                self.assertIsNone(host.receive_or_end())
                self.assertIn("MemoryError: no space", process.communicate(timeout=PATIENCE)[1])

    def test_no_rank_outlives_its_launcher(self) -> None:
        host, process, _ = self.launch(source(READY + "input()"))
        host.send(train_chunk(0, 10))
        self.assertEqual(process.stdout.readline(), "ready\n")
        kill(process.pid)
        while host.receive_or_end() is not None:
            pass
        # Both ranks have the launcher's output, which ends when all are gone.
        self.assertIn("the parent process exited; this process exits", process.communicate(timeout=PATIENCE)[1])

    def test_no_rank_outlives_tinygate(self) -> None:
        host, process, _ = self.launch(source(READY + "time.sleep(3600)"))
        host.send(train_chunk(0, 10))
        self.assertEqual(process.stdout.readline(), "ready\n")
        host.close()
        errors = process.communicate(timeout=PATIENCE)[1]
        self.assertIn("tinygate closed the connection", errors)
        self.assertEqual(process.returncode, 1)


if __name__ == "__main__":
    unittest.main()
