"""A whole system in which the code of a page is run: a runner in this process, with the server and bridge it starts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from tests.pages import ROOT, Block, blocks, run

from unpod import AgentRunner, CallContext, LLMCall, ScriptedAdapter
from unpod.adapters.scripted import Rule
from unpod_orchestrator import CallFaults, LocalCall, LocalOrchestrator, TransferRecord

PAGES = ROOT / "tests" / "seed_pages"
AGENT_RUNNER = PAGES / "agent-runner.md"
SESSION = PAGES / "session.md"
BOTH = [AGENT_RUNNER, SESSION]

AGENT = "my-agent"
KEYS = ("sk_local", "sk_...", "sk-...")
"""The orchestrator's: its own, and those that stand on the pages."""

LONG = "I have a long story to tell. " * 100
PATIENCE_S = 20.0

Entrypoint = Callable[[CallContext], Awaitable[object]]


def page_name(page: Path) -> str:
    """Return a page's name, for the ids of tests."""
    return page.stem


def first(transfers: Sequence[TransferRecord]) -> tuple[str, str, str]:
    """Return what the first transfer was."""
    return transfers[0].transfer_type, transfers[0].target, transfers[0].mode


def block(page: Path, heading: str) -> Block:
    """Return the code below a heading of a page."""
    return next(block for block in blocks(page, "python") if block.heading == heading)


async def snippet(page: Path, heading: str, **names: Any) -> dict[str, Any]:  # noqa: ANN401 - what pages name
    """Run the code below a heading of a page, with the names that it uses; return what it has defined."""
    namespace = {"CallContext": CallContext, **names}
    await run(block(page, heading), namespace)
    return namespace


def brain() -> ScriptedAdapter:
    """Return an adapter that reports its model calls."""
    figures = LLMCall(model="model-1", tokens_in=100, tokens_out=20, cost=0.002)
    return ScriptedAdapter([Rule("story", [figures, LONG])], fallback=lambda text: [f"You said {text}.", figures])


@dataclass(frozen=True, slots=True)
class Played:
    """One call, and what becomes of its entrypoint."""

    call: LocalCall
    entrypoint: asyncio.Future[object]

    async def returned(self) -> object:
        """Return what the entrypoint returned, or raise what it raised."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.entrypoint

    def verbs(self, *events: str) -> list[dict[str, object]]:
        """Return the frames of some kinds that the worker got."""
        return [dict(frame.raw) for frame in self.call.frames if frame.direction == "in" and frame.event in events]

    def said(self) -> list[object]:
        """Return what the worker was asked to say."""
        return [raw["text"] for raw in self.verbs("agent.say")]

    async def answered(self, text: str) -> str:
        """Say something as the caller; return the reply."""
        await self.call.user(text)
        return await self.call.reply()


class Stage:
    """One runner behind one orchestrator; each call has an entrypoint of its own."""

    def __init__(self, orchestrator: LocalOrchestrator, data_dir: Path) -> None:
        self.orchestrator = orchestrator
        self.runner = AgentRunner(
            self._enter, AGENT, api_key=KEYS[0], base_url=orchestrator.url, data_dir=data_dir, drain_timeout_s=5
        )
        self._keys = count(1)
        self._entrypoints: dict[object, tuple[Entrypoint, asyncio.Future[object]]] = {}

    async def play(
        self, entrypoint: Entrypoint, *, offers: tuple[str, ...] | None = None, **metadata: object
    ) -> Played:
        """Place a call for an entrypoint; it is connected when this returns."""
        key, future = next(self._keys), asyncio.get_running_loop().create_future()
        self._entrypoints[key] = (entrypoint, future)
        call = await self.orchestrator.place_call(
            AGENT, metadata={"data": {"entrypoint": key}, **metadata}, faults=CallFaults(offers=offers)
        )
        await call.connected()
        return Played(call, future)

    async def clear(self) -> None:
        """Hang up what a test has left behind."""
        for call in self.orchestrator.calls:
            if not call.over:
                await call.hang_up()

    async def _enter(self, ctx: CallContext) -> None:
        entrypoint, future = self._entrypoints[ctx.data["entrypoint"]]
        try:
            future.set_result(await entrypoint(ctx))
        except Exception as error:
            future.set_exception(error)
            raise


@asynccontextmanager
async def open_stage(data_dir: Path) -> AsyncIterator[Stage]:
    """Start everything, and end everything."""
    async with LocalOrchestrator(speed=50, api_keys=KEYS) as orchestrator:
        stage = Stage(orchestrator, data_dir)
        running = asyncio.create_task(stage.runner.run())
        try:
            await orchestrator.wait_for_worker(AGENT)
            yield stage
        finally:
            await stage.runner.shutdown()
            await running
