"""A disk that is soon full: a file system in memory, mounted where the test wants it. Needs root."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Final

CHUNK: Final = b"x" * 65_536
NOT_HERE: Final = "a file system cannot be mounted here"


class SmallDisk:
    """The disk at a directory."""

    def __init__(self, directory: Path) -> None:
        self._filler = directory / "filler"

    def fill(self) -> None:
        """Leave no room on it."""
        with suppress(OSError), self._filler.open("ab", buffering=0) as file:
            while True:
                file.write(CHUNK)
        with suppress(OSError), self._filler.open("ab", buffering=0) as file:
            while True:
                file.write(b"x")

    def free(self) -> None:
        """Give the room back."""
        self._filler.unlink(missing_ok=True)


@contextmanager
def small_disk(directory: Path, mib: int) -> Iterator[SmallDisk]:
    """Mount a disk of so many MiB at a directory, which is made."""
    directory.mkdir(parents=True, exist_ok=True)
    _mount(directory, mib)
    try:
        yield SmallDisk(directory)
    finally:
        unmount = ("umount", "-l", str(directory))
        subprocess.run(unmount, check=False, capture_output=True)


def _mount(directory: Path, mib: int) -> None:
    command = ("mount", "-t", "tmpfs", "-o", f"size={mib}m", "none", str(directory))
    subprocess.run(command, check=True, capture_output=True)


@cache
def can_mount() -> bool:
    """Whether such a disk can be had on this machine."""
    if os.geteuid():
        return False
    try:
        with tempfile.TemporaryDirectory() as directory, small_disk(Path(directory), 1):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False
