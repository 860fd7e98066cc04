"""A whole system on this machine: the local orchestrator here, a NATS server and a bridge as child processes.

What `unpod demo` and `unpod dev` stand on. Agents are processes of their own, so that each can be exchanged.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, NoReturn, Self

from unpod.core.codec import MALFORMED
from unpod.core.dispatch_messages import RUNNER_ANNOUNCED, RunnerAnnounced
from unpod.core.subjects import Subjects
from unpod.jetstream import JetStreamLog, connect, embedded_topology, open_log
from unpod.logs import redact
from unpod.ports import Message
from unpod.processes import EmbeddedOptions, EmbeddedServer
from unpod.runner.stats import RunnerStats
from unpod_cli.agent_process import REPORT, Finished, Loaded, Unusable
from unpod_cli.failure import Failure
from unpod_cli.loop import unless
from unpod_cli.processes import Process
from unpod_orchestrator import LocalOrchestrator

OutputHandler = Callable[[str, str], None]
"""Told who wrote (`bridge`, or the agent's name) and the line."""

_READY_S: Final = 20.0
_BRIDGE_GRACE_S: Final = 5.0
# Prefixes of variables that would lead a process to another system than this one.
_FOREIGN: Final = ("UNPOD_", "NATS_")
_KEPT: Final = ("UNPOD_LOG_LEVEL",)


class AgentUnusable(Failure):
    """The user's file cannot be used, or its process has ended; `died` is True where it had been imported by then."""

    def __init__(self, message: str, *, status: int, died: bool) -> None:
        super().__init__(message, status=status)
        self.died = died


class Agent:
    """One runner process around the user's file."""

    def __init__(self, name: str, said: OutputHandler) -> None:
        self.name = name
        self.process = Process(lambda line: said(name, line))
        self.stats: RunnerStats | None = None
        self._loaded: asyncio.Future[Loaded] = asyncio.get_running_loop().create_future()
        self._problem = ""

    def on_report(self, line: str) -> None:
        """Take a report of the process."""
        match REPORT.decode(line):
            case Loaded() as loaded:
                self._loaded.set_result(loaded)
            case Unusable(reason=reason):
                self._problem = reason
            case Finished(stats=stats):
                self.stats = stats

    @property
    def loaded(self) -> Loaded | None:
        """What its file defines, once it is imported."""
        return self._loaded.result() if self._loaded.done() else None

    async def load(self) -> Loaded:
        """Return what its file defines.

        Raises:
            AgentUnusable: it does not import, or it is not one agent.
        """
        return await unless(self.death(), asyncio.shield(self._loaded))

    async def death(self) -> NoReturn:
        """Return never, but raise when the process ends, whatever its reason.

        Raises:
            AgentUnusable: the text says why.
        """
        status = await self.process.wait()
        said = self._problem or f"the agent's process has ended (status {status}): {_last(self.process)}"
        raise AgentUnusable(said, status=status if self._problem and status > 0 else 1, died=self._loaded.done())

    async def stop(self, grace_s: float) -> int:
        """Drain it, but no longer than `grace_s`; return its exit status."""
        return await self.process.stop(grace_s)


class Stack:
    """Server, bridge and orchestrator; `speed` is how much faster than real speech is, `said` gets what they write."""

    def __init__(self, data_dir: Path, *, speed: float, said: OutputHandler) -> None:
        self._key = f"sk_local_{secrets.token_hex(8)}"
        self._said = said
        self._server = EmbeddedServer(EmbeddedOptions(data_dir))
        self._bridge = Process(lambda line: said("bridge", line))
        self._exit = AsyncExitStack()
        self._heard: dict[str, RunnerAnnounced] = {}
        self._news = asyncio.Event()
        self.subjects = Subjects()
        self.orchestrator = LocalOrchestrator(api_keys={self._key}, speed=speed)
        self.log: JetStreamLog

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._exit.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exit.aclose()

    async def _start(self) -> None:
        self._exit.enter_context(_logging_to(self._said))
        await self._exit.enter_async_context(self._server)
        nats = await self._exit.enter_async_context(connect(self._server.connection("unpod cli")))
        self.log = await open_log(nats, embedded_topology().calls)
        await nats.subscribe(self.subjects.runners, self._on_runner)
        await self._exit.enter_async_context(self.orchestrator)
        await self._bridge.start([sys.executable, "-m", "unpod_bridge"], self.environment())
        self._exit.push_async_callback(self._bridge.stop, _BRIDGE_GRACE_S)

    @property
    def server_pid(self) -> int:
        """The process id of the NATS server."""
        return self._server.pid

    @property
    def bridge_pid(self) -> int:
        """The process id of the bridge."""
        return self._bridge.pid

    def environment(self) -> dict[str, str]:
        """Return the environment of a process of this system: a secret, for it names the server's password."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN) or name in _KEPT}
        http = self.orchestrator.http_url
        return kept | {
            "UNPOD_API_KEY": self._key,
            "UNPOD_NATS_URL": self._server.url,
            "UNPOD_ORCHESTRATOR_URL": self.orchestrator.url,
            "UNPOD_ORCHESTRATOR_BASE_URL": http,
            "UNPOD_SERVICE_BASE_URL": http,
            "UNPOD_LOG_LEVEL": os.environ.get("UNPOD_LOG_LEVEL") or "WARNING",
            "PYTHONUNBUFFERED": "1",
        }

    async def start_agent(self, target: str, name: str) -> Agent:
        """Start a runner process around the file that `target` names; it is not awaited."""
        agent = Agent(name, self._said)
        argv = [sys.executable, "-m", "unpod_cli.agent_process", target]
        await agent.process.start(argv, self.environment(), on_status=agent.on_report)
        return agent

    async def serving(self, agent: Agent) -> Loaded:
        """Return when calls can be placed for an agent, and will reach its process.

        Raises:
            AgentUnusable: its file cannot be used, or its process has ended.
            Failure: the bridge has ended, or it takes too long.
        """
        return await unless(self.bridge_death(), unless(agent.death(), self._serving(agent)))

    async def _serving(self, agent: Agent) -> Loaded:
        loaded = await agent.load()
        try:
            async with asyncio.timeout(_READY_S):
                await self._until(lambda: loaded.runner in self._heard)
                await self.orchestrator.wait_for_worker(loaded.agent, _READY_S, pool=loaded.pool)
        except TimeoutError:
            raise Failure(f"the agent was not ready within {_READY_S:g} s; is this machine very busy?") from None
        return loaded

    async def drain(self, agent: Agent) -> None:
        """Ask an agent to finish its calls and end; return when it takes no new ones."""
        agent.process.terminate()
        loaded = agent.loaded
        if loaded is not None:
            with suppress(AgentUnusable):  # it had no calls, and has ended already
                await unless(agent.death(), self._until(lambda: self._gone(loaded.runner)))

    def _gone(self, runner: str) -> bool:
        heard = self._heard.get(runner)
        return heard is None or heard.draining or heard.gone

    async def bridge_death(self) -> NoReturn:
        """Return never, but raise when the bridge ends.

        Raises:
            Failure: always, then.
        """
        status = await self._bridge.wait()
        raise Failure(f"the bridge has ended (status {status}): {_last(self._bridge)}")

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            await self._news.wait()

    def _on_runner(self, message: Message) -> None:
        try:
            said = RUNNER_ANNOUNCED.decode(message.data)
        except MALFORMED:
            return
        self._heard[said.runner] = said
        self._news.set()
        self._news = asyncio.Event()


class _Teller(logging.Handler):
    """Hands what this process logs to whoever shows what the others write."""

    def __init__(self, said: OutputHandler) -> None:
        super().__init__(logging.WARNING)
        self._said = said

    def emit(self, record: logging.LogRecord) -> None:
        """Tell it."""
        self._said("unpod", redact(f"{record.levelname} {record.name}: {record.getMessage()}"))


@contextmanager
def _logging_to(said: OutputHandler) -> Iterator[None]:
    handler = _Teller(said)
    logging.getLogger("unpod").addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger("unpod").removeHandler(handler)


def _last(process: Process) -> str:
    return process.last_line or "it said nothing"
