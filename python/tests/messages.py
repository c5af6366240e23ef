"""The messages of version 1 of the protocol, field by field. docs/protocol.md describes the same rows."""

from __future__ import annotations

import re
from typing import Any, Callable

Check = Callable[[Any], bool]
Fields = dict[str, Check]


def text(value: Any) -> bool:
    return isinstance(value, str)


def count(value: Any) -> bool:
    return type(value) is int and value >= 0


def number(value: Any) -> bool:
    return type(value) in (int, float) or value in ("nan", "inf", "-inf")


def flag(value: Any) -> bool:
    return isinstance(value, bool)


def table(value: Any) -> bool:
    return isinstance(value, dict)


def path(value: Any) -> bool:
    return text(value) and not value.startswith("/") and all(part not in ("", ".", "..") for part in value.split("/"))


def hash_of_file(value: Any) -> bool:
    return text(value) and re.fullmatch("[0-9a-f]{64}", value) is not None


def optional(check: Check) -> Check:
    return lambda value: value is None or check(value)


def each(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(check(item) for item in value)


def fields(**rows: Check) -> Check:
    return lambda value: isinstance(value, dict) and not problems(value, rows)


def steps(value: Any) -> bool:
    return fields(list=each(count))(value) or fields(stride=fields(first=count, stride=count))(value)


metric = fields(name=text, value=optional(number))
checkpoint = fields(path=path, step=count)
#: Checkpoints that a user gave can be outside of the run directory.
given_checkpoint = fields(path=text, step=count)
recorded_file = fields(name=path, size=count, blake3=hash_of_file)
upstream = fields(stage=text, checkpoint=given_checkpoint, files=each(recorded_file))
resume = fields(checkpoint=given_checkpoint, samples_seen=count, files=each(recorded_file), fresh_optimizer=flag)


def written_file(value: Any) -> bool:
    return fields(name=path, size=count)(value) or recorded_file(value)


def column(value: Any) -> bool:
    if not fields(name=text, steps=steps, values=each(number))(value):
        return False
    return len(value["steps"].get("list", value["values"])) == len(value["values"])


CHUNK: Fields = {"stage": text, "chunk": count, "attempt": count}
FAILURES: dict[str, Fields] = {
    "out_of_memory": {"detail": text},
    "checkpoint_unloadable": {"path": text, "detail": text},
    "worker_exited": {"status": text, "stderr": text},
}


def failure(value: Any) -> bool:
    rows = FAILURES.get(value.get("failure")) if table(value) else None
    return rows is not None and not problems(value, {"failure": text, **rows})


FACTS: dict[str, Fields] = {
    "stage_measured": {"stage": text, "trivial": each(metric), "predictor": text},
    "metrics_logged": {**CHUNK, "columns": each(column)},
    "checkpoint_written": {**CHUNK, "checkpoint": checkpoint, "samples_seen": count, "files": each(written_file)},
    "held_out_scored": {**CHUNK, "step": count, "values": each(metric)},
    "chunk_finished": {**CHUNK, "step": count, "samples_seen": count, "seconds": number},
    "chunk_failed": {**CHUNK, "step": count, "failure": failure},
}
REPORTS: dict[str, Fields] = {
    "hello": {
        "token": text,
        "name": text,
        "ranks": each(fields(rank=count, pid=count, start_time=optional(count))),
        "torch": optional(text),
    },
    "progress": {
        "stage": text,
        "step": count,
        "gate": count,
        "target": count,
        "loss": number,
        "updates_per_second": number,
    },
    "interrupted": {"signal": text},
    "environment": {"detail": text},
}
COMMANDS: dict[str, Fields] = {
    "welcome": {"directory": text, "config": table},
    "measure_stage": {"stage": text, "model": text, "settings": table, "upstream": each(upstream)},
    "train_chunk": {
        **CHUNK,
        "model": text,
        "restart": count,
        "from": count,
        "to": count,
        "settings": table,
        "resume": optional(resume),
        "upstream": each(upstream),
        "taken": each(path),
    },
    "stop": {"signal": text},
    "end": {},
}


def problems(message: dict[str, Any], rows: Fields) -> list[str]:
    """What is wrong with the fields of a message."""
    unknown = [f"unknown field `{name}`" for name in message if name not in rows]
    missing = [f"missing field `{name}`" for name in rows if name not in message]
    wrong = [f"`{name}` is {message[name]!r}" for name, check in rows.items() if name in message and not check(message[name])]
    return unknown + missing + wrong


def problems_of(message: Any) -> list[str]:
    """What is wrong with a message, a report or a command."""
    if not table(message) or message.get("version") != 1:
        return ["not a message of version 1"]
    header: Fields = {"version": count}
    if "command" in message:
        rows = COMMANDS.get(message["command"])
        header["command"] = text
    elif message.get("report") == "fact":
        rows = FACTS.get(message.get("fact", ""))
        header.update(report=text, fact=text)
    else:
        rows = REPORTS.get(message.get("report", ""))
        header["report"] = text
    if rows is None:
        return ["unknown message"]
    return problems(message, {**header, **rows})
