"""Hostile frames, ids and headers: rows 31 to 33."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from tests.faults.load import PATIENCE_S, Caller
from tests.faults.scene import Scene
from tests.faults.stack import SUBJECTS
from unpod.core import codec, ids
from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.envelope import Envelope, to_headers

MIB = 1024 * 1024
DEEP = 1_000_000
FELT_S = 0.05
"""How much later than before words of other calls may come."""

BOMBS: dict[str, str | bytes] = {
    "over the limit": '{"event":"user.text","text":"' + "x" * (2 * MIB) + '"}',
    "nested deeply": "[" * DEEP + "]" * DEEP,
    "nested deeply in a field": '{"event":"user.text","text":"hi","extra":' + '{"a":' * 100_000 + "1" + "}" * 100_000 + "}",
    "a huge int": '{"event":"metric","turns":' + "9" * 500_000 + "}",
    "duplicate keys": '{"event":"state","event":"user.text","state":"idle","state":7}',
    "no tag": '{"text":"no tag"}',
    "an unknown tag": '{"event":"who.knows","text":"what"}',
    "a tag that is no text": '{"event":7}',
    "no object": '"user.text"',
    "not JSON": "{",
    "small keys": "{" + ",".join(f'"k{number}":{number}' for number in range(300_000)) + "}",
    "bad UTF-8, binary": b'{"event":"user.text","text":"\xff\xfe"}',
}

SESSIONS = (
    "a.b.c", "a.*", "a.>", "*", ">", "with space", "nul\0nul", "line\r\nbreak", "emoji \N{GRINNING FACE}", "x" * 4_000,
    "=20", "=~", "%20", "..", "ünïcode",
)  # fmt: skip


async def frames(scene: Scene) -> None:
    """One worker sends every frame that it should not, while the others talk."""
    victim, *others = scene.load.callers
    await scene.load.answers(1)
    calm = _longest_gap(others, 0.0)
    scene.mark()
    for name, bomb in BOMBS.items():
        await victim.call.connected(PATIENCE_S)
        victim.call.send_raw(bomb)
        before = victim.answered
        await scene.load.news.until(lambda before=before: victim.answered > before, f"an answer after: {name}")
    felt = _longest_gap(others, scene.marked_at) - calm
    scene.figures["felt_s"] = felt
    scene.expect(felt < scene.bounds.limit(FELT_S), f"other calls waited {felt * 1000:.0f} ms longer between two words")
    rejected = [
        record
        for record in await scene.stack.records(victim.session)
        if isinstance(record.body, (ev.FrameRejected, ev.FrameUnknown))
    ]
    scene.expect(len(rejected) >= len(BOMBS) - 2, f"{len(rejected)} of {len(BOMBS)} frames are recorded as rejected")
    said = "".join(process.text for process in (*scene.stack.bridges, *scene.stack.runners))
    scene.expect("lost the connection to NATS" not in said, "a process has lost NATS")


def _longest_gap(callers: list[Caller], since: float) -> float:
    """Return the longest time between two words of one reply."""
    gaps = [
        later - earlier
        for caller in callers
        for turn in caller.turns
        for earlier, later in pairwise(turn.heard_at)
        if earlier >= since
    ]
    return max(gaps, default=0.0)


async def session_ids(scene: Scene) -> None:
    """Sessions whose ids are patterns, bombs, or nothing that a subject can hold: each is safe and apart."""
    scene.mark()
    for session in SESSIONS:
        (caller,) = await scene.load.dial(1, session_id=session)
        await caller.answer(await caller.ask(frozenset({"say"})))
    seen = {SUBJECTS.call("agent", caller.session).all for caller in scene.load.callers}
    scene.expect(len(seen) == len(scene.load.callers), "two sessions share their subjects")


async def agent_ids(scene: Scene) -> None:
    """Agents with such ids: each takes its own calls, or says clearly why it does not start."""
    agents = [session for session in SESSIONS if "\0" not in session]
    scene.mark()
    runners = await asyncio.gather(*(scene.stack.start_runner(UNPOD_FAULTS_AGENT=agent) for agent in agents))
    for agent, runner in zip(agents, runners, strict=True):
        if not await _serves(scene, agent):
            scene.expected_deaths.add(runner)
            status = await runner.exited()
            lines = [line for line in runner.text.splitlines() if "agent_id" in line]
            scene.expect(status == 2 and len(lines) == 1, f"agent {agent[:20]!r} ended with {status}: {runner.text[-300:]}")
        else:
            call = await scene.stack.orchestrator.place_call(agent)
            await call.user("call 1 turn 1")
            scene.expect("c1t1w8." in await call.reply(PATIENCE_S), f"agent {agent[:20]!r} does not answer")
            await call.hang_up()


async def _serves(scene: Scene, agent: str) -> bool:
    """Return whether a runner of this agent comes up, and not whether it ends with an error."""
    runner = next(each for each in scene.stack.runners if each.environment.get("UNPOD_FAULTS_AGENT") == agent)
    async with asyncio.timeout(PATIENCE_S):
        while runner.alive and "ready: agent" not in runner.text:
            await asyncio.sleep(0.02)
    return runner.alive


async def headers(scene: Scene) -> None:
    """Somebody with a connection writes records with forged epochs, owners and headers into the calls."""
    await scene.load.answers(1)
    scene.mark()
    for caller in scene.load.callers:
        subjects = SUBJECTS.call("agent", caller.session)
        records = await scene.stack.records(caller.session)
        index = max((record.envelope.index for record in records if record.channel == "cmd"), default=0)
        epoch = max(record.seq for record in records if record.channel == "own")
        for forged_epoch in (0, 1, epoch - 1, epoch + 1, 10**15):
            say = cmd.Say(text=f"forged {caller.number} {forged_epoch}")
            envelope = Envelope(
                id=ids.derive("forged", caller.session, forged_epoch),
                type="cmd.say",
                source="forged",
                session=caller.session,
                time=scene.marked_at,
                epoch=forged_epoch,
                index=index + 1,
                seen=10**6,
            )
            made = {**to_headers(envelope), "Nats-Expected-Stream": "", "Nats-Sequence": "1", "Nats-Rollup": ""}
            scene.stack.nats.send(subjects.cmd, codec.encode(say), made)
        _raw(scene, subjects.evt("user.text"), b"Unpod-Epoch: 1\r\nce-id: \xff\xfe\r\nce-type: io.unpod.evt.user.text.v1\r\n")
        _raw(scene, subjects.ack, b"Nats-Expected-Last-Subject-Sequence: 0\r\nce-id\r\n: x\r\n")
    await scene.load.answers(2)
    for caller in scene.load.callers:
        said = [str(frame.raw.get("text", "")) for frame in caller.call.frames if frame.direction == "in"]
        scene.expect(not any("forged" in text for text in said), f"call {caller.number} was told what was forged")


def _raw(scene: Scene, subject: str, lines: bytes) -> None:
    """Send a header block as it stands."""
    scene.stack.nats.send_block(subject, b'{"event":"user.text","text":"forged"}', b"NATS/1.0\r\n" + lines + b"\r\n", "")
