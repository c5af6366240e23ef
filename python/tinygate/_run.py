"""A run as its trainer sees it: chunks to train, one after another."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Callable

from ._checkpoint import Checkpoint
from ._chunk import Chunk
from ._connection import SOCKET_VARIABLE, ConnectionLost, Message, ProtocolError
from ._numbers import metrics
from ._processes import watch_parent
from ._ranks import Ranks
from ._session import Session

#: Between two looks at what waits to be reported, in seconds.
_LOOK_SECONDS = 0.25

_connected = False


def started() -> bool:
    """Whether tinygate started this program, so that `connect` can succeed."""
    return bool(os.environ.get(SOCKET_VARIABLE))


def connect(*, name: str | None = None) -> Run:
    """Connects to the tinygate that started this program. Use the result in a ``with`` statement.

    Call it once, on every rank. With several ranks, call ``torch.distributed.init_process_group`` before: rank 0 alone talks
    to tinygate, and tells the others what to train.

    :param name: how the log calls this trainer; by default the name of the script.
    :raises NotStarted: if tinygate did not start this program.
    :raises ConnectionLost: if tinygate cannot be reached.
    """
    global _connected
    if _connected:
        raise RuntimeError("this process has called tinygate.connect() before: a program connects once")
    session = Session(Ranks.of_this_job(), name or Path(sys.argv[0]).name or "python")
    _connected = True
    # Only now: a program that trains without tinygate may outlive its parent.
    watch_parent()
    return Run(session)


class Stage:
    """A stage whose trivial predictor is to be measured."""

    def __init__(self, directory: Path, command: Message) -> None:
        self.name: str = command["stage"]
        #: What the config calls the stage's model.
        self.model: str = command["model"]
        #: The settings in force.
        self.settings: dict[str, Any] = command["settings"]
        #: The checkpoints of the stages that this one builds on, by the name of the stage.
        self.upstream: dict[str, Checkpoint] = {
            model["stage"]: Checkpoint(directory, model["checkpoint"]) for model in command["upstream"]
        }


Measure = Callable[[Stage], Mapping[str, Any]]


class Run:
    """The connection to tinygate, from `connect`."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._measure: tuple[str, Measure] | None = None
        self._chunk: Chunk | None = None
        if session.is_leader:
            threading.Thread(target=self._look, name="tinygate-look", daemon=True).start()

    @property
    def directory(self) -> Path:
        """The directory of the run."""
        return self._session.directory

    @property
    def config(self) -> dict[str, Any]:
        """The config of the run with all defaults, as in the log."""
        return self._session.config

    @property
    def rank(self) -> int:
        """The rank of this process, from 0."""
        return self._session.ranks.rank

    @property
    def world_size(self) -> int:
        """The number of ranks."""
        return self._session.ranks.size

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        session = self._session
        if not session.is_owner:
            return
        chunk, self._chunk = self._chunk, None
        if error is None:
            if chunk is not None and not session.is_leaving:
                text = f"the program left the loop over run.chunks() in {chunk.stage} chunk {chunk.number}"
                sys.stderr.write(f"tinygate: {text}\n")
            session.close()
            return
        if chunk is not None and not session.is_leaving:
            with contextlib.suppress(ConnectionLost):
                chunk._report_error(error)
        session.close_after_traceback()

    def close(self) -> None:
        """Closes the connection. The ``with`` statement does it too."""
        self._session.close()

    def chunks(self) -> Iterator[Chunk]:
        """The chunks to train, until the run ends or tinygate asks to stop.

        A chunk is reported as finished when the loop asks for the next one.
        """
        self._session.check_owner()
        while True:
            command = self._session.next()
            if command is None:
                return
            kind = command.get("command")
            if kind == "measure_stage":
                self._measure_stage(Stage(self.directory, command))
            elif kind == "train_chunk":
                chunk = Chunk(self._session, command)
                self._chunk = chunk
                yield chunk
                completed = chunk._complete()
                self._chunk = None
                if not completed:
                    return
            else:
                raise ProtocolError(f"tinygate sent the command `{kind}`, which this package does not know")

    def on_measure(self, predictor: str, measure: Measure) -> None:
        """Sets how to measure the trivial predictor of a stage, which is done before its first chunk.

        ``measure(stage)`` returns its held-out values, such as ``{"trivial_loss": 0.7}``, and `predictor` is its name, such
        as ``"constant"``. Without it the skill of a stage is unknown. It runs on every rank; rank 0 reports.
        """
        self._measure = predictor, measure

    def _measure_stage(self, stage: Stage) -> None:
        predictor, values = "none", metrics({})
        if self._measure is not None:
            predictor, measure = self._measure
            values = metrics(measure(stage))
        fact = {"report": "fact", "fact": "stage_measured", "stage": stage.name, "trivial": values, "predictor": predictor}
        self._session.send(fact)

    def _look(self) -> None:
        """Does what must be done while the main thread trains. Runs on a thread of its own."""
        # The thread that receives commands reports a lost connection.
        with contextlib.suppress(ConnectionLost):
            while not self._session.is_leaving:
                chunk = self._chunk
                if chunk is not None:
                    chunk._look()
                time.sleep(_LOOK_SECONDS)
