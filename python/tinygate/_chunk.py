"""A chunk of training: its updates, metrics, checkpoints and scores."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, TypeVar

from ._checkpoint import Checkpoint, Folder, free_path, is_environment, is_full_disk, remove_partial
from ._connection import Message
from ._numbers import Scalar, metric_name, metrics, scalar
from ._samples import Samples

if TYPE_CHECKING:
    from ._session import Session

T = TypeVar("T")
#: Writes a checkpoint's files into the folder that it gets.
Save = Callable[[Path], Any]

#: Between two progress reports, in seconds.
_PROGRESS_SECONDS = 0.1
#: About how often several ranks ask rank 0 whether to stop, in seconds.
_STOP_SECONDS = 0.2
#: The name of the loss in stages that do not define it.
_LOSS = "train/loss"
_DETAIL_CHARACTERS = 2000


class Chunk:
    """What to train next: some updates of a stage.

    An update is one step of the optimizer. Updates are counted from 1 through all chunks of a stage. Every rank uses its
    chunk in the same way; rank 0 alone reports and writes files.
    """

    def __init__(self, session: Session, command: Message) -> None:
        resume = command["resume"]
        #: The stage, and what its config calls its model.
        self.stage: str = command["stage"]
        self.model: str = command["model"]
        #: Counted from 1.
        self.number: int = command["chunk"]
        #: Counted from 1; more than 1 if the chunk failed before.
        self.attempt: int = command["attempt"]
        #: How often the stage was restarted.
        self.restart: int = command["restart"]
        #: The settings in force: learning_rate, batch_size_per_gpu, ..., and the stage's knobs. A gate may change them
        #: between chunks, so read them in every chunk.
        self.settings: dict[str, Any] = command["settings"]
        #: The checkpoint to continue from; None for fresh weights. See `load`.
        self.resume: Checkpoint | None = Checkpoint(session.directory, resume["checkpoint"]) if resume else None
        #: Whether to use only the weights of that checkpoint and start the optimizer afresh.
        self.fresh_optimizer: bool = bool(resume and resume["fresh_optimizer"])
        #: The checkpoints of the stages that this one builds on, by the name of the stage.
        self.upstream: dict[str, Checkpoint] = {
            model["stage"]: Checkpoint(session.directory, model["checkpoint"]) for model in command["upstream"]
        }
        #: The last update of the chunk.
        self.last: int = command["to"]
        #: Whether tinygate asked to stop before the chunk's end.
        self.stopped = False

        self._session = session
        self._from: int = command["from"]
        self._start: int = self.resume.update if self.resume else 0
        self._samples_at_start: int = resume["samples_seen"] if resume else 0
        self._resume_path: str = resume["checkpoint"]["path"] if resume else ""
        self._taken: set[str] = set(command["taken"])
        #: The update in progress, or the last one.
        self._update = self._start
        #: The last update that is done.
        self._done = self._start
        self._saved = self._start
        self._scores: dict[str, Message] = {}
        self._begun = time.monotonic()
        self._progressed = 0.0
        self._look_at = self._start
        self._looked = self._start, self._begun
        self._loss_name: str = session.stage_config(self.stage).get("loss", _LOSS)
        self._loss: Scalar = "nan"
        self._samples = Samples(lambda columns: self._report("metrics_logged", columns=columns))
        if session.is_leader:
            remove_partial(session.directory, self.stage)

    @property
    def first(self) -> int:
        """The first update to do. Above `last` if all were done before a crash, and only the scores are missing."""
        return self._start + 1

    @property
    def samples_seen(self) -> int:
        """Samples that the stage has trained on, up to the current update."""
        each = self.settings["batch_size_per_gpu"] * self.settings["gradient_accumulation_steps"] * self._session.ranks.size
        return self._samples_at_start + (self._update - self._start) * int(each)

    def load(self, read: Callable[[Path], T]) -> T | None:
        """Returns ``read(folder)`` of the checkpoint to continue from, or None for fresh weights.

        If `read` raises, the chunk fails because of its checkpoint: tinygate checks the files again, and falls back to an
        older checkpoint if they are damaged.
        """
        self._session.check_owner()
        if self.resume is None:
            return None
        try:
            return read(self.resume.path)
        except Exception as error:
            if isinstance(error, OSError):
                self._session.leave({"report": "environment", "detail": _detail(error)})
            elif not is_out_of_memory(error):
                failure = {"failure": "checkpoint_unloadable", "path": self._resume_path, "detail": _detail(error)}
                self._fail(failure)
            raise

    def updates(self, save: Save, *, every_rank: bool = False) -> Iterator[int]:
        """The updates to do, one after another. The body of the loop does one.

        `save` writes a checkpoint of the weights after an update. It is called when one is due: at the stage's interval, at
        the end of the chunk, and before a stop, which ends the loop early. See `save` for `every_rank`.
        """
        self._session.check_owner()
        interval = max(1, self.settings["checkpoint_interval"] or self.settings["chunk_size"] // 5)
        while True:
            signal = self._stop_signal()
            if signal is not None:
                if self._saved != self._done:
                    self.save(save, every_rank=every_rank)
                self._interrupt(signal)
                return
            if self._done >= self.last:
                return
            self._update = self._done + 1
            yield self._update
            self._done = self._update
            self._report_progress()
            if self._done == self.last or (self._done - self._from) % interval == 0:
                self.save(save, every_rank=every_rank)

    def log(self, values: Mapping[str, Any]) -> None:
        """Logs metrics of the current update, such as ``{"loss": loss}``.

        Values are numbers, or tensors with one element. Log each metric once per update. Inside the loop over `updates` the
        current update is the one in progress, after it the last one. Only rank 0 reports.
        """
        self._session.check_owner()
        if self.stopped or not self._session.is_leader:
            return
        if self._update == self._start < self.last:
            raise ValueError("no update was done yet: log metrics inside the loop over chunk.updates(), or after it")
        numbers = {metric_name(name): scalar(name, value) for name, value in values.items()}
        self._loss = numbers.get(self._loss_name, self._loss)
        self._samples.add(self._update, numbers)

    def score(self, values: Mapping[str, Any]) -> None:
        """Sets held-out values for the gate, such as ``{"held_out_loss": 0.3}``. Call it after the loop over `updates`.

        Has no effect after a stop, since there is no gate then.
        """
        self._session.check_owner()
        if self.stopped:
            return
        if self._done < self.last:
            raise ValueError("the chunk is not done: score after the loop over chunk.updates()")
        if self._session.is_leader:
            self._scores.update((score["name"], score) for score in metrics(values))

    def save(self, write: Save, *, every_rank: bool = False) -> None:
        """Writes a checkpoint of the current update, in addition to those of `updates`. Every rank must call it.

        ``write(folder)`` writes the files on rank 0 while the other ranks wait; with `every_rank` it runs on all of them, as
        sharded models need. tinygate sees the folder only when it is complete and durable.
        """
        self._session.check_owner()
        session, update = self._session, self._update
        if update == self._start:
            raise ValueError("no update was done yet: there is nothing to save")
        if self._saved == update:
            return
        self._samples.flush()
        folder = Folder(session.directory, free_path(self.stage, update, self._taken))
        try:
            if session.is_leader:
                folder.begin()
            if every_rank:
                session.ranks.barrier()
            if every_rank or session.is_leader:
                write(folder.temporary)
            session.ranks.barrier()
            files = folder.finish() if session.is_leader else []
        except Exception as error:
            if is_environment(error, session.directory) and not is_out_of_memory(error):
                detail = f"the checkpoint `{folder.path}` cannot be written: {_detail(error)}"
                session.leave({"report": "environment", "detail": detail})
            raise
        checkpoint = {"path": folder.path, "step": update}
        self._report("checkpoint_written", checkpoint=checkpoint, samples_seen=self.samples_seen, files=files)
        self._saved = update
        self._taken.add(folder.path)

    def _look(self) -> None:
        """Reports samples that have waited long enough, and a failure of another rank. Called by another thread."""
        self._samples.flush_old()
        detail = self._session.ranks.told_failure()
        if detail is not None:
            self._fail({"failure": "out_of_memory", "detail": detail})
            self._session.ranks.heard_failure()

    def _complete(self) -> bool:
        """Reports the chunk as finished. False if it was stopped.

        :raises RuntimeError: if the loop over `updates` was left early.
        """
        if self.stopped:
            return False
        if self._done < self.last:
            raise RuntimeError(
                f"{self.stage} chunk {self.number} ended after update {self._done} of {self.last}: "
                "iterate over chunk.updates() to its end"
            )
        self._samples.flush()
        self._warn_without_loss()
        if self._scores:
            self._report("held_out_scored", step=self.last, values=list(self._scores.values()))
        seconds = time.monotonic() - self._begun
        self._report("chunk_finished", step=self.last, samples_seen=self.samples_seen, seconds=seconds)
        return True

    def _report_error(self, error: BaseException) -> None:
        """Reports an error that ended the loop, if it is not simply one of the program."""
        if is_out_of_memory(error):
            self._session.ranks.tell_failure(_detail(error))
            self._fail({"failure": "out_of_memory", "detail": _detail(error)})
        elif is_full_disk(error):
            self._session.leave({"report": "environment", "detail": _detail(error)})

    def _report(self, fact: str, **fields: Any) -> None:
        subject = {"stage": self.stage, "chunk": self.number, "attempt": self.attempt}
        self._session.send({"report": "fact", "fact": fact, **subject, **fields})

    def _report_progress(self) -> None:
        now = time.monotonic()
        if now - self._progressed < _PROGRESS_SECONDS:
            return
        self._progressed = now
        self._session.send(
            {
                "report": "progress",
                "stage": self.stage,
                "step": self._done,
                "gate": self.last,
                "target": self.settings["n_updates"],
                "loss": self._loss,
                "updates_per_second": (self._done - self._start) / max(now - self._begun, 1e-9),
            }
        )

    def _stop_signal(self) -> str | None:
        """The signal to stop for. All ranks get the same answer at the same update."""
        ranks, update = self._session.ranks, self._done
        if ranks.size == 1:
            return self._session.stop_signal
        if update < self._look_at and update != self.last:
            return None
        (looked, since), now = self._looked, time.monotonic()
        self._looked = update, now
        # Rank 0 decides when the ranks look again, since their clocks differ.
        per_second = (update - looked) / max(now - since, 1e-9)
        answer = self._session.stop_signal, update + max(1, int(per_second * _STOP_SECONDS))
        signal, self._look_at = ranks.broadcast(answer)
        return None if signal is None else str(signal)

    def _interrupt(self, signal: str) -> None:
        self._samples.flush()
        self.stopped = True
        self._session.leave({"report": "interrupted", "signal": signal})

    def _fail(self, failure: Message) -> None:
        subject = {"stage": self.stage, "chunk": self.number, "attempt": self.attempt}
        fact = {"report": "fact", "fact": "chunk_failed", **subject, "step": self._done, "failure": failure}
        self._samples.flush()
        self._session.leave(fact)

    def _warn_without_loss(self) -> None:
        names = self._samples.names
        if self._session.is_leader and self._start < self.last and self._loss_name not in names:
            logged = ", ".join(f"`{name}`" for name in sorted(names)) or "nothing"
            sys.stderr.write(
                f"tinygate: the loss of {self.stage} is the metric `{self._loss_name}`, which chunk {self.number} did not log, "
                f"so its gate fails; it logged {logged}\n"
            )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the CPU or on a device."""
    if isinstance(error, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def _detail(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:_DETAIL_CHARACTERS]
