"""The ranks that train together, over ``torch.distributed``."""

from __future__ import annotations

import contextlib
import datetime
import os
import sys
from typing import Any

#: How long a rank waits for the others. tinygate itself limits how long a program may be silent.
_WAIT = datetime.timedelta(days=7)
#: How long a rank that failed waits for rank 0 to hear of it, before its exit makes the launcher end all ranks.
_HEARD_WAIT = datetime.timedelta(seconds=5)
_FAILURES = "tinygate/failures"
_DETAIL = "tinygate/failure"
_HEARD = "tinygate/heard"


class Ranks:
    """This process's rank, and messages among the ranks. With one rank nothing is sent."""

    def __init__(self, rank: int, size: int, distributed: Any = None, group: Any = None) -> None:
        self.rank = rank
        self.size = size
        self._distributed = distributed
        self._group = group
        # Unlike a group, the store works while other ranks are stuck.
        default_store = getattr(getattr(distributed, "distributed_c10d", None), "_get_default_store", None)
        self._store = None if default_store is None else default_store()

    @classmethod
    def of_this_job(cls) -> Ranks:
        """The ranks of ``torch.distributed`` if it is initialized. Every rank must call this.

        :raises RuntimeError: if the launcher started several ranks and they are not connected yet.
        """
        distributed: Any = sys.modules.get("torch.distributed")
        if distributed is not None and distributed.is_available() and distributed.is_initialized():
            rank, size = distributed.get_rank(), distributed.get_world_size()
            if size == 1:
                return cls(0, 1)
            # A group of our own, on the CPU: messages neither wait for a GPU nor use the timeout of training.
            group = distributed.new_group(backend="gloo", timeout=_WAIT)
            return cls(rank, size, distributed, group)
        started = os.environ.get("WORLD_SIZE", "1")
        if started != "1":
            raise RuntimeError(
                f"WORLD_SIZE is {started}, but the ranks are not connected: call "
                "torch.distributed.init_process_group() before tinygate.connect()"
            )
        return cls(0, 1)

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        if self._distributed is None:
            return value
        box = [value]
        self._distributed.broadcast_object_list(box, src=0, group=self._group)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, on every rank."""
        if self._distributed is None:
            return [value]
        values: list[Any] = [None] * self.size
        self._distributed.all_gather_object(values, value, group=self._group)
        return values

    def barrier(self) -> None:
        """Waits until every rank is here."""
        if self._distributed is not None:
            self._distributed.barrier(group=self._group)

    def tell_failure(self, detail: str) -> None:
        """Tells rank 0 why this rank fails, and waits until it has heard."""
        if self._store is not None and self.rank != 0:
            with contextlib.suppress(Exception):
                self._store.set(_DETAIL, f"rank {self.rank}: {detail}")
                self._store.add(_FAILURES, 1)
                self._store.wait([_HEARD], _HEARD_WAIT)

    def told_failure(self) -> str | None:
        """Why another rank failed, if one said so. For rank 0; does not wait."""
        if self._store is None or self.rank != 0:
            return None
        with contextlib.suppress(Exception):
            if self._store.add(_FAILURES, 0) > 0:
                return bytes(self._store.get(_DETAIL)).decode()
        return None

    def heard_failure(self) -> None:
        """Lets the rank that failed exit."""
        if self._store is not None:
            with contextlib.suppress(Exception):
                self._store.set(_HEARD, "1")
