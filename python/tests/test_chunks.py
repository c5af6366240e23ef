"""Chunks over the protocol: what is reported, and in which order."""

from __future__ import annotations

import json
import unittest

from fake_host import MEASURE, STAGE, TestCase, checkpoints, kind, kinds, program, resume_at, samples, train_chunk
from messages import problems_of

SCORE = 'if not chunk.stopped:\n    chunk.score({"held_out_loss": 0.5})'


class Chunks(TestCase):
    def test_a_chunk_from_fresh_weights(self) -> None:
        host, process = self.host(program(after='chunk.log({"accuracy": 0.9})\nchunk.score({"held_out_loss": 0.5})'))
        host.send(train_chunk(0, 10))
        messages = host.receive_until("chunk_finished")
        self.assertEqual(samples(messages), [(update, 1 / update) for update in range(1, 11)])
        self.assertEqual(samples(messages, "accuracy"), [(10, 0.9)])
        self.assertEqual(checkpoints(messages), [2, 4, 6, 8, 10])
        self.assertEqual(kinds(messages)[-4:], ["checkpoint_written", "metrics_logged", "held_out_scored", "chunk_finished"])
        written = [message for message in messages if kind(message) == "checkpoint_written"][0]
        self.assertEqual(written["checkpoint"], {"path": f"{STAGE}/checkpoints/{STAGE}_step_2", "step": 2})
        self.assertEqual(written["samples_seen"], 2 * 4 * 2)
        self.assertEqual([file["name"] for file in written["files"]], ["shards/0", "state.json"])
        self.assertEqual(messages[-2]["values"], [{"name": "held_out_loss", "value": 0.5}])
        self.assertEqual(messages[-1]["samples_seen"], 10 * 4 * 2)
        host.end()
        self.finish(process)

    def test_samples_come_before_the_checkpoint_that_has_learned_from_them(self) -> None:
        host, process = self.host(program())
        host.send(train_chunk(0, 10))
        reported = 0
        for message in host.receive_until("chunk_finished"):
            reported += len(samples([message]))
            if kind(message) == "checkpoint_written":
                self.assertEqual(reported, message["checkpoint"]["step"])
        host.end()
        self.finish(process)

    def test_checkpoints_are_due_on_the_grid_of_the_chunk(self) -> None:
        rows = [
            ("a fifth of the chunk size", 0, 10, {}, [2, 4, 6, 8, 10]),
            ("an interval", 0, 10, {"checkpoint_interval": 4}, [4, 8, 10]),
            ("from the start of the chunk", 13, 23, {"checkpoint_interval": 4}, [17, 21, 23]),
            ("longer than the chunk", 20, 30, {"checkpoint_interval": 50}, [30]),
            ("a chunk of less than five updates", 0, 3, {"chunk_size": 3}, [1, 2, 3]),
        ]
        host, process = self.host(program())
        for name, first, last, settings, expected in rows:
            with self.subTest(name):
                host.send(train_chunk(first, last, settings=settings))
                self.assertEqual(checkpoints(host.receive_until("chunk_finished")), expected)
        host.end()
        self.finish(process)

    def test_a_resume_inside_a_chunk_does_the_rest(self) -> None:
        host, process = self.host(program(start="print(chunk.first, chunk.last, chunk.resume.update, chunk.resume / 'x')"))
        host.send(train_chunk(0, 10, resume=resume_at(6)))
        messages = host.receive_until("chunk_finished")
        self.assertEqual([update for update, _ in samples(messages)], [7, 8, 9, 10])
        self.assertEqual(checkpoints(messages), [8, 10])
        self.assertEqual(messages[-1]["samples_seen"], 6 * 8 + 4 * 4 * 2)
        host.end()
        output, _ = self.finish(process)
        self.assertEqual(output.strip(), f"7 10 6 {host.directory}/{STAGE}/checkpoints/{STAGE}_step_6/x")

    def test_a_resume_at_the_end_of_a_chunk_only_scores(self) -> None:
        host, process = self.host(program(after='chunk.log({"accuracy": 0.9})\n' + SCORE))
        host.send(train_chunk(0, 10, resume=resume_at(10)))
        messages = host.receive_until("chunk_finished")
        self.assertEqual(kinds(messages), ["metrics_logged", "held_out_scored", "chunk_finished"])
        self.assertEqual(samples(messages, "accuracy"), [(10, 0.9)])
        self.assertEqual(messages[-1]["samples_seen"], 10 * 8)
        host.end()
        _, errors = self.finish(process)
        self.assertEqual(errors, "")

    def test_a_checkpoint_outside_of_the_run_keeps_its_path(self) -> None:
        host, process = self.host(program(start="print(chunk.resume.path, chunk.fresh_optimizer)"))
        resume = {**resume_at(0), "checkpoint": {"path": "/given/model", "step": 0}, "fresh_optimizer": True}
        host.send(train_chunk(0, 10, resume=resume))
        host.receive_until("chunk_finished")
        host.end()
        self.assertEqual(self.finish(process)[0], "/given/model True\n")

    def test_upstream_checkpoints_by_stage(self) -> None:
        host, process = self.host(program(start="print(chunk.upstream['first'].update, chunk.settings['width'])"))
        upstream = [{"stage": "first", "checkpoint": {"path": "first/checkpoints/x", "step": 7}, "files": []}]
        host.send(train_chunk(0, 10, upstream=upstream))
        host.receive_until("chunk_finished")
        host.end()
        self.assertEqual(self.finish(process)[0], "7 3\n")

    def test_a_path_that_the_log_knows_is_not_used_again(self) -> None:
        host, process = self.host(program())
        base = f"{STAGE}/checkpoints/{STAGE}_step_10"
        host.send(train_chunk(0, 10, settings={"checkpoint_interval": 10}, taken=[base, base + "_2"]))
        messages = host.receive_until("chunk_finished")
        paths = [message["checkpoint"]["path"] for message in messages if kind(message) == "checkpoint_written"]
        self.assertEqual(paths, [base + "_3"])
        host.end()
        self.finish(process)

    def test_leftovers_of_a_killed_process_are_replaced(self) -> None:
        host, process = self.host(program())
        folder = host.directory / STAGE / "checkpoints"
        for name in (f".{STAGE}_step_7.partial", f"{STAGE}_step_10"):
            (folder / name).mkdir(parents=True)
            (folder / name / "old").write_text("old")
        host.send(train_chunk(0, 10, settings={"checkpoint_interval": 10}))
        host.receive_until("chunk_finished")
        host.end()
        self.finish(process)
        self.assertEqual([path.name for path in folder.iterdir()], [f"{STAGE}_step_10"])

    def test_a_checkpoint_in_the_body_replaces_the_one_that_is_due(self) -> None:
        host, process = self.host(program('chunk.log({"loss": 1})\nif update in (3, 4):\n    chunk.save(save)'))
        host.send(train_chunk(0, 5, settings={"checkpoint_interval": 4}))
        messages = host.receive_until("chunk_finished")
        self.assertEqual(checkpoints(messages), [3, 4, 5])
        host.end()
        self.finish(process)

    def test_samples_are_reported_while_an_update_takes_long(self) -> None:
        host, process = self.host(program('chunk.log({"loss": 1})\nsys.stdin.readline()'))
        host.send(train_chunk(0, 1))
        self.assertEqual(samples([host.receive()]), [(1, 1.0)])
        process.stdin.write("\n")
        process.stdin.flush()
        host.receive_until("chunk_finished")
        host.end()
        self.finish(process)

    def test_many_metrics_are_split_into_several_reports(self) -> None:
        host, process = self.host(program('chunk.log({"m%d" % index: index for index in range(5000)})'))
        host.send(train_chunk(0, 1))
        messages = host.receive_until("chunk_finished")
        sizes = [len(message["columns"]) for message in messages if kind(message) == "metrics_logged"]
        self.assertEqual(sum(sizes), 5000)
        self.assertLessEqual(max(sizes), 2048)
        host.end()
        self.finish(process)

    def test_values_without_a_json_form(self) -> None:
        host, process = self.host(program('chunk.log({"loss": float(["nan", "inf", "-inf"][update - 1])})', after=SCORE))
        host.send(train_chunk(0, 3))
        messages = host.receive_until("chunk_finished")
        self.assertEqual(samples(messages), [(1, "nan"), (2, "inf"), (3, "-inf")])
        host.end()
        self.finish(process)

    def test_later_scores_are_added_to_earlier_ones(self) -> None:
        host, process = self.host(program(after='chunk.score({"a": 1, "b": 2})\nchunk.score({"b": 3, "c": None})'))
        host.send(train_chunk(0, 1))
        messages = host.receive_until("chunk_finished")
        values = {metric["name"]: metric["value"] for metric in messages[-2]["values"]}
        self.assertEqual(values, {"a": 1.0, "b": 3.0, "c": None})
        host.end()
        self.finish(process)

    def test_a_loss_that_is_never_logged_is_pointed_out(self) -> None:
        host, process = self.host(program('chunk.log({"train_loss": 1})'))
        host.send(train_chunk(0, 1))
        host.receive_until("chunk_finished")
        host.end()
        expected = (
            f"tinygate: the loss of {STAGE} is the metric `loss`, which chunk 1 did not log, so its gate fails; "
            "it logged `train_loss`\n"
        )
        self.assertEqual(self.finish(process)[1], expected)

    def test_progress(self) -> None:
        host, process = self.host(program())
        host.send(train_chunk(0, 10))
        message = host.receive()
        while message["report"] != "progress":
            message = host.receive()
        self.assertEqual((message["step"], message["gate"], message["target"], message["loss"]), (1, 10, 100, 1.0))
        host.receive_until("chunk_finished")
        host.end()
        self.finish(process)


class Measuring(TestCase):
    def test_without_a_predictor(self) -> None:
        host, process = self.host(program())
        host.send(MEASURE)
        message = host.receive()
        self.assertEqual((message["stage"], message["trivial"], message["predictor"]), (STAGE, [], "none"))
        host.end()
        self.finish(process)

    def test_with_a_predictor(self) -> None:
        measure = 'run.on_measure("constant", lambda stage: {"trivial": stage.settings["width"] / 2})'
        host, process = self.host(program(before=measure))
        host.send(MEASURE)
        message = host.receive()
        self.assertEqual((message["trivial"], message["predictor"]), ([{"name": "trivial", "value": 1.5}], "constant"))
        host.end()
        self.finish(process)


class Stops(TestCase):
    def test_a_stop_writes_a_checkpoint(self) -> None:
        body = 'chunk.log({"loss": 1})\nif update == 3:\n    print("at 3", flush=True); wait_for_stop()'
        host, process = self.host(program(body, after=SCORE + '\nchunk.log({"late": 1})\nprint("stopped", chunk.stopped)'))
        host.send(train_chunk(0, 10))
        self.assertEqual(process.stdout.readline(), "at 3\n")
        host.send({"command": "stop", "signal": "SIGTERM"})
        messages = host.receive_until("interrupted")
        self.assertEqual(checkpoints(messages), [2, 3])
        self.assertEqual(len(samples(messages)), 3)
        self.assertEqual(messages[-1]["signal"], "SIGTERM")
        output, errors = self.finish(process)
        self.assertEqual((output, errors), ("stopped True\n", ""))

    def test_a_stop_after_a_checkpoint_writes_no_second_one(self) -> None:
        for name, update, expected in [("inside the chunk", 4, [2, 4]), ("at its end", 10, [2, 4, 6, 8, 10])]:
            with self.subTest(name):
                body = f'if update == {update}:\n    print("there", flush=True); wait_for_stop()'
                host, process = self.host(program(body, after=SCORE))
                host.send(train_chunk(0, 10))
                self.assertEqual(process.stdout.readline(), "there\n")
                host.send({"command": "stop", "signal": "SIGINT"})
                messages = host.receive_until("interrupted")
                self.assertEqual(checkpoints(messages), expected)
                self.assertEqual(kind(messages[-2]), "checkpoint_written")
                self.finish(process)

    def test_a_stop_before_the_first_command(self) -> None:
        host, process = self.host(program(start='print("started a chunk")'))
        host.send({"command": "stop", "signal": "SIGHUP"})
        host.send(train_chunk(0, 10))
        self.assertEqual(host.receive()["signal"], "SIGHUP")
        self.assertIsNone(host.receive_or_end())
        self.assertEqual(self.finish(process)[0], "")

    def test_a_stop_before_the_first_update_of_a_chunk(self) -> None:
        host, process = self.host(program(start='print("waiting", flush=True); wait_for_stop()'))
        host.send(train_chunk(10, 20))
        self.assertEqual(process.stdout.readline(), "waiting\n")
        host.send({"command": "stop", "signal": "SIGTERM"})
        self.assertEqual(kinds(host.receive_until("interrupted")), ["interrupted"])
        self.finish(process)

    def test_a_stop_while_a_stage_is_measured(self) -> None:
        before = (
            "def measure(stage):\n"
            '    print("measuring", flush=True); wait_for_stop()\n'
            '    return {"trivial": 1}\n'
            'run.on_measure("constant", measure)'
        )
        host, process = self.host(program(before=before))
        host.send(MEASURE)
        self.assertEqual(process.stdout.readline(), "measuring\n")
        host.send({"command": "stop", "signal": "SIGTERM"})
        self.assertEqual(kind(host.receive()), "stage_measured")
        host.send(train_chunk(0, 10))
        self.assertEqual(kind(host.receive()), "interrupted")
        self.finish(process)


class Failures(TestCase):
    def fails(self, source: str, command: dict[str, object], status: int = 1) -> tuple[list[dict[str, object]], str]:
        """What a program reports that fails, without metrics, and its errors."""
        host, process = self.host(source)
        host.send(command)
        messages = []
        while (message := host.receive_or_end()) is not None:
            if kind(message) not in ("metrics_logged", "progress"):
                messages.append(message)
        return messages, self.finish(process, status)[1]

    def test_an_error_is_left_to_the_traceback(self) -> None:
        messages, errors = self.fails(program('raise ValueError("no luck")'), train_chunk(0, 10))
        self.assertEqual(messages, [])
        self.assertIn("ValueError: no luck", errors)

    def test_running_out_of_memory(self) -> None:
        rows = [
            ("MemoryError()", "MemoryError: "),
            ('RuntimeError("CUDA out of memory. Tried")', "RuntimeError: CUDA out of memory. Tried"),
            ('type("OutOfMemoryError", (RuntimeError,), {})("none left")', "OutOfMemoryError: none left"),
            (
                'RuntimeError("DefaultCPUAllocator: can\'t allocate memory")',
                "RuntimeError: DefaultCPUAllocator: can't allocate memory",
            ),
        ]
        for error, detail in rows:
            with self.subTest(error):
                messages, errors = self.fails(program(f"if update == 2: raise {error}"), train_chunk(0, 10))
                self.assertEqual(kinds(messages), ["chunk_failed"])
                self.assertEqual(messages[0]["step"], 1)
                self.assertEqual(messages[0]["failure"], {"failure": "out_of_memory", "detail": detail})
                self.assertIn("Traceback", errors)

    def test_a_checkpoint_that_cannot_be_loaded(self) -> None:
        start = "def read(folder):\n    raise ValueError(folder.name)\nchunk.load(read)"
        messages, _ = self.fails(program(start=start), train_chunk(10, 20))
        self.assertEqual(kinds(messages), ["chunk_failed"])
        path = f"{STAGE}/checkpoints/{STAGE}_step_10"
        failure = {"failure": "checkpoint_unloadable", "path": path, "detail": f"ValueError: {STAGE}_step_10"}
        self.assertEqual((messages[0]["step"], messages[0]["failure"]), (10, failure))

    def test_memory_that_runs_out_while_loading_is_not_the_checkpoints_fault(self) -> None:
        start = "def read(folder):\n    raise MemoryError\nchunk.load(read)"
        messages, _ = self.fails(program(start=start), train_chunk(10, 20))
        self.assertEqual(messages[0]["failure"], {"failure": "out_of_memory", "detail": "MemoryError: "})

    def test_files_that_cannot_be_read_or_written_are_the_environments_fault(self) -> None:
        full = 'OSError(28, "No space left on device")'
        rows = [
            ("load", program(start='chunk.load(lambda folder: open(folder / "x"))'), "FileNotFoundError: "),
            (
                "save",
                program(before=f"def save(folder): raise {full}").replace("def save(folder):\n", "def unused(folder):\n", 1),
                f"the checkpoint `{STAGE}/checkpoints/{STAGE}_step_12` cannot be written: OSError: [Errno 28]",
            ),
            ("elsewhere", program(f"raise {full}"), "OSError: [Errno 28]"),
        ]
        for name, source, detail in rows:
            with self.subTest(name):
                messages, errors = self.fails(source, train_chunk(10, 20))
                self.assertEqual(kinds(messages), ["environment"])
                self.assertEqual(messages[0]["detail"][: len(detail)], detail)
                self.assertIn("Traceback", errors)

    def test_misuse_is_an_error_that_says_what_to_do(self) -> None:
        log = 'chunk.log({"loss": 1})'
        rows = [
            ("logged twice", program(f"{log}\n{log}"), "the metric `loss` was logged at update 1 already"),
            ("logged before the loop", program(start=log), "no update was done yet: log metrics inside the loop"),
            ("logged text", program('chunk.log({"loss": "1"})'), "the metric `loss` is not one number: it is of type str"),
            ("scored in the loop", program('chunk.score({"a": 1})'), "score after the loop over chunk.updates()"),
            ("saved before the loop", program(start="chunk.save(save)"), "there is nothing to save"),
            ("left updates early", program("break"), "chunk 1 ended after update 0 of 10: iterate over chunk.updates()"),
            ("no files", program(start="save = lambda folder: None"), "the checkpoint has no files"),
            (
                "a link",
                program(start='save = lambda folder: os.symlink("/etc/passwd", folder / "link")'),
                "`link` is neither a file nor a folder: a checkpoint cannot have links",
            ),
            ("connected twice", program(start="tinygate.connect()"), "a program connects once"),
        ]
        for name, source, expected in rows:
            with self.subTest(name):
                messages, errors = self.fails(source, train_chunk(0, 10))
                self.assertNotIn("chunk_failed", kinds(messages))
                self.assertIn(expected, errors)

    def test_leaving_the_loop_over_chunks_is_pointed_out(self) -> None:
        messages, errors = self.fails(program(after="break"), train_chunk(0, 1), status=0)
        self.assertEqual(kinds(messages), ["checkpoint_written"])
        self.assertEqual(errors, f"tinygate: the program left the loop over run.chunks() in {STAGE} chunk 1\n")

    def test_a_checkpoint_that_failed_has_no_name(self) -> None:
        body = 'def save(folder):\n    (folder / "half").write_text("half")\n    raise ValueError\nchunk.save(save)'
        host, process = self.host(program(body))
        host.send(train_chunk(0, 10))
        self.assertIsNone(host.receive_or_end())
        self.finish(process, 1)
        found = [path.name for path in (host.directory / STAGE / "checkpoints").iterdir()]
        self.assertEqual(found, [f".{STAGE}_step_1.partial"])


class Messages(unittest.TestCase):
    def test_the_checker_notices_what_is_wrong(self) -> None:
        good = {"version": 1, "report": "interrupted", "signal": "SIGINT"}
        self.assertEqual(problems_of(good), [])
        rows = [
            ({**good, "version": 2}, "not a message of version 1"),
            ({**good, "extra": 1}, "unknown field `extra`"),
            ({"version": 1, "report": "interrupted"}, "missing field `signal`"),
            ({**good, "signal": 2}, "`signal` is 2"),
            ({"version": 1, "report": "fact", "fact": "stage_stopped"}, "unknown message"),
            (json.loads("[]"), "not a message of version 1"),
        ]
        for message, expected in rows:
            with self.subTest(expected):
                self.assertEqual(problems_of(message), [expected])


if __name__ == "__main__":
    unittest.main()
