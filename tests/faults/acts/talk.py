"""Faults of the agent's own code, of the caller's manners, and of what must not be kept: rows 28 to 30, and 42."""

from __future__ import annotations

import asyncio

from tests.faults.load import PATIENCE_S, Caller
from tests.faults.scene import Scene
from tests.faults.words import WORDS

from unpod.core import events as ev

SECRET = "secret4111"
GROWS_MB = 64


async def hooks_misbehave(scene: Scene) -> None:
    """Hooks that always raise, that hang, and that flood `say`, one or the other at each turn."""
    before = {runner: runner.rss_mb for runner in scene.stack.runners}
    scene.load.orders = lambda _, __: frozenset({scene.rng.choice(("raise", "hang", "flood"))})
    scene.mark()
    await scene.load.answers(4)
    scene.load.orders = lambda _, __: frozenset()
    for runner, rss_mb in before.items():
        grown = runner.rss_mb - rss_mb
        scene.figures["rss_mb"] = max(grown, scene.figures.get("rss_mb", 0.0))
        scene.expect(grown < GROWS_MB, f"{runner!r} has grown by {grown:.0f} MiB")


async def their_failures_are_recorded(scene: Scene) -> None:
    """Each hook that raised or hung stands in the log."""
    for caller in scene.load.callers:
        failed = await _of(scene, caller, ev.HookFailed)
        answered = [turn.question.orders for turn in caller.turns if turn.done_at is not None]
        wanted = sum(bool(orders & {"raise", "hang"}) for orders in answered)
        scene.expect(failed >= wanted, f"call {caller.number}: {failed} failures of {wanted} are recorded")


async def brains_misbehave(scene: Scene) -> None:
    """Adapters that raise, hang, yield nothing, and yield 10 MB at once."""
    kinds = {"broken": 1, "mute": 0, "stuck": 1, "huge": 1}
    scene.load.orders = lambda _, __: frozenset({scene.rng.choice(sorted(kinds))})
    scene.load.lengths.update(kinds)
    scene.mark()
    await scene.load.answers(4)
    scene.load.orders = lambda _, __: frozenset()


async def their_errors_are_told(scene: Scene) -> None:
    """Each failure of an adapter stands in the log, and was told to the `error` hook."""
    for caller in scene.load.callers:
        failed = await _of(scene, caller, ev.AdapterFailed)
        answered = [turn.question.orders for turn in caller.turns if turn.done_at is not None]
        wanted = sum(bool(orders & {"broken", "stuck", "huge"}) for orders in answered)
        told = len(scene.stack.notes("error", caller.session))
        scene.expect(failed >= wanted, f"call {caller.number}: {failed} failures of {wanted} are recorded")
        scene.expect(told >= wanted, f"call {caller.number}: {told} failures of {wanted} were told to the error hook")


async def _of(scene: Scene, caller: Caller, kind: type) -> int:
    return sum(isinstance(record.body, kind) for record in await scene.stack.records(caller.session))


async def barge_in(scene: Scene) -> None:
    """Each caller cuts in at every point of a reply: before its first word, after each, and after its last."""
    await scene.hush()
    scene.mark()
    await asyncio.gather(*(_cut_in(scene, caller) for caller in scene.load.callers))
    scene.go_on()


async def _cut_in(scene: Scene, caller: Caller) -> None:
    points = list(range(WORDS + 1))
    scene.rng.shuffle(points)
    for point in points:
        turn = await caller.ask(frozenset())
        await caller.hears(turn, point)
        turn.given_up = True
        await caller.call.barge_in()
    last = await caller.ask(frozenset())
    await caller.answer(last)


# ------------------------------------------------------------------------------------------ what must not be recorded


async def begin_secret(scene: Scene) -> None:
    """Pause the recording of each call, and let it talk of what must not be kept."""
    await scene.hush()
    for caller in scene.load.callers:
        await caller.answer(await caller.ask(frozenset({"pause"})))
        scene.expect(caller.call.recording == "paused", f"call {caller.number} is not paused")
    scene.load.orders = lambda _, __: frozenset({"say", SECRET})
    scene.go_on()
    await scene.load.answers(1)


async def end_secret(scene: Scene) -> None:
    """See that the recording is still paused, resume it, and look for what was said meanwhile."""
    await scene.load.answers(2)
    await scene.hush()
    for caller in scene.load.callers:
        scene.expect(caller.call.recording == "paused", f"call {caller.number} is recorded again")
    for caller in scene.load.callers:
        await caller.answer(await caller.ask(frozenset({"resume", SECRET})))
        await caller.call.observed(lambda call: call.recording == "on", "the recording goes on", timeout_s=PATIENCE_S)
    scene.load.orders = lambda _, __: frozenset()
    scene.go_on()
    await scene.load.answers(1)
    for caller in scene.load.callers:
        await _look_for_secrets(scene, caller)


async def _look_for_secrets(scene: Scene, caller: Caller) -> None:
    secret = [turn.question.name for turn in caller.turns if SECRET in turn.question.orders]
    written = [process.text for process in (*scene.stack.runners, *scene.stack.bridges)]
    scene.expect(not any(SECRET in text for text in written), "what was withheld is in a process's log")
    for record in await scene.stack.records(caller.session):
        told = record.data.decode()
        found = SECRET in told or any(f"{name}w" in told or f"noted {name}" in told for name in secret)
        scene.expect(not found, f"call {caller.number}: {record.envelope.type} ({record.seq}) holds what was withheld")


async def pause_then_drop(scene: Scene) -> None:
    """The recording is paused, and each call's socket is cut."""
    await begin_secret(scene)
    scene.mark()
    for caller in scene.load.callers:
        await scene.load.words(scene.rng.randint(1, 8))
        caller.call.drop()
    await end_secret(scene)


async def pause_then_kill_nats(scene: Scene) -> None:
    """The recording is paused, and NATS is killed and restarted."""
    await begin_secret(scene)
    await scene.some_words()
    scene.mark()
    await scene.stack.server.kill()
    await end_secret(scene)


async def pause_then_kill_runner(scene: Scene) -> None:
    """The recording is paused, and a runner is killed."""
    await begin_secret(scene)
    await scene.some_words()
    scene.mark()
    await scene.kill(await scene.a_runner())
    await end_secret(scene)


async def pause_then_kill_bridge(scene: Scene) -> None:
    """The recording is paused, and a bridge is killed."""
    await begin_secret(scene)
    await scene.some_words()
    scene.mark()
    await scene.kill(await scene.a_bridge())
    await end_secret(scene)
