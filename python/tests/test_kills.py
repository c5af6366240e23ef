"""Processes that are killed: tinygate, a launcher, the program."""

from __future__ import annotations

import unittest

from fake_host import PATIENCE, STAGE, Host, TestCase, checkpoints, kill, kind, program, train_chunk


class Kills(TestCase):
    def test_a_program_exits_when_tinygate_is_gone(self) -> None:
        rows = [
            ("in an update", program('print("ready", flush=True)\nsys.stdin.readline()'), True),
            ("while a checkpoint is written", program(start='save = lambda folder: (print("ready", flush=True), input())'), True),
            ("without a command", program(before='print("ready", flush=True)'), False),
        ]
        for name, source, trains in rows:
            with self.subTest(name):
                host, process = self.host(source)
                if trains:
                    host.send(train_chunk(0, 10))
                self.assertEqual(process.stdout.readline(), "ready\n")
                host.close()
                # Its standard input stays open, so it does not return from reading.
                self.assertEqual(process.wait(PATIENCE), 1)
                self.assertRegex(process.stderr.read(), "tinygate closed the connection.*; this process exits\n")

    def test_a_rank_exits_when_its_launcher_is_gone(self) -> None:
        host = Host(self)
        source = program('print("ready", flush=True)\nsys.stdin.readline()')
        (host.folder / "rank.py").write_text(source)
        launcher = f"import subprocess, sys\nsubprocess.run([sys.executable, {str(host.folder / 'rank.py')!r}])"
        process = host.start(launcher)
        rank = host.welcome()["ranks"][0]
        self.assertNotEqual(rank["pid"], process.pid)
        host.send(train_chunk(0, 10))
        self.assertEqual(process.stdout.readline(), "ready\n")
        kill(process.pid)
        self.assertIsNone(host.receive_or_end())
        # The rank has the launcher's output: it ends when both are gone.
        self.assertIn("the parent process exited; this process exits\n", process.communicate(timeout=PATIENCE)[1])

    def test_a_killed_program_leaves_whole_checkpoints_only(self) -> None:
        body = 'chunk.log({"loss": 1})'
        start = 'def save(folder):\n    for part in range(4):\n        (folder / str(part)).write_bytes(b"0" * 1000)\n'
        for reports in range(3, 40, 4):
            with self.subTest(reports):
                host = Host(self)
                process = host.start(program(body, start=start))
                host.welcome()
                host.send(train_chunk(0, 100, settings={"checkpoint_interval": 1}))
                # `receive` compares the files of every reported checkpoint.
                messages = [host.receive() for _ in range(reports)]
                kill(process.pid)
                while (message := host.receive_or_end_of_killed()) is not None:
                    messages.append(message)
                self.finish(process, -9)
                folder = host.directory / STAGE / "checkpoints"
                whole = [path for path in folder.iterdir() if not path.name.startswith(".")]
                self.assertTrue(all(len(list(path.iterdir())) == 4 for path in whole))
                written = [message for message in messages if kind(message) == "checkpoint_written"]
                self.assertIn(len(whole) - len(checkpoints(written)), (0, 1), "one may be complete but not reported yet")


class Errors(TestCase):
    def test_the_connection_is_open_while_an_error_is_printed(self) -> None:
        start = (
            "def hook(*error):\n"
            "    print(run._session._connection._socket.fileno() >= 0)\n"
            "    sys.__excepthook__(*error)\n"
            "sys.excepthook = hook\n"
            "raise ValueError"
        )
        host, process = self.host(program(start=start))
        host.send(train_chunk(0, 10))
        self.assertIsNone(host.receive_or_end())
        self.assertEqual(self.finish(process, 1)[0], "True\n")

    def test_the_connection_ends_although_a_thread_keeps_the_process_alive(self) -> None:
        # A thread keeps the process alive after the error, so the package closes the connection.
        start = (
            "import threading\n"
            "tinygate._session._TRACEBACK_SECONDS = 0.2\n"
            "threading.Thread(target=sys.stdin.readline).start()\n"
            "raise ValueError(chunk.stage)"
        )
        host, process = self.host(program(start=start))
        host.send(train_chunk(0, 10))
        self.assertIsNone(host.receive_or_end())
        errors = process.communicate("\n", timeout=PATIENCE)[1]
        self.assertIn(f"ValueError: {STAGE}", errors)
        self.assertEqual(process.returncode, 1)


if __name__ == "__main__":
    unittest.main()
