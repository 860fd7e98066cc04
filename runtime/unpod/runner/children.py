"""The bridge of a runner that has nothing configured: a child process that is started again when it dies."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Mapping
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
    """A bridge process that ends with this process at the latest. `environment` holds secrets: it is never shown.

    `wait` returns an exit status that a restart cannot help: bad settings. After `stop`, it is not started again.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._child: ChildProcess | None = None
        self._task: asyncio.Task[int] | None = None
        self.final = False
        """Set where the bridge has said that trying again is no use: it is not restarted."""

    @property
    def pid(self) -> int:
        """The process id, 0 while none runs."""
        return self._child.pid if self._child is not None and self._child.returncode is None else 0

    async def start(self) -> None:
        """Start it, and watch over it.

        Raises:
            ConfigurationError: there is no Python to run it with.
        """
        self._child = await self._spawn()
        self._task = asyncio.create_task(self._watch(self._child), name="unpod-bridge-child")

    async def wait(self) -> int:
        """Return the exit status once it has ended for good."""
        if self._task is None:
            raise RuntimeError("the bridge has not been started")
        return await asyncio.shield(self._task)

    async def stop(self, grace_s: float) -> None:
        """Ask it to end; after `grace_s` it is killed."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
        if self._child is not None:
            await self._child.stop(grace_s)

    async def _spawn(self) -> ChildProcess:
        return await spawn_child([sys.executable, "-m", "unpod_bridge"], env=self._environment)

    async def _watch(self, child: ChildProcess) -> int:
        loop = asyncio.get_running_loop()
        pause_s = _FIRST_PAUSE_S
        while True:
            began = loop.time()
            code = await child.wait()
            if code == _USAGE or self.final:
                return code
            if loop.time() - began > _STEADY_S:
                pause_s = _FIRST_PAUSE_S
            logger.error("the bridge has died (%d); starting it again in %g s", code, pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
            if self.final:
                return code
            self._child = child = await self._spawn()
