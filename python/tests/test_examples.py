"""The programs in examples/python: short, and resumable inside a chunk."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import unittest
from pathlib import Path
from typing import Any

from fake_host import ROOT, STAGE, Host, TestCase, checkpoints, kind, resume_at, samples, train_chunk

EXAMPLES = ROOT / "examples" / "python"


def has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


class Examples(TestCase):
    def launch(self, name: str, directory: Path | None = None) -> tuple[Host, subprocess.Popen[str]]:
        host = Host(self)
        host.directory = directory or host.directory
        process = host.start_command([sys.executable, str(EXAMPLES / name)])
        host.welcome()
        return host, process

    def check(self, name: str, loss: str, held_out: str, settings: dict[str, Any]) -> None:
        """Trains two chunks; then the second again, from a checkpoint inside it."""
        first = train_chunk(0, 10, settings=settings)
        second = train_chunk(10, 20, chunk=2, settings=settings)
        host, process = self.launch(name)
        host.send({"command": "measure_stage", **{key: first[key] for key in ("stage", "model", "settings", "upstream")}})
        host.receive_until("stage_measured")
        host.send(first)
        host.receive_until("chunk_finished")
        host.send(second)
        undisturbed = host.receive_until("chunk_finished")
        host.end()
        self.finish(process)
        self.assertEqual([update for update, _ in samples(undisturbed, loss)], list(range(11, 21)))
        self.assertEqual(checkpoints(undisturbed), [12, 14, 16, 18, 20])
        self.assertEqual([score["name"] for score in self.score(undisturbed)], [held_out])

        again, process = self.launch(name, host.directory)
        taken = [f"{STAGE}/checkpoints/{STAGE}_step_{step}" for step in range(2, 21, 2)]
        again.send({**second, "resume": resume_at(16), "taken": taken})
        resumed = again.receive_until("chunk_finished")
        again.end()
        self.finish(process)
        self.assertEqual(samples(resumed, loss), samples(undisturbed, loss)[6:])
        self.assertEqual(self.score(resumed), self.score(undisturbed))

    def score(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return next(message["values"] for message in messages if kind(message) == "held_out_scored")

    def test_line_fit(self) -> None:
        self.check("line_fit.py", "loss", "held_out/loss", {})

    @unittest.skipUnless(has("torch"), "skipped: torch is not installed")
    def test_classifier(self) -> None:
        self.check("classifier.py", "cross_entropy", "held_out/cross_entropy", {"dropout": 0.4})

    @unittest.skipUnless(has("torch") and has("lightning"), "skipped: lightning is not installed")
    def test_lightning_callback(self) -> None:
        self.check("lightning_callback.py", "loss", "held_out_loss", {})

    def test_they_are_short(self) -> None:
        for file in EXAMPLES.glob("*.py"):
            with self.subTest(file.name):
                self.assertLess(len(file.read_text().splitlines()), 60)


if __name__ == "__main__":
    unittest.main()
