"""This program's side of the protocol: commands in, reports out."""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
from pathlib import Path
from typing import Any

from ._connection import TOKEN_VARIABLE, Connection, ConnectionLost, Message, ProtocolError
from ._processes import exit_now, identity
from ._ranks import Ranks

#: After an error the connection stays open this long, so that the traceback is printed before tinygate ends the process.
_TRACEBACK_SECONDS = 5.0


class Session:
    """Speaks with tinygate on rank 0, and passes on to the other ranks what they must know."""

    def __init__(self, ranks: Ranks, name: str) -> None:
        self.ranks = ranks
        #: The signal for which tinygate asked to stop. Only rank 0 knows it.
        self.stop_signal: str | None = None
        #: The last report was sent, so the end of the connection is no error.
        self.is_leaving = False
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._commands: queue.Queue[Message | None] = queue.Queue()
        self._connection: Connection | None = None
        welcome = ranks.broadcast(self._greet(name, ranks.gather(identity(ranks.rank))))
        self.directory = Path(welcome["directory"])
        self.config: dict[str, Any] = welcome["config"]
        if self._connection is not None:
            threading.Thread(target=self._receive, args=(self._connection,), name="tinygate-receive", daemon=True).start()

    @property
    def is_leader(self) -> bool:
        """Whether this is rank 0."""
        return self.ranks.rank == 0

    @property
    def is_owner(self) -> bool:
        """Whether this process connected. A fork of it did not."""
        return self._pid == os.getpid()

    def check_owner(self) -> None:
        """:raises RuntimeError: in a fork of the process that connected."""
        if not self.is_owner:
            raise RuntimeError("this process is a fork, such as a DataLoader worker: use tinygate in the process that connected")

    def stage_config(self, stage: str) -> dict[str, Any]:
        """The table of a stage in the config."""
        table = self.config.get(stage)
        return table if isinstance(table, dict) else {}

    def next(self) -> Message | None:
        """Waits for the next command, on every rank. None at the end of the run, and after a request to stop."""
        command: Message | None = None
        if self.is_leader:
            command = self._commands.get()
            if command is not None and self.stop_signal is not None:
                self.leave({"report": "interrupted", "signal": self.stop_signal})
                command = None
        command = self.ranks.broadcast(command)
        return command

    def send(self, message: Message) -> None:
        """Sends a report, on rank 0. Has no effect after the last one.

        :raises ConnectionLost: if tinygate is gone.
        """
        if self._connection is not None and not self.is_leaving:
            self._connection.send(message)

    def leave(self, message: Message) -> None:
        """Sends the last report. tinygate then waits for this process to exit."""
        with self._lock:
            was_leaving, self.is_leaving = self.is_leaving, True
        if self._connection is not None and not was_leaving:
            with contextlib.suppress(ConnectionLost):
                self._connection.send(message)

    def close(self) -> None:
        """Closes the connection. tinygate then ends this process unless it exits."""
        self.is_leaving = True
        if self._connection is not None:
            self._connection.close()

    def close_after_traceback(self) -> None:
        """Closes the connection later, in case other threads keep this process from exiting after an error."""
        self.is_leaving = True
        timer = threading.Timer(_TRACEBACK_SECONDS, self.close)
        timer.daemon = True
        timer.start()

    def _greet(self, name: str, ranks: list[Message]) -> Message:
        """Connects, on rank 0. Returns the answer."""
        if not self.is_leader:
            return {}
        connection = Connection.open()
        torch: Any = sys.modules.get("torch")
        hello = {
            "report": "hello",
            "token": os.environ.get(TOKEN_VARIABLE, ""),
            "name": name,
            "ranks": ranks,
            "torch": None if torch is None else str(torch.__version__),
        }
        connection.send(hello)
        welcome = connection.receive()
        if welcome.get("command") != "welcome":
            raise ProtocolError(f"tinygate answered with `{welcome.get('command')}`, expected `welcome`")
        self._connection = connection
        return welcome

    def _receive(self, connection: Connection) -> None:
        """Passes commands on until the run ends. Without tinygate, all further training would be lost."""
        try:
            while True:
                message = connection.receive()
                kind = message.get("command")
                if kind == "stop":
                    self.stop_signal = self.stop_signal or str(message.get("signal"))
                elif kind == "end":
                    self._commands.put(None)
                    return
                else:
                    self._commands.put(message)
        except (ConnectionLost, ProtocolError) as error:
            if not self.is_leaving:
                exit_now(str(error))
            self._commands.put(None)
