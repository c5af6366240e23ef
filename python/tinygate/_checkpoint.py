"""Checkpoints: folders that exist whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: With less free space than this, a failure to write is taken for a full disk. Bytes.
_FULL_BYTES = 16 << 20


class Checkpoint:
    """A checkpoint of the run: a folder."""

    def __init__(self, directory: Path, reference: Mapping[str, Any]) -> None:
        #: Its folder.
        self.path: Path = directory / reference["path"]
        #: Updates done.
        self.update: int = reference["step"]

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.path)!r}, update={self.update})"


class Folder:
    """Writes one checkpoint: into a temporary folder, which is synced and then renamed."""

    def __init__(self, directory: Path, path: str) -> None:
        self._directory = directory
        #: Relative to the run directory.
        self.path = path
        self.target = directory / path
        self.temporary = self.target.with_name(f".{self.target.name}.partial")

    def begin(self) -> None:
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.temporary.mkdir(parents=True)

    def finish(self) -> list[dict[str, Any]]:
        """Makes the checkpoint durable and gives it its name. Returns its files.

        :raises ValueError: if it has no files, or a link.
        """
        files = _sync_files(self.temporary)
        if not files:
            raise ValueError("the checkpoint has no files: write them into the folder that `save` gets")
        # Left by a process that exited before it reported this checkpoint.
        shutil.rmtree(self.target, ignore_errors=True)
        os.rename(self.temporary, self.target)
        for folder in (self.target.parent, self.target.parent.parent, self._directory):
            _sync(folder)
        return files


def free_path(stage: str, update: int, taken: set[str]) -> str:
    """A path that no event of the run mentions: an update can be reached again after a restart."""
    base = f"{stage}/checkpoints/{stage}_step_{update}"
    path, number = base, 1
    while path in taken:
        number += 1
        path = f"{base}_{number}"
    return path


def remove_partial(directory: Path, stage: str) -> None:
    """Removes what processes left that were killed while they wrote a checkpoint."""
    for folder in (directory / stage / "checkpoints").glob(f".{stage}_step_*.partial"):
        shutil.rmtree(folder, ignore_errors=True)


def is_environment(error: BaseException, folder: Path) -> bool:
    """Whether files could not be written for a reason outside of the program, such as a full disk."""
    if isinstance(error, OSError):
        return True
    # torch.save raises RuntimeError.
    if isinstance(error, RuntimeError):
        try:
            return shutil.disk_usage(folder).free < _FULL_BYTES
        except OSError:
            return True
    return False


def is_full_disk(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _sync_files(folder: Path) -> list[dict[str, Any]]:
    files = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ValueError(f"`{path.relative_to(folder)}` is neither a file nor a folder: a checkpoint cannot have links")
        _sync(path)
        if path.is_file():
            files.append({"name": path.relative_to(folder).as_posix(), "size": path.stat().st_size})
    _sync(folder)
    return files


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
