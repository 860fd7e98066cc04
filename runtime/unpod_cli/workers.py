"""`unpod run MODULE:RUNNER --workers N`: several runner processes, and what they share.

A worker that dies is started again, after a pause that doubles while it dies young. One that says that it cannot run
(a refused key, a wrong setting) stops all of them. With no NATS configured the supervisor starts a server and a bridge,
which the workers share, as a single runner would do for itself; calls of a worker that dies go on in the others.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager, suppress
from typing import Final

from unpod.core.codec import MALFORMED
from unpod.event_loop import run_main
from unpod.jetstream import connect, embedded_topology, ensure
from unpod.jetstream.connection.environment import NATS_VARIABLES
from unpod.ops.health import VARIABLE as HEALTH_PORT
from unpod.processes import ChildProcess, EmbeddedOptions, EmbeddedServer, spawn_child
from unpod.runner.children import BridgeChild
from unpod.runner.config import RunnerConfig
from unpod_cli.failure import USAGE, Failure
from unpod_cli.worker_process import REFUSED, Refused

logger = logging.getLogger("unpod.workers")

FIRST_PAUSE_S: Final = 0.2
LONGEST_PAUSE_S: Final = 10.0
STEADY_S: Final = 30.0
"""After how many seconds of life a worker's death does not lengthen the pause before the next start."""
FORCED_S: Final = 5.0
"""How long workers that were told to end at once may take."""
BRIDGE_GRACE_S: Final = 5.0
HELD_BACK_S: Final = 2.0
LONGEST_REPORT: Final = 65_536

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


def run_workers(target: str, count: int, config: RunnerConfig) -> int:
    """Run `count` workers until SIGTERM or Ctrl-C, and drain them; return the exit status.

    Raises:
        Failure: they cannot run; nothing is left running.
    """
    return run_main(Crew(target, count).run(config))


class Crew:
    """The workers of one command, and how they all end."""

    def __init__(self, target: str, count: int) -> None:
        self._target = target
        self._count = count
        self._environment: Mapping[str, str] = os.environ
        self._running: dict[int, ChildProcess] = {}
        self._stopping = asyncio.Event()
        self._refused: Refused | None = None
        self._heard = threading.Event()
        self._signals: list[int] = []

    async def run(self, config: RunnerConfig) -> int:
        """Start what is needed, keep the workers running until told to stop, and end all in order."""
        async with AsyncExitStack() as stack:
            stack.enter_context(_listening(self._on_signal))
            if config.nats is None:
                await self._provide(stack, config)
            keepers = [asyncio.create_task(self._keep(n + 1), name=f"unpod-worker-{n + 1}") for n in range(self._count)]
            try:
                await asyncio.gather(*keepers)
            finally:
                await self._end(keepers)
        if self._refused is not None:
            raise Failure(self._refused.reason, status=self._refused.status)
        return 128 + self._signals[-1] if len(self._signals) > 1 else 0

    # ------------------------------------------------------------------------------------------------ what they share

    async def _provide(self, stack: AsyncExitStack, config: RunnerConfig) -> None:
        """Start a NATS server and a bridge; what the workers inherit leads them there."""
        server = await stack.enter_async_context(EmbeddedServer(EmbeddedOptions(config.data_dir)))
        streams = embedded_topology(config.prefix)
        async with connect(server.connection("unpod workers")) as nats:
            await ensure(nats, streams.calls)
            await ensure(nats, streams.jobs)
        theirs = {name: value for name, value in os.environ.items() if name not in NATS_VARIABLES}
        self._environment = theirs | {"UNPOD_NATS_URL": server.url}
        ours = {"UNPOD_NATS_URL": server.url, "UNPOD_NATS_SYSTEM_URL": server.system_url}
        bridge = BridgeChild(
            {**config.bridge_environment, **ours}, died=self._on_bridge_death, hold_back=self._hold_back
        )
        await bridge.start()
        stack.push_async_callback(bridge.stop, BRIDGE_GRACE_S)

    def _on_bridge_death(self, status: int, last_words: str) -> bool:
        """Take in that the bridge has ended; return whether it shall be started again."""
        if status == USAGE:
            self._refuse(Refused(last_words.removeprefix("unpod bridge: ") or "the bridge cannot run", USAGE))
        return self._refused is None

    def _hold_back(self, level: int) -> bool:
        """Whether a line of the bridge's log need not be told: an error that all this is about to end with."""
        if level < logging.ERROR:
            return False
        self._heard.wait(HELD_BACK_S)
        return self._refused is not None

    # ---------------------------------------------------------------------------------------------------- the workers

    async def _keep(self, number: int) -> None:
        """Keep one worker running until it is no longer wanted, or has ended by itself."""
        pause_s, loop = FIRST_PAUSE_S, asyncio.get_running_loop()
        while not self._stopping.is_set():
            began = loop.time()
            status, refused = await self._run(number)
            if refused is not None:
                self._refuse(refused)
            if self._stopping.is_set() or status == 0:
                return
            if loop.time() - began > STEADY_S:
                pause_s = FIRST_PAUSE_S
            logger.error("worker %d has died (%s); starting it again in %g s", number, _how(status), pause_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stopping.wait()
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def _run(self, number: int) -> tuple[int, Refused | None]:
        """Run a worker once; return its exit status, and why it refuses to run, if it does."""
        reading, writing = os.pipe()
        try:
            argv = [sys.executable, "-m", "unpod_cli.worker_process", self._target, str(writing)]
            try:
                child = await spawn_child(argv, env=self._environment_of(number), pass_fds=(writing,))
            finally:
                os.close(writing)
            self._running[number] = child
            if self._signals:  # it came while this one was being started
                child.send_signal(signal.SIGTERM)
            try:
                status = await child.wait()
            finally:
                del self._running[number]
            return status, _report(reading)
        finally:
            os.close(reading)

    def _environment_of(self, number: int) -> Mapping[str, str]:
        """Return a worker's environment: each tells its health on a port of its own, counted up from the one given."""
        first = self._environment.get(HEALTH_PORT, "").strip()
        if not first.isdigit() or int(first) == 0:
            return self._environment
        return {**self._environment, HEALTH_PORT: str(int(first) + number - 1)}

    def _refuse(self, refused: Refused) -> None:
        self._refused = self._refused or refused
        self._heard.set()
        self._stop()

    def _on_signal(self, number: int) -> None:
        self._signals.append(number)
        again = len(self._signals) > 1
        logger.info("signal %d%s", number, " again: ending at once" if again else ": draining the workers")
        self._stop(again=again)

    def _stop(self, *, again: bool = False) -> None:
        """Ask the workers to drain; `again`, to end at once, and soon they have no choice."""
        if self._stopping.is_set() and not again:
            return
        self._stopping.set()
        for child in tuple(self._running.values()):
            child.send_signal(signal.SIGTERM)
        if again:
            asyncio.get_running_loop().call_later(FORCED_S, self._kill)

    def _kill(self) -> None:
        for child in tuple(self._running.values()):
            child.kill()

    async def _end(self, keepers: list[asyncio.Task[None]]) -> None:
        """Leave nobody behind, whatever has gone wrong here."""
        self._stopping.set()
        self._heard.set()
        self._kill()
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)


def _report(reading: int) -> Refused | None:
    os.set_blocking(reading, False)
    try:
        return REFUSED.decode(os.read(reading, LONGEST_REPORT))
    except (BlockingIOError, *MALFORMED):  # it died without a word
        return None


def _how(status: int) -> str:
    if status < 0:
        with suppress(ValueError):
            return signal.Signals(-status).name
    return f"exit status {status}"


@contextmanager
def _listening(heard: Callable[[int], None]) -> Iterator[None]:
    """Within the block, tell of SIGTERM and SIGINT."""
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, heard, number)
    try:
        yield
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
