"""The bridge of a runner that has nothing configured: a child process that is started again when it dies."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final

from unpod.event_loop import in_thread
from unpod.processes.children import spawn_child

if TYPE_CHECKING:
    from unpod.processes.children import ChildProcess

logger = logging.getLogger("unpod.runner")

_FIRST_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 5.0
_STEADY_S: Final = 30.0
_LAST_WORDS_S: Final = 5.0
_HURRIED_S: Final = 1.0
_APART_S: Final = 0.1  # two signals of a kind that come at once are one
_COMMAND: Final = [sys.executable, "-P", "-m", "unpod_bridge"]
"""`-P`: a file of the user's in the current directory must not stand in for a module of the bridge."""
_LEVELS: Final = (logging.CRITICAL, logging.ERROR, logging.WARNING, logging.INFO)
_LINE: Final = re.compile(r"\S+ \S+ (DEBUG|INFO|WARNING|ERROR|CRITICAL) +(unpod[\w.]*): (.*)")


class LogForwarder(threading.Thread):
    """Hands a child's log on to this process's logging, so that it has one log, set up in one place.

    One thread reads the child's log, and not the event loop: user code may block that, and a child whose log nobody
    reads stands still. A second thread logs, since `hold_back(level)`, which says whether a record is to be left out,
    may wait. `last` is the last line that is no record.
    """

    def __init__(self, pipe: int, hold_back: Callable[[int], bool]) -> None:
        super().__init__(name="unpod-bridge-log", daemon=True)
        self._pipe = pipe
        self._hold_back = hold_back
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self.last = ""

    def run(self) -> None:
        """Hand on until the child has ended."""
        telling = threading.Thread(target=self._tell, name="unpod-bridge-log-told", daemon=True)
        telling.start()
        with os.fdopen(self._pipe, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                self._lines.put(line.rstrip())
        self._lines.put(None)
        telling.join()

    def _tell(self) -> None:
        for line in iter(self._lines.get, None):
            self._take(line)

    def _take(self, line: str) -> None:
        found = _LINE.fullmatch(line)
        if found is None:
            self.last = line or self.last
            logging.getLogger("unpod.bridge").info("%s", line)
            return
        level = logging.getLevelNamesMapping()[found[1]]
        if not self._hold_back(level):
            logging.getLogger(found[2]).log(level, "%s", found[3])


class BridgeChild:
    """A bridge process that ends with this process at the latest. `environment` holds secrets: it is never shown.

    `died(status, last words)` is asked whether it shall be started again.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        *,
        died: Callable[[int, str], bool],
        hold_back: Callable[[int], bool] = lambda _: False,
    ) -> None:
        level = logging.getLogger("unpod.bridge").getEffectiveLevel()
        self._environment = {"UNPOD_LOG_LEVEL": _name_of(level), "PYTHONUNBUFFERED": "1"} | dict(environment)
        self._died = died
        self._hold_back = hold_back
        self._child: ChildProcess | None = None
        self._relay: LogForwarder | None = None
        self._watcher: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """The process id, 0 while none runs."""
        return self._child.pid if self._child is not None and self._child.returncode is None else 0

    async def start(self) -> None:
        """Start it, and watch over it.

        Raises:
            ConfigurationError: there is no Python to run it with.
        """
        child = await self._spawn()
        self._watcher = asyncio.create_task(self._watch(child), name="unpod-bridge-child")

    async def stop(self, grace_s: float) -> None:
        """Ask it to end, which it does with its last call; after `grace_s` ask for an end at once, then kill it."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait({self._watcher})
        if self._child is None:
            return
        self._child.terminate()
        try:
            async with asyncio.timeout(max(grace_s, _APART_S)):
                await self._child.wait()
        except TimeoutError:
            await self._child.stop(_HURRIED_S)
        await self._last_words()

    async def _spawn(self) -> ChildProcess:
        reading, writing = os.pipe()
        try:
            child = await spawn_child(_COMMAND, env=self._environment, output=writing)
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        self._child = child
        self._relay = LogForwarder(reading, self._hold_back)
        self._relay.start()
        return child

    async def _last_words(self) -> str:
        if self._relay is None:
            return ""
        await in_thread(self._relay.join, _LAST_WORDS_S)
        return self._relay.last

    async def _watch(self, child: ChildProcess) -> None:
        loop = asyncio.get_running_loop()
        pause_s = _FIRST_PAUSE_S
        while True:
            began = loop.time()
            status = await child.wait()
            if not self._died(status, await self._last_words()):
                return
            if loop.time() - began > _STEADY_S:
                pause_s = _FIRST_PAUSE_S
            logger.error("the bridge has died (%d); starting it again in %g s", status, pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
            child = await self._spawn()


def _name_of(level: int) -> str:
    """Return the name of the standard level at or below one; a bridge knows no others."""
    return logging.getLevelName(next((standard for standard in _LEVELS if standard <= level), logging.DEBUG))
