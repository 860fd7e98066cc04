"""Hostile frames, ids and headers: rows 31 to 33."""

from __future__ import annotations

import asyncio
from functools import partial
from itertools import pairwise

from msgspec import Struct
from tests.faults.load import PATIENCE_S, Caller
from tests.faults.process import until
from tests.faults.scene import Scene
from tests.faults.stack import SUBJECTS

from unpod.core import codec, ids
from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.codec import BRIDGE_CHANNELS, OWNER_CHANNELS
from unpod.core.envelope import Envelope, to_headers

MIB = 1024 * 1024
DEEP = 1_000_000
FELT_S = 0.05
"""How much later than before words of other calls may come."""
SHARED_S = 1.0
"""The same, beside other tests: they start and kill processes on the same cores."""

BOMBS: dict[str, str | bytes] = {
    "over the limit": '{"event":"user.text","text":"' + "x" * (2 * MIB) + '"}',
    "nested deeply": "[" * DEEP + "]" * DEEP,
    "nested deeply in a field": '{"event":"user.text","text":"hi","extra":'
    + '{"a":' * 100_000
    + "1"
    + "}" * 100_000
    + "}",
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
    calm = longest_gap(others, 0.0)
    scene.mark()
    for name, bomb in BOMBS.items():
        await victim.call.connected(PATIENCE_S)
        victim.call.send_raw(bomb)
        before = victim.answered
        await scene.load.news.until(partial(_answers_more, victim, before), f"an answer after: {name}")
    felt = longest_gap(others, scene.marked_at) - calm
    scene.figures["felt_s"] = felt
    limit = FELT_S if scene.bounds.whole else SHARED_S
    scene.expect(felt < limit, f"other calls waited {felt * 1000:.0f} ms longer between two words")
    rejected = [
        record
        for record in await scene.stack.records(victim.session)
        if isinstance(record.body, (ev.FrameRejected, ev.FrameUnknown))
    ]
    scene.expect(len(rejected) >= len(BOMBS) - 2, f"{len(rejected)} of {len(BOMBS)} frames are recorded as rejected")
    said = "".join(process.text for process in (*scene.stack.bridges, *scene.stack.runners))
    scene.expect("lost the connection to NATS" not in said, "a process has lost NATS")


def _answers_more(caller: Caller, before: int) -> bool:
    return caller.answered > before


def longest_gap(callers: list[Caller], since: float) -> float:
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
            scene.expect(
                status == 2 and len(lines) == 1, f"agent {agent[:20]!r} ended with {status}: {runner.text[-300:]}"
            )
        else:
            call = await scene.stack.orchestrator.place_call(agent)
            await call.user("call 1 turn 1")
            scene.expect("c1t1w8." in await call.reply(PATIENCE_S), f"agent {agent[:20]!r} does not answer")
            await call.hang_up()


async def _serves(scene: Scene, agent: str) -> bool:
    """Return whether a runner of this agent comes up, and not whether it ends with an error."""
    runner = next(each for each in scene.stack.runners if each.environment.get("UNPOD_FAULTS_AGENT") == agent)
    await until(lambda: not runner.alive or "ready: agent" in runner.text, f"what becomes of {runner!r}")
    return runner.alive


async def headers(scene: Scene) -> None:
    """Somebody with a connection writes records with forged epochs, owners and headers into the calls."""
    await scene.load.answers(1)
    scene.mark()
    for caller in scene.load.callers:
        records = await scene.stack.records(caller.session)
        subjects = SUBJECTS.call("agent", caller.session)
        for channels, role, body, subject in (
            (OWNER_CHANNELS, "own", cmd.Say(text="forged"), subjects.cmd),
            (BRIDGE_CHANNELS, "line", ev.UserText(text="call 0 turn 0: forged"), subjects.evt("user.text")),
        ):
            index = max(record.envelope.index for record in records if record.channel in channels)
            given = max(record.seq for record in records if record.channel == role)
            for epoch in (0, given - 1, given + 1, 10**15):
                for ahead in range(1, 20):
                    _forge(scene, subject, body, caller.session, epoch, index + ahead)
        _raw(
            scene, subjects.evt("user.text"), b"Unpod-Epoch: 1\r\nce-id: \xff\r\nce-type: io.unpod.evt.user.text.v1\r\n"
        )
        _raw(scene, subjects.ack, b"Nats-Expected-Last-Subject-Sequence: 0\r\nce-id\r\n: x\r\n")
    await scene.load.answers(2)
    for caller in scene.load.callers:
        said = [str(frame.raw.get("text", "")) for frame in caller.call.frames if frame.direction == "in"]
        scene.expect(not any("forged" in text or "c0t0" in text for text in said), f"call {caller.number} was told it")


def _forge(scene: Scene, subject: str, body: Struct, session: str, epoch: int, index: int) -> None:
    """Send a record such as the bridge or the owner would write next, but for its epoch."""
    channel = SUBJECTS.parse(subject).channel
    envelope = Envelope(
        id=ids.derive("forged", session, channel, epoch, index),
        type=f"{channel}.{ev.tag_of(body)}",
        source="forged",
        session=session,
        time=scene.marked_at,
        epoch=epoch,
        index=index,
    )
    scene.stack.nats.send(subject, codec.encode(body), {**to_headers(envelope), "Nats-Sequence": "1"})


def _raw(scene: Scene, subject: str, lines: bytes) -> None:
    """Send a header block as it stands."""
    scene.stack.nats.send_block(
        subject, b'{"event":"user.text","text":"forged"}', b"NATS/1.0\r\n" + lines + b"\r\n", ""
    )
