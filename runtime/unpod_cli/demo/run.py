"""The demo from start to end: start everything, put the calls through, read back what stands in the log, judge."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from unpod.core.codec import Record
from unpod.runner.stats import RunnerStats
from unpod_cli import call_log, figures, loop
from unpod_cli.agent_file import readable
from unpod_cli.console import make_console
from unpod_cli.demo.calls import CALLS, RECORDED, DemoCall
from unpod_cli.demo.show import Show
from unpod_cli.failure import FAILED, Failure
from unpod_cli.stack import Agent, Stack
from unpod_cli.transcript import SpokenLine, Transcriber
from unpod_cli.waterfall import spans_of
from unpod_orchestrator import CallRefused, LocalCall, LocalOrchestrator

AGENT_FILE: Final = Path(__file__).with_name("pizzeria.py")

_APART_S: Final = 0.15
_DEADLINE_MS: Final = 5_000  # people start it on busy machines
_DRAIN_S: Final = 10.0
_GIVEN_UP_S: Final = 0.5
_LINES_SHOWN: Final = 20


@dataclass
class Played:
    """One call of the demo: what was said, what the log has of it, and what was wrong."""

    demo: DemoCall
    call: LocalCall | None = None
    said: list[SpokenLine] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def run_demo(*, speed: float, no_color: bool, as_json: bool) -> int:
    """Run the demo; return the exit status: 0 if every call went as its script says."""
    show = None if as_json else Show(make_console(no_color=no_color), CALLS)
    return loop.run(lambda: Demo(show, speed).run(as_json=as_json))


class Demo:
    """One run of the demo; `show` is None where nobody watches."""

    def __init__(self, show: Show | None, speed: float) -> None:
        self._show = show
        self._speed = speed
        self._written: list[str] = []
        self._began = time.monotonic()

    async def run(self, *, as_json: bool) -> int:
        """Run it; return the exit status."""
        with tempfile.TemporaryDirectory(prefix="unpod-demo-") as folder:
            async with Stack(Path(folder), speed=self._speed, said=self._keep) as stack:
                agent = await stack.start_agent(str(AGENT_FILE), "agent")
                try:
                    played = await self._play(stack, agent)
                except BaseException:
                    await agent.stop(_GIVEN_UP_S)
                    raise
                await agent.stop(_DRAIN_S)
                await self._read_logs(stack, played)
        seconds = time.monotonic() - self._began
        good = self._judge(played, agent.stats)
        if as_json:
            print(json.dumps(_as_json(played, agent.stats, seconds, ok=good), ensure_ascii=False, indent=2))
        else:
            self._tell(played, agent.stats, seconds, good=good)
        return 0 if good else FAILED

    async def _play(self, stack: Stack, agent: Agent) -> list[Played]:
        loaded = await stack.serving(agent)
        if self._show is not None:
            self._show.opening(
                [
                    ("orchestrator", f"{stack.orchestrator.url}, with its speech worker, in this process"),
                    ("nats-server", f"pid {stack.server_pid}, JetStream in a temporary folder"),
                    ("bridge", f"pid {stack.bridge_pid}"),
                    ("runner", f"pid {agent.process.pid}, agent {loaded.agent}: {loaded.runner}"),
                ]
            )
            self._show.heading(f"{len(CALLS)} calls at once", f"people speak {self._speed:g} times as fast as in life")
        began = time.monotonic()
        doom = asyncio.gather(stack.bridge_death(), agent.death())
        return await loop.unless(
            doom,
            asyncio.gather(
                *(
                    self._play_one(stack.orchestrator, loaded.agent, demo, began, place * _APART_S)
                    for place, demo in enumerate(CALLS)
                )
            ),
        )

    async def _play_one(
        self, orchestrator: LocalOrchestrator, agent_id: str, demo: DemoCall, began: float, after_s: float
    ) -> Played:
        played = Played(demo)
        await asyncio.sleep(after_s)
        try:
            played.call = await orchestrator.place_call(
                agent_id, session_id=f"demo-{demo.caller.lower()}", deadline_ms=_DEADLINE_MS
            )
        except CallRefused as refused:
            played.problems.append(str(refused))
            return played
        watching = asyncio.create_task(self._watch(played.call, played, began))
        result = await demo.scenario(self._speed).play_on(played.call)
        played.problems.extend(result.failures)
        await watching
        return played

    async def _watch(self, call: LocalCall, played: Played, began: float) -> None:
        transcriber = Transcriber()
        async for happening in call.subscribe():
            for item in transcriber.take(happening):
                if isinstance(item, SpokenLine):
                    played.said.append(item)
                if self._show is not None:
                    self._show.happened(played.demo, time.monotonic() - began, item)

    async def _read_logs(self, stack: Stack, played: Sequence[Played]) -> None:
        """Read what stands in the log, from outside: the runner has ended by now."""
        for one in played:
            if one.call is not None:
                one.records = await call_log.read_call(stack.log, stack.subjects, one.call.session_id)
                one.problems.extend(one.demo.problems(one.records))

    def _judge(self, played: Sequence[Played], stats: RunnerStats | None) -> bool:
        if stats is None:
            last = self._written[-1] if self._written else "they said nothing"
            raise Failure(f"the runner did not drain; the last that the processes said: {last}")
        counted = stats.completed_last_hour + stats.failed_last_hour
        if counted != len(CALLS):
            played[0].problems.append(f"the runner counts {counted} calls, not {len(CALLS)}")
        return not any(one.problems for one in played)

    def _tell(self, played: Sequence[Played], stats: RunnerStats | None, seconds: float, *, good: bool) -> None:
        if self._show is None:
            return
        recorded = next(one for one in played if one.demo.caller == RECORDED)
        if recorded.call is not None:
            self._show.log(recorded.demo, f"unpod.call.pizzeria.{recorded.call.session_id}.>", recorded.records)
            self._show.metrics(figures.call_metrics(recorded.records, time.time()))
            spans = spans_of(recorded.call.session_id, "pizzeria", recorded.records)
            if spans:
                self._show.trace(spans)
        if stats is not None:
            self._show.stats(stats)
        self._show.verdict([(one.demo, one.problems) for one in played], seconds)
        if not good and self._written:
            self._show.process_lines(self._written[-_LINES_SHOWN:])
        if good:
            self._show.next_steps(_command(), readable(AGENT_FILE))

    def _keep(self, who: str, line: str) -> None:
        self._written.append(f"{who}: {line}")


def _command() -> str:
    """Return how one types `unpod` here."""
    return "unpod" if shutil.which("unpod") else readable(Path(sys.argv[0]))


def _as_json(played: Sequence[Played], stats: RunnerStats | None, seconds: float, *, ok: bool) -> dict[str, object]:
    return {
        "ok": ok,
        "seconds": round(seconds, 3),
        "calls": [
            {
                "caller": one.demo.caller,
                "title": one.demo.title,
                "session_id": one.call.session_id if one.call is not None else None,
                "outcome": str(one.call.outcome) if one.call is not None else None,
                "problems": one.problems,
                "said": [{"who": line.who, "text": line.text, "cut": line.cut} for line in one.said],
                "metrics": figures.metrics_json(figures.call_metrics(one.records, time.time())),
                "log": call_log.as_json(call_log.rows(one.records)),
            }
            for one in played
        ],
        "stats": None if stats is None else figures.stats_json(stats),
    }
