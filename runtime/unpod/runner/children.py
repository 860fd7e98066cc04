"""The bridge of a runner that has nothing configured: a child process that is started again when it dies."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from unpod.jetstream.children import spawn_child

if TYPE_CHECKING:
    from unpod.jetstream.children import ChildProcess

logger = logging.getLogger("unpod.runner")

_FIRST_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 5.0
_STEADY_S: Final = 30.0
_USAGE: Final = 2  # its settings are wrong: starting it again would change nothing


class BridgeChild:
    """A bridge process that ends with this process at the latest. `environment` holds secrets: it is never shown."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._child: ChildProcess | None = None
        self._watcher: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """The process id, 0 while none runs."""
        return self._child.pid if self._child is not None and self._child.returncode is None else 0

    async def start(self, ended: Callable[[int], None]) -> None:
        """Start it, and again whenever it dies; `ended(status)` is told where that cannot help: its settings are wrong.

        Raises:
            ConfigurationError: there is no Python to run it with.
        """
        self._child = await self._spawn()
        self._watcher = asyncio.create_task(self._watch(self._child, ended), name="unpod-bridge-child")

    async def stop(self, grace_s: float) -> None:
        """Ask it to end; after `grace_s` it is killed."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait({self._watcher})
        if self._child is not None:
            await self._child.stop(grace_s)

    async def _spawn(self) -> ChildProcess:
        return await spawn_child([sys.executable, "-m", "unpod_bridge"], env=self._environment)

    async def _watch(self, child: ChildProcess, ended: Callable[[int], None]) -> None:
        loop = asyncio.get_running_loop()
        pause_s = _FIRST_PAUSE_S
        while True:
            began = loop.time()
            code = await child.wait()
            if code == _USAGE:
                ended(code)
                return
            if loop.time() - began > _STEADY_S:
                pause_s = _FIRST_PAUSE_S
            logger.error("the bridge has died (%d); starting it again in %g s", code, pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
            self._child = child = await self._spawn()
