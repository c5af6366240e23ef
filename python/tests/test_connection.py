"""How a program connects, and what it does with messages that it does not understand."""

from __future__ import annotations

import decimal
import math
import os
import sys
import unittest

from fake_host import MEASURE, PACKAGE, PATIENCE, TOKEN, Host, TestCase, kind, program, train_chunk

sys.path.insert(0, str(PACKAGE))
from tinygate import _numbers, _processes  # noqa: E402


class Greeting(TestCase):
    def test_hello(self) -> None:
        host = Host(self)
        process = host.start(program())
        hello = host.accept()
        rank = {"rank": 0, "pid": process.pid, "start_time": _processes.start_time(process.pid)}
        expected = {"version": 1, "report": "hello", "token": TOKEN, "name": "test", "ranks": [rank], "torch": None}
        self.assertEqual(hello, expected)

    def test_the_name_is_that_of_the_script(self) -> None:
        host = Host(self)
        process = host.start("import tinygate\nwith tinygate.connect() as run:\n    print(run.rank, run.world_size, run.config)")
        self.assertEqual(host.welcome(config={"seed": 7})["name"], "program.py")
        self.assertEqual(self.finish(process)[0], "0 1 {'seed': 7}\n")

    def test_the_version_of_an_imported_torch(self) -> None:
        host = Host(self)
        fake = "import sys, types\nsys.modules['torch'] = types.SimpleNamespace(__version__='2.2.0')\n"
        host.start(fake + program())
        self.assertEqual(host.accept()["torch"], "2.2.0")

    def test_a_program_that_tinygate_did_not_start(self) -> None:
        source = "import tinygate\nprint(tinygate.started())\ntinygate.connect()"
        process = Host(self).start(source, TINYGATE_SOCKET="")
        output, errors = self.finish(process, 1)
        self.assertEqual(output, "False\n")
        self.assertIn("NotStarted: TINYGATE_SOCKET is not set: tinygate did not start this program", errors)

    def test_a_program_that_trains_without_tinygate_may_outlive_its_parent(self) -> None:
        source = (
            "import threading, tinygate\n"
            "try:\n"
            "    tinygate.connect()\n"
            "except tinygate.NotStarted:\n"
            "    print(threading.enumerate() == [threading.main_thread()])"
        )
        process = Host(self).start(source, TINYGATE_SOCKET="")
        self.assertEqual(self.finish(process), ("True\n", ""))

    def test_a_socket_that_does_not_exist(self) -> None:
        process = Host(self).start("import tinygate\ntinygate.connect()", TINYGATE_SOCKET="/nowhere/socket")
        self.assertIn("ConnectionLost: cannot connect to tinygate at /nowhere/socket: ", self.finish(process, 1)[1])

    def test_several_ranks_that_are_not_connected(self) -> None:
        process = Host(self).start("import tinygate\ntinygate.connect()", WORLD_SIZE="2", RANK="1")
        self.assertIn("RuntimeError: WORLD_SIZE is 2, but the ranks are not connected: call", self.finish(process, 1)[1])

    def test_answers_to_hello_that_are_not_understood(self) -> None:
        rows = [
            ("not JSON", "hello there", "ProtocolError: tinygate sent a line that is not JSON"),
            ("not an object", "[1]", "ProtocolError: tinygate speaks version None of the protocol"),
            ("a newer version", '{"version":2,"command":"welcome"}', "ProtocolError: tinygate speaks version 2 of the protocol"),
            ("another command", '{"version":1,"command":"end"}', "ProtocolError: tinygate answered with `end`"),
        ]
        for name, line, expected in rows:
            with self.subTest(name):
                host = Host(self)
                process = host.start(program())
                host.accept()
                host.send_line(line)
                self.assertIn(expected, self.finish(process, 1)[1])

    def test_a_refused_hello(self) -> None:
        host = Host(self)
        process = host.start(program())
        host.accept()
        host.close()
        self.assertIn("ConnectionLost: tinygate closed the connection", self.finish(process, 1)[1])


class Commands(TestCase):
    def test_commands_that_are_not_understood_end_the_program(self) -> None:
        rows = [
            ("unknown", '{"version":1,"command":"dance"}', "tinygate sent the command `dance`, which this package does not know"),
            ("not JSON", "{", "tinygate sent a line that is not JSON"),
            ("a newer version", '{"version":2,"command":"end"}', "tinygate speaks version 2 of the protocol"),
        ]
        for name, line, expected in rows:
            with self.subTest(name):
                host, process = self.host(program())
                host.send_line(line)
                self.assertIn(expected, self.finish(process, 1)[1])

    def test_unknown_fields_of_a_command_are_ignored(self) -> None:
        host, process = self.host(program())
        host.send_line('{"version":1,"command":"measure_stage","stage":"a","model":"a","settings":{},"upstream":[],"new":1}')
        self.assertEqual(host.receive()["stage"], "a")
        host.end()
        self.finish(process)

    def test_messages_arrive_in_pieces_and_together(self) -> None:
        host, process = self.host(program())
        line = b'{"version":1,"command":"measure_stage","stage":"a","model":"a","settings":{},"upstream":[]}\n'
        for piece in (line[:10], line[10:] + line + line[:1], line[1:]):
            host.connection.sendall(piece)
        self.assertEqual([kind(host.receive()) for _ in range(3)], ["stage_measured"] * 3)
        host.end()
        self.finish(process)

    def test_a_long_command(self) -> None:
        host, process = self.host(program(start="print(len(chunk._taken))"))
        host.send(train_chunk(0, 1, taken=[f"classifier/checkpoints/classifier_step_{step}" for step in range(5000)]))
        host.receive_until("chunk_finished")
        host.end()
        self.assertEqual(self.finish(process)[0], "5000\n")

    def test_the_program_may_work_on_after_the_end(self) -> None:
        end = 'print("after", flush=True)\nsys.stdin.readline()\nprint("done")'
        host, process = self.host(program(end=end))
        host.send(MEASURE)
        host.receive()
        host.end()
        self.assertEqual(process.stdout.readline(), "after\n")
        self.assertEqual(process.communicate("\n", timeout=PATIENCE), ("done\n", ""))
        self.assertEqual(process.returncode, 0)


class Numbers(unittest.TestCase):
    class Tensor:
        def __init__(self, value: object) -> None:
            self.value = value

        def item(self) -> object:
            if isinstance(self.value, list):
                raise RuntimeError("a Tensor with 2 elements cannot be converted to Scalar")
            return self.value

    def test_numbers(self) -> None:
        rows = [
            (1, 1.0),
            (0.1, 0.1),
            (decimal.Decimal("0.5"), 0.5),
            (self.Tensor(2.5), 2.5),
            (self.Tensor(3), 3.0),
            (math.nan, "nan"),
            (-math.inf, "-inf"),
            (self.Tensor(math.inf), "inf"),
            (10**400, "inf"),
            (-(10**400), "-inf"),
        ]
        for value, expected in rows:
            with self.subTest(repr(value)[:20]):
                self.assertEqual(_numbers.scalar("loss", value), expected)

    def test_what_is_not_a_number(self) -> None:
        for value in ["1", b"1", None, True, 1j, [1], self.Tensor([1, 2]), self.Tensor(True)]:
            with self.subTest(repr(value)[:20]), self.assertRaisesRegex(TypeError, "the metric `loss` is not one number"):
                _numbers.scalar("loss", value)

    def test_names(self) -> None:
        for name in ["", 3, None]:
            with self.subTest(name), self.assertRaises(TypeError):
                _numbers.metrics({name: 1})


class Identity(unittest.TestCase):
    @unittest.skipUnless(os.path.exists("/proc/self/stat"), "skipped: no /proc")
    def test_a_start_time(self) -> None:
        self.assertIsInstance(_processes.start_time(os.getpid()), int)

    def test_no_such_process(self) -> None:
        self.assertIsNone(_processes.start_time(2**22 + 1))


class Sockets(TestCase):
    def test_a_program_started_by_this_one_does_not_get_the_socket(self) -> None:
        # The grandchild outlives the program. With the socket, it would keep the connection open.
        start = 'subprocess.Popen([sys.executable, "-c", "input()"], close_fds=False)\nos._exit(3)'
        host, process = self.host(program(start=start))
        host.send(train_chunk(0, 1))
        self.assertIsNone(host.receive_or_end())
        self.finish(process, 3)

    def test_a_fork_does_not_keep_the_connection_open(self) -> None:
        start = "if os.fork() == 0:\n    sys.stdin.readline()\n    os._exit(0)\nos._exit(3)"
        host, process = self.host(program(start=start))
        host.send(train_chunk(0, 1))
        self.assertIsNone(host.receive_or_end())
        self.finish(process, 3)

    def test_a_fork_cannot_report_or_close_the_connection(self) -> None:
        start = (
            "pid = os.fork()\n"
            "if pid == 0:\n"
            '    for use in (lambda: chunk.log({"a": 1}), lambda: next(chunk.updates(save)), lambda: next(run.chunks())):\n'
            "        try:\n"
            "            use()\n"
            "        except RuntimeError as error:\n"
            "            print(error, flush=True)\n"
            "    run.close()\n"
            "    sys.exit(0)\n"
            "os.waitpid(pid, 0)"
        )
        host, process = self.host(program(start=start))
        host.send(train_chunk(0, 1))
        host.receive_until("chunk_finished")
        host.end()
        line = "this process is a fork, such as a DataLoader worker: use tinygate in the process that connected\n"
        # Python 3.12 warns of forks on standard error.
        self.assertEqual(self.finish(process)[0], line * 3)


if __name__ == "__main__":
    unittest.main()
