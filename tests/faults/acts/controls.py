"""Controls from outside, too often and too many: row 36."""

from __future__ import annotations

import asyncio
from collections import Counter

from tests.faults.load import Caller
from tests.faults.scene import Scene

from unpod import AsyncClient, ControlRefused, ControlUnanswered
from unpod.core import events as ev

MANY = 1_000
GROWS_MB = 64
CLIENTS = 3
IN_FLIGHT = 2
"""How many controls of one call can be on their way at the two deaths."""


async def twice_and_many(scene: Scene) -> None:
    """Each call is told one thing by three clients at once, with one id; then one call a thousand things."""
    url = scene.stack.server.url
    scene.mark()
    async with AsyncClient(nats_url=url) as one, AsyncClient(nats_url=url) as two, AsyncClient(nats_url=url) as three:
        said = [
            client.sessions.say(caller.session, _once(caller.number), command_id="once")
            for caller in scene.load.callers
            for client in (one, two, three)
        ]
        scene.expect(
            len(await asyncio.gather(*said)) == CLIENTS * len(scene.load.callers), "not every one was answered"
        )
        await _many(scene, one)


async def _many(scene: Scene, client: AsyncClient) -> None:
    caller = scene.rng.choice(scene.load.callers)
    before = {process: process.rss_mb for process in (*scene.stack.bridges, *scene.stack.runners)}
    loop = asyncio.get_running_loop()
    begun = loop.time()

    async def whisper(number: int) -> bool:
        try:
            await client.sessions.whisper(caller.session, f"note {number}")
        except ControlRefused:
            return False
        return True

    answers = await asyncio.gather(*(whisper(number) for number in range(MANY)))
    scene.figures["answered_s"] = loop.time() - begun
    scene.expect(any(answers), "none of a thousand controls was applied")
    scene.expect(not all(answers), "a thousand controls at once were all applied: there is no bound")
    for process, rss_mb in before.items():
        grown = process.rss_mb - rss_mb
        scene.figures["rss_mb"] = max(grown, scene.figures.get("rss_mb", 0.0))
        scene.expect(grown < GROWS_MB, f"{process!r} has grown by {grown:.0f} MiB")


async def each_was_done_once(scene: Scene) -> None:
    """What was asked for three times was said once."""
    for caller in scene.load.callers:
        texts = [frame.raw.get("text") for frame in caller.call.frames if frame.event == "agent.say"]
        found = texts.count(_once(caller.number))
        scene.expect(found == 1, f"call {caller.number}: it was said {found} times")
    await each_was_answered_once(scene)


async def each_was_answered_once(scene: Scene) -> None:
    """Each control has one answer in the log, and was performed once."""
    for caller in scene.load.callers:
        records = await scene.stack.records(caller.session)
        answers = [record.body for record in records if isinstance(record.body, ev.ControlAnswered)]
        first = [answer.control for answer in answers if answer.outcome in ("admitted", "refused")]
        scene.expect(len(first) == len(set(first)), f"call {caller.number}: a control was answered twice")
        performed = [record.body.control for record in records if isinstance(record.body, ev.ControlPerformed)]
        scene.expect(len(performed) == len(set(performed)), f"call {caller.number}: a control was performed twice")


def _once(number: int) -> str:
    return f"said from outside to call {number}"


async def while_they_die(scene: Scene) -> None:
    """Each call is told things, one after the other, while a runner and a bridge are killed."""
    async with AsyncClient(nats_url=scene.stack.server.url) as client:
        over = asyncio.Event()
        telling = asyncio.gather(*(_tell(scene, client, caller, over) for caller in scene.load.callers))
        await scene.some_words()
        scene.mark()
        await scene.kill(await scene.a_runner())
        await scene.some_words()
        await scene.kill(await scene.a_bridge())
        await scene.load.answers(2)
        over.set()
        told = await telling
    scene.told = dict(item for each in told for item in each)


async def _tell(scene: Scene, client: AsyncClient, caller: Caller, over: asyncio.Event) -> list[tuple[str, str]]:
    """Return each text with what the client was told of it."""
    found: list[tuple[str, str]] = []
    while not over.is_set():
        number = len(found)
        await scene.load.words(1)
        text = f"told call {caller.number} thing {number}"
        try:
            await client.sessions.say(caller.session, text)
        except ControlRefused as refusal:
            found.append((text, refusal.outcome))
        except ControlUnanswered:
            found.append((text, "unanswered"))
        else:
            found.append((text, "applied"))
        scene.figures["controls"] = scene.figures.get("controls", 0.0) + 1
    return found


async def they_were_told_the_truth(scene: Scene) -> None:
    """What was applied was said once, what was refused never, and what nobody knows at most once."""
    said = Counter(
        str(frame.raw.get("text"))
        for caller in scene.load.callers
        for frame in caller.call.frames
        if frame.event == "agent.say"
    )
    for text, outcome in scene.told.items():
        right = {"applied": {1}, "refused": {0}}.get(outcome, {0, 1})
        scene.expect(said[text] in right, f"{text!r} is {outcome}, and was said {said[text]} times")
    outcomes = Counter(scene.told.values())
    unknown = (
        outcomes["failed"] + outcomes["unanswered"]
    )  # refused are those that came faster than a session takes them
    bound = IN_FLIGHT * len(scene.load.callers)
    scene.expect(outcomes["applied"], "none was applied")
    scene.expect(unknown <= bound, f"of {unknown} nobody knows what became of them: {dict(outcomes)}")
    await each_was_answered_once(scene)
