"""Which files the agent is made of, and when one of them is saved."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from watchfiles import Change, awatch


class FileWatcher:
    """Tells of saves of the agent's file, and of the files beside and below it that it imports."""

    def __init__(self, file: Path) -> None:
        self._files = {file.resolve()}
        self._stop = asyncio.Event()

    def follow(self, files: Iterable[str]) -> None:
        """Look at these files, too."""
        before = self._folders()
        self._files.update(Path(file).resolve() for file in files)
        if self._folders() != before:
            self._stop.set()

    async def saves(self) -> AsyncIterator[set[Path]]:
        """Yield the files that were saved, those of one moment together."""
        while True:
            self._stop = asyncio.Event()
            # The folders rather than the files: many editors write a new file and give it the old one's name.
            async for changes in awatch(
                *self._folders(), watch_filter=self._wanted, recursive=False, stop_event=self._stop
            ):
                yield {Path(path) for _, path in changes}

    def _folders(self) -> set[Path]:
        return {file.parent for file in self._files}

    def _wanted(self, change: Change, path: str) -> bool:
        return change is not Change.deleted and Path(path).resolve() in self._files
