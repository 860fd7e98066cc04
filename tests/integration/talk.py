"""One caller, and the real processes behind their call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from tests.faults.process import Process, eventually
from tests.faults.stack import Setup, Stack, stack
from tests.faults.words import Question

from unpod.core import events as ev
from unpod_orchestrator import LocalCall

NOTHING: Mapping[str, str] = {}
SLOW_WORDS = {"UNPOD_FAULTS_PIECE_S": "0.05"}


class Talk:
    """One caller, and the processes behind the call."""

    def __init__(self, made: Stack, call: LocalCall) -> None:
        self.stack = made
        self.call = call
        self.turn = 0
        self.dead: list[Process] = []

    @property
    def session(self) -> str:
        return self.call.session_id

    async def ask(self, *orders: str) -> Question:
        self.turn += 1
        question = Question(1, self.turn, frozenset(orders))
        await self.call.user(question.text)
        return question

    async def answered(self, question: Question) -> None:
        assert await self.call.reply() == question.answer()

    async def turns(self) -> None:
        """A turn that works, and that remembers all turns before."""
        question = await self.ask("count")
        await self.answered(question)
        assert f"counted {question.name} {self.turn}" in self.said

    async def owner(self) -> Process:
        owner = await self.stack.owner(self.session)
        assert owner is not None
        return owner

    async def kill(self) -> Process:
        victim = await self.owner()
        await victim.kill()
        self.dead.append(victim)
        return victim

    async def moved(self, victim: Process) -> Process:
        async def has_moved() -> bool:
            return await self.owner() is not victim

        await eventually(has_moved, "another owner")
        return await self.owner()

    async def speaking(self) -> None:
        """Return once another piece of a reply has come."""
        before = self.pieces
        await self.call.observed(lambda _: self.pieces > before, "another piece of the reply")

    @property
    def pieces(self) -> int:
        return sum(frame.event == "agent.text.delta" for frame in self.call.frames)

    @property
    def said(self) -> list[str]:
        return [str(frame.raw["text"]) for frame in self.call.frames if frame.event == "agent.say"]

    @property
    def ends(self) -> int:
        return sum(frame.event == "agent.text.end" for frame in self.call.frames)

    async def over(self) -> list[object]:
        """Hang up; everything that was said was said once, and the log is whole. Return the bodies of its records."""
        await self.call.hang_up()
        assert (await self.call.ended()).reason == "hangup"
        await self.stack.closed([self.session])
        assert not self.call.violations
        assert len(self.said) == len(set(self.said))
        assert self.ends == self.turn
        records = await self.stack.records(self.session)
        bridge = [record.envelope.index for record in records if record.channel in ("evt", "ack")]
        assert bridge == list(range(1, len(bridge) + 1))
        owners = {record.envelope.index: record.envelope.id for record in records if record.channel in ("run", "cmd")}
        assert sorted(owners) == list(range(1, len(owners) + 1))
        completed = [record.body.turn_id for record in records if isinstance(record.body, ev.TurnCompleted)]
        assert completed == list(range(1, self.turn + 1))
        return [record.body for record in records]


@asynccontextmanager
async def a_call(
    directory: Path,
    *,
    runners: int = 2,
    runner_env: Mapping[str, str] = NOTHING,
    bridge_env: Mapping[str, str] = NOTHING,
    hears_deaths: bool = True,
) -> AsyncIterator[Talk]:
    async with stack(directory, Setup(bridges=0, runners=0, runner_env=runner_env)) as made:
        for _ in range(runners):
            await made.start_runner()
        heard = {"UNPOD_NATS_SYSTEM_URL": made.server.system_url} if hears_deaths else {}
        await made.start_bridge(**{**heard, **bridge_env})
        await made.ready()
        call = await made.orchestrator.place_call("agent")
        await call.connected()
        talk = Talk(made, call)
        await talk.turns()
        yield talk
        for process in (*made.runners, *made.bridges):
            assert process.alive or process in talk.dead
            assert "Traceback" not in process.text
