"""The identity of this process, and its exit when its parent has exited."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import Any, NoReturn

#: Between two looks, in seconds.
_LOOK_SECONDS = 0.25


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot, from Linux's /proc; None elsewhere.

    The kernel reuses pids. A pid together with this time identifies a process.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name in parentheses may contain spaces and parentheses.
            fields = file.read().rpartition(b")")[2].split()
        return int(fields[19])
    except (OSError, ValueError, IndexError):
        return None


def identity(rank: int) -> dict[str, Any]:
    """This process, as the protocol describes a rank."""
    pid = os.getpid()
    return {"rank": rank, "pid": pid, "start_time": start_time(pid)}


def watch_parent() -> None:
    """Starts a thread that ends this process when its parent has exited. A launcher that was killed cannot end its ranks."""
    parent = os.getppid()

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_SECONDS)
        exit_now("the parent process exited")

    threading.Thread(target=look, name="tinygate-parent", daemon=True).start()


def exit_now(why: str) -> NoReturn:
    """Ends this process from any thread, whatever the main thread is doing."""
    # The main thread may hold the lock of sys.stderr.
    with contextlib.suppress(OSError):
        os.write(2, f"tinygate: {why}; this process exits\n".encode())
    os._exit(1)
