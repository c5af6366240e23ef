"""The connection to tinygate: JSON lines over a Unix socket."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from typing import Any

#: The version of the protocol that this package speaks.
VERSION = 1
#: Path of the socket, in the environment of a program that tinygate started.
SOCKET_VARIABLE = "TINYGATE_SOCKET"
#: One-time secret that the first line must contain.
TOKEN_VARIABLE = "TINYGATE_TOKEN"

_READ_BYTES = 1 << 16

Message = dict[str, Any]


class NotStarted(RuntimeError):
    """tinygate did not start this program."""


class ConnectionLost(RuntimeError):
    """tinygate exited, or closed the connection."""


class ProtocolError(RuntimeError):
    """tinygate sent something that this package does not understand."""


class Connection:
    """Sends and receives messages. One thread may receive; any thread may send.

    A process that was forked, such as a worker of a DataLoader, closes its copy of the socket and cannot use it.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._buffer = bytearray()
        self._lock = threading.Lock()
        # A copy of the socket would keep the connection open after this process has exited.
        os.register_at_fork(after_in_child=sock.close)

    @classmethod
    def open(cls) -> Connection:
        """Connects to the tinygate that started this program.

        :raises NotStarted: if the environment does not name a socket.
        :raises ConnectionLost: if tinygate does not listen at that socket.
        """
        path = os.environ.get(SOCKET_VARIABLE)
        if not path:
            raise NotStarted(
                f"{SOCKET_VARIABLE} is not set: tinygate did not start this program; put the program into "
                "`trainer.command` of a config and start it with `tinygate run CONFIG --dir DIR`"
            )
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(path)
        except OSError as error:
            sock.close()
            raise ConnectionLost(f"cannot connect to tinygate at {path}: {error}") from error
        return cls(sock)

    def send(self, message: Message) -> None:
        """Sends one message.

        :raises ConnectionLost: if tinygate is gone.
        """
        line = json.dumps({"version": VERSION, **message}, allow_nan=False, separators=(",", ":"))
        try:
            with self._lock:
                self._socket.sendall(line.encode("utf-8") + b"\n")
        except OSError as error:
            raise ConnectionLost(f"tinygate closed the connection: {error}") from error

    def receive(self) -> Message:
        """Waits for the next message.

        :raises ConnectionLost: if tinygate is gone.
        :raises ProtocolError: for a line that is not a message of this version.
        """
        try:
            message = json.loads(self._line())
        except ValueError as error:
            raise ProtocolError(f"tinygate sent a line that is not JSON: {error}") from error
        version = message.get("version") if isinstance(message, dict) else None
        if version != VERSION:
            raise ProtocolError(
                f"tinygate speaks version {version} of the protocol, but this package speaks {VERSION}: "
                "install the package of the same release as the program"
            )
        return dict(message)

    def _line(self) -> bytes:
        searched = 0
        while True:
            end = self._buffer.find(b"\n", searched)
            if end >= 0:
                line = bytes(self._buffer[:end])
                del self._buffer[: end + 1]
                return line
            searched = len(self._buffer)
            try:
                data = self._socket.recv(_READ_BYTES)
            except OSError as error:
                raise ConnectionLost(f"tinygate closed the connection: {error}") from error
            if not data:
                raise ConnectionLost("tinygate closed the connection")
            self._buffer += data

    def close(self) -> None:
        """Closes the connection; a receive in another thread returns."""
        # In a fork the socket is closed already, so this does not end the connection of the process that opened it.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
