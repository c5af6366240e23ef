"""Samples of metrics, reported in blocks."""

from __future__ import annotations

import threading
import time
from typing import Any, Callable

from ._numbers import Scalar

#: How long a sample waits to be reported, in seconds.
_WAIT_SECONDS = 0.5
#: The most samples in a report, which keeps its line far below the limit of the protocol.
_SAMPLES_MAX = 2048


class Samples:
    """Gathers samples in columns. Any thread may flush them: blocks are sent in the order of their samples."""

    def __init__(self, send: Callable[[list[dict[str, Any]]], None]) -> None:
        self._send = send
        self._lock = threading.Lock()
        self._columns: dict[str, list[tuple[int, Scalar]]] = {}
        self._count = 0
        self._since: float | None = None
        self._update = -1
        self._logged: set[str] = set()
        #: The names of all metrics so far.
        self.names: set[str] = set()

    def add(self, update: int, values: dict[str, Scalar]) -> None:
        """Adds the metrics of an update.

        :raises ValueError: if one of them was logged at this update already.
        """
        with self._lock:
            if update != self._update:
                self._update = update
                self._logged.clear()
            for name in values:
                if name in self._logged:
                    raise ValueError(f"the metric `{name}` was logged at update {update} already: log it once per update")
            for name, value in values.items():
                self._columns.setdefault(name, []).append((update, value))
                self._logged.add(name)
                self.names.add(name)
                self._count += 1
                if self._count >= _SAMPLES_MAX:
                    self._flush()
            if self._since is None:
                self._since = time.monotonic()

    def flush(self) -> None:
        """Reports all samples."""
        with self._lock:
            self._flush()

    def flush_old(self) -> None:
        """Reports all samples if one has waited long enough."""
        with self._lock:
            if self._since is not None and time.monotonic() - self._since >= _WAIT_SECONDS:
                self._flush()

    def _flush(self) -> None:
        columns, self._columns = self._columns, {}
        self._count = 0
        self._since = None
        if columns:
            self._send(
                [
                    {
                        "name": name,
                        "steps": {"list": [update for update, _ in samples]},
                        "values": [value for _, value in samples],
                    }
                    for name, samples in columns.items()
                ]
            )
