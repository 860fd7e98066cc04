"""Faults of bridges: rows 11 to 15, 39, and 44."""

from __future__ import annotations

import asyncio
import math
from functools import partial
from typing import Final

from tests.faults.load import PATIENCE_S, Caller, Turn
from tests.faults.process import eventually, until
from tests.faults.scene import Scene
from tests.faults.stack import SUBJECTS

from unpod.core import events as ev

LONG_WORDS: Final = 40
"""How many words the answers have that a bridge stands still in, and how long each takes the agent."""
WORD_S: Final = 0.03
UNSURE_WORDS: Final = math.ceil(0.3 / WORD_S) + 2
"""So many words may be unsure around a bridge that stands still: what the owner says between two receipts."""
SHORT_STILL_S: Final = (0.8, 3.0)
LONG_STILL_S: Final = (3.6, 4.0)
"""For how long it stands still: so that its calls stay its own, or are taken."""


async def killed(scene: Scene) -> None:
    """SIGKILL between two frames."""
    victim = await scene.a_bridge()
    await scene.some_words()
    scene.mark()
    await scene.kill(victim)


async def killed_with_a_runner(scene: Scene) -> None:
    """SIGKILL a bridge and a runner at once."""
    bridge, runner = await scene.a_bridge(), await scene.a_runner()
    await scene.some_words()
    scene.mark()
    await asyncio.gather(scene.kill(bridge), scene.kill(runner))


async def dies_at_its_failpoint(scene: Scene) -> None:
    """Each call is transferred, once; the first bridge kills itself where it was told to."""
    scene.load.orders = lambda _, turn: frozenset({"transfer"} if turn == 3 else ())
    await scene.dead(scene.stack.bridges[0])
    scene.mark()


async def what_was_claimed_is_unknown(scene: Scene) -> None:
    """A transfer that was claimed and not confirmed is reported unknown, and came at most once; the others came."""
    unknown = 0
    for caller in scene.load.callers:
        outcomes = await _outcomes(scene, caller)
        came = sum(frame.event == "agent.transfer" for frame in caller.call.frames)
        unknown += "unknown" in outcomes
        scene.expect(came <= 1, f"call {caller.number} was transferred {came} times")
        scene.expect(outcomes[-1:] in (["delivered"], ["unknown"], []), f"call {caller.number}: {outcomes}")
        if outcomes[-1:] == ["delivered"]:
            scene.expect(came == 1, f"call {caller.number}: delivered, and never came")
        if scene.stack.setup.bridge_failpoint == "line.claim_stored" and "unknown" in outcomes:
            scene.expect(came == 0, f"call {caller.number}: the bridge died before the write, and it came")
    scene.figures["unknown"] = unknown
    scene.expect(unknown >= 1, "no transfer is reported unknown")


async def _outcomes(scene: Scene, caller: Caller) -> list[str]:
    return [
        record.body.outcome
        for record in await scene.stack.records(caller.session)
        if isinstance(record.body, ev.CommandAcknowledged) and record.body.verb == "transfer"
    ]


async def frozen_and_thawed(scene: Scene) -> None:
    """SIGSTOP for a while, SIGCONT; each call has one socket then."""
    victim = await scene.a_bridge()
    await scene.some_words()
    victim.freeze()
    await asyncio.sleep(scene.bounds.frozen_s)
    victim.thaw()
    scene.mark()
    for caller in scene.load.callers:
        await caller.call.connected(PATIENCE_S)


async def rolling_restart(scene: Scene) -> None:
    """SIGTERM to each bridge in turn, with a new one there before."""
    for old in tuple(scene.stack.bridges):
        fresh = await scene.stack.start_bridge()
        await fresh.said("registered 'agent'")
        await scene.some_words()
        scene.expected_deaths.add(old)
        old.terminate()
        status = await old.exited(scene.bounds.limit(10.0))
        scene.expect(status == 0, f"{old!r} ended with {status}")
        scene.mark()
    scene.expect(len(scene.load.living) == len(scene.load.callers), "a call was dropped")


async def still_for_a_moment(scene: Scene) -> None:
    """SIGSTOP in mid-reply for less than makes another take its calls."""
    await _still_in_mid_reply(scene, scene.rng.uniform(*SHORT_STILL_S))


async def still_for_too_long(scene: Scene) -> None:
    """SIGSTOP in mid-reply for so long that another takes its calls."""
    await _still_in_mid_reply(scene, scene.rng.uniform(*LONG_STILL_S))


async def all_take_calls(scene: Scene) -> None:
    """Each bridge is registered with room, and new calls come up."""
    stack = scene.stack
    bridges = [bridge for bridge in stack.bridges if bridge.alive]

    def registered() -> bool:
        with_room = {worker.worker_id for worker in stack.orchestrator.workers if worker.capabilities.max_concurrent}
        return len(with_room) == len(bridges)

    await until(registered, "each bridge is registered with room")
    calls = [await stack.orchestrator.place_call("agent") for _ in bridges]
    for call in calls:
        await call.connected(PATIENCE_S)
        await call.hang_up()
        await call.ended()


async def _still_in_mid_reply(scene: Scene, seconds: float) -> None:
    """Each call of a bridge is in the middle of a long answer, with a second text waiting, when it is stopped."""
    await scene.hush()
    victim = await scene.a_bridge()
    callers = [caller for caller in scene.load.living if await scene.stack.line(caller.session) is victim]
    scene.load.length = LONG_WORDS
    pairs = await asyncio.gather(*(_two_questions(scene, caller) for caller in callers))
    victim.freeze()
    await asyncio.sleep(seconds)
    victim.thaw()
    scene.mark()
    for caller, pair in zip(callers, pairs, strict=True):
        for turn in pair:
            await scene.load.news.until(lambda turn=turn: turn.complete, f"the end of {turn.question.name}")  # type: ignore[misc]
        _are_whole(scene, caller, pair)
    scene.go_on()


async def _two_questions(scene: Scene, caller: Caller) -> tuple[Turn, Turn]:
    """Ask two questions, the second of which is in the log before the answer to the first is half there."""
    first = await caller.ask()
    await caller.hears(first, scene.rng.randint(1, LONG_WORDS // 4))
    second = await caller.ask()
    await eventually(partial(_is_logged, scene, caller, second.question.text), "a text in the log")
    return first, second


async def _is_logged(scene: Scene, caller: Caller, text: str) -> bool:
    newest = await scene.stack.log.last(SUBJECTS.call("agent", caller.session).evt("user.text"))
    return newest is not None and text.encode() in newest.data


def _are_whole(scene: Scene, caller: Caller, pair: tuple[Turn, Turn]) -> None:
    """Both answers came, but for the words that are unsure: a few, in one place."""
    came = [word in turn.words for turn in pair for word in range(1, LONG_WORDS + 1)]
    missing = [place for place, heard in enumerate(came, 1) if not heard]
    scene.figures["unsure"] = max(scene.figures.get("unsure", 0.0), len(missing))
    together = not missing or missing[-1] - missing[0] + 1 == len(missing)
    scene.expect(
        together and len(missing) <= UNSURE_WORDS,
        f"call {caller.number}: of two answers of {LONG_WORDS} words {missing} never came",
    )
