"""Faults of runners: rows 1 to 7, 9, 10, 37, 38, 40, 41, 43 and 52."""

from __future__ import annotations

import asyncio

from tests.faults.load import PATIENCE_S, Caller
from tests.faults.process import Process, eventually, until
from tests.faults.scene import Scene
from tests.faults.stack import SUBJECTS

from unpod.core import events as ev
from unpod.core.envelope import source

FEW_DIE = 2
"""How many processes one input may take with it."""
CLEANUPS = 4
"""A clean-up runs, and is tried again three times."""
LAG_S = 5.0
ENDING_S = 10.0
"""A second of drain, up to five until turns are over, and what hangs."""


async def killed_between_turns(scene: Scene) -> None:
    """SIGKILL while nobody says anything."""
    await scene.hush()
    victim = await scene.a_runner()
    scene.mark()
    await scene.kill(victim)
    scene.go_on()


async def killed_in_mid_reply(scene: Scene) -> None:
    """SIGKILL at a random word."""
    victim = await scene.a_runner()
    await scene.some_words()
    scene.mark()
    await scene.kill(victim)


async def dies_at_its_failpoint(scene: Scene) -> None:
    """The first runner kills itself where it was told to."""
    await scene.dead(scene.stack.runners[0])
    scene.mark()


async def killed_in_a_hook(scene: Scene) -> None:
    """SIGKILL between the two halves of a hook."""
    scene.load.orders = lambda _, __: frozenset({"twice"})
    await scene.load.answers(1)
    victim = await scene.a_runner()
    caller = scene.rng.choice(await scene.calls_of(victim))
    begun = len(scene.stack.notes("turn", caller.session))
    await until(lambda: len(scene.stack.notes("turn", caller.session)) > begun, "a hook that runs")
    scene.mark()
    await scene.kill(victim)


async def steps_are_not_repeated(scene: Scene) -> None:
    """A step whose result was stored ran once; one that was cut ran twice, with one key."""
    stored_by: dict[str, str] = {}
    for caller in scene.load.callers:
        for record in await scene.stack.records(caller.session):
            if isinstance(record.body, ev.StepCompleted):
                stored_by[record.body.step] = record.envelope.source
    dead = source("runner", scene.stack.runners[0].id)
    if scene.stack.setup.runner_failpoint == "step.stored":
        scene.expect(dead in stored_by.values(), "the runner has died with no result stored")
    runs: dict[str, list[str]] = {}
    for note in scene.stack.notes("charge"):
        runs.setdefault(str(note["turn"]), []).append(str(note["key"]))
    for turn, keys in runs.items():
        most = 1 if stored_by.get(keys[0]) == dead else 2
        scene.expect(len(keys) <= most, f"the step of {turn} ran {len(keys)} times")
        scene.expect(len(set(keys)) == 1, f"the step of {turn} ran again with another key")


async def frozen_and_thawed(scene: Scene) -> None:
    """SIGSTOP; another takes its calls over; SIGCONT: a zombie that still believes that they are its own."""
    victim = await scene.a_runner()
    sessions = [caller.session for caller in await scene.calls_of(victim)]
    await scene.some_words()
    scene.mark()
    victim.freeze()
    await scene.moved(sessions, victim)
    victim.thaw()
    for session in sessions:
        await victim.said(f"session {session}: another runner owns it now", scene.bounds.limit(5.0))


async def answers_late(scene: Scene) -> None:
    """A runner is asked while it is stopped, another takes the call, and then the first answers as well."""
    late = await scene.stack.start_runner()
    await late.said("ready: agent")
    late.freeze()
    scene.mark()
    begun = asyncio.get_running_loop().time()
    fresh = await scene.load.dial(4)
    scene.figures["placing_s"] = asyncio.get_running_loop().time() - begun
    scene.expect(scene.figures["placing_s"] < scene.bounds.limit(1.0), "the calls were placed too late")
    late.thaw()
    for caller in fresh:
        await caller.answer(await caller.ask(frozenset({"say"})))
        owners = [record for record in await scene.stack.records(caller.session) if record.channel == "own"]
        scene.expect(len(owners) == 1, f"call {caller.number} had {len(owners)} owners")


async def the_only_one_dies(scene: Scene) -> None:
    """The only runner is killed; callers wait until another is started."""
    (victim,) = scene.stack.runners
    await scene.some_words()
    await scene.kill(victim)
    await asyncio.sleep(scene.bounds.away_s / 3)
    scene.expect(len(scene.load.living) == len(scene.load.callers), "a call ended while nobody was there")
    fresh = await scene.stack.start_runner()
    await fresh.said("ready: agent")
    scene.mark()


async def rolling_restart(scene: Scene) -> None:
    """SIGTERM to each runner in turn, with a new one there before."""
    scene.mark()
    for old in tuple(scene.stack.runners):
        fresh = await scene.stack.start_runner()
        await fresh.said("ready: agent")
        await scene.some_words()
        scene.expected_deaths.add(old)
        old.terminate()
        status = await old.exited(PATIENCE_S)
        scene.expect(status == 0, f"{old!r} ended with {status}")
        scene.mark()
    scene.expect(len(scene.load.living) == len(scene.load.callers), "a call was dropped")


async def burns(scene: Scene) -> None:
    """A hook of one call takes the whole processor for longer than a runner may lag; the others' calls move."""
    ((victim, _),) = (await scene.runners()).most_common(1)
    caller = scene.rng.choice(await scene.calls_of(victim))
    caller.hush()
    await caller.quiet()
    caller.poisonous = True
    (await caller.ask(frozenset({"burn"}))).given_up = True
    scene.mark()
    others = [each.session for each in await scene.calls_of(victim) if each is not caller]
    await scene.moved(others, victim)
    moved_s = asyncio.get_running_loop().time() - scene.marked_at
    scene.figures["moved_s"] = moved_s
    scene.expect(moved_s < LAG_S + scene.bounds.limit(2.0), f"the other calls moved after {moved_s:.1f} s")
    caller.go_on()
    burnt = {
        note["pid"]
        for note in scene.stack.notes("turn", caller.session)
        if note["turn"] == caller.turns[-1].question.name
    }
    scene.expect(len(burnt) <= FEW_DIE, f"one hook has frozen {len(burnt)} runners")


async def hangs_in_all_threads(scene: Scene) -> None:
    """Tools and hooks of one call hang in all threads that there are; then its runner is told to end."""
    victim = await scene.a_runner()
    caller = scene.rng.choice(await scene.calls_of(victim))
    caller.hush()
    await caller.quiet()
    scene.mark()
    (await caller.ask(frozenset({"threads"}))).given_up = True
    await scene.stack.noted("threads", 1)
    note = scene.stack.notes("threads")[0]
    scene.expect(note["told"] == note["of"], f"{note['told']} of {note['of']} tools were told to be over their time")
    caller.go_on()
    await scene.load.answers(2)
    scene.expected_deaths.add(victim)
    begun = asyncio.get_running_loop().time()
    victim.terminate()
    status = await victim.exited(PATIENCE_S)
    scene.figures["ending_s"] = asyncio.get_running_loop().time() - begun
    scene.expect(status == 0, f"{victim!r} ended with {status}")
    scene.expect(scene.figures["ending_s"] < scene.bounds.limit(ENDING_S), "it took its time to end")


async def one_input_kills(scene: Scene) -> None:
    """A hook kills its process at one input of one call, wherever it is run."""
    caller = scene.rng.choice(scene.load.callers)
    caller.hush()
    await caller.quiet()
    scene.expected_deaths.update(scene.stack.runners)
    caller.poisonous = True
    (await caller.ask(frozenset({"kill"}))).given_up = True
    scene.mark()
    await scene.stack.noted("turn", 1)
    await eventually(lambda: _has(scene, caller, ev.HookPoisoned), "that the input is passed over")
    caller.go_on()


async def few_have_died(scene: Scene) -> None:
    """At most two processes have died of one input."""
    scene.expect(len(_dead(scene)) <= FEW_DIE, f"{len(_dead(scene))} processes have died")


async def _has(scene: Scene, caller: Caller, kind: type) -> bool:
    return any(isinstance(record.body, kind) for record in await scene.stack.records(caller.session))


async def the_last_record_is_missed(scene: Scene) -> None:
    """A runner is off NATS for the moment in which a caller says something, and nobody speaks again."""
    await scene.hush()
    victim = await scene.a_runner()
    callers = await scene.calls_of(victim)
    wire = scene.stack.wire_of(victim)
    wire.held = True
    wire.cut()
    turns = [await caller.ask(frozenset({"say"})) for caller in callers]
    for caller, turn in zip(callers, turns, strict=True):
        await _stored(scene, caller, turn.question.text)
    wire.held = False
    await until(lambda: wire.connections > 0, "the runner is back at NATS")
    scene.mark()
    for caller, turn in zip(callers, turns, strict=True):
        await caller.answer(turn, scene.bounds.limit(2.0))
    scene.go_on()


async def the_last_command_is_missed(scene: Scene) -> None:
    """A bridge is off NATS for the moment in which a reply ends, and nobody speaks again."""
    await scene.hush()
    victim = await scene.a_bridge()
    callers = await scene.calls_of(victim)
    wire = scene.stack.wire_of(victim)
    turns = [await caller.ask(frozenset()) for caller in callers]
    await scene.load.news.until(lambda: all(turn.words for turn in turns), "the first words")
    wire.held = True
    wire.cut()
    for caller in callers:
        await _ended(scene, caller)
    wire.held = False
    await until(lambda: wire.connections > 0, "the bridge is back at NATS")
    scene.mark()
    for caller, turn in zip(callers, turns, strict=True):
        await caller.answer(turn, scene.bounds.limit(2.0))
    scene.go_on()


async def _stored(scene: Scene, caller: Caller, text: str) -> None:
    subject = SUBJECTS.call("agent", caller.session).evt("user.text")
    await eventually(lambda: _last_has(scene, subject, text), f"{text!r} in the log")


async def _ended(scene: Scene, caller: Caller) -> None:
    """Return once the owner has stored the end of the reply to the caller's last question."""
    subject = SUBJECTS.call("agent", caller.session).cmd
    await eventually(lambda: _last_has(scene, subject, f'"turn":{len(caller.turns)},'), "the reply's end in the log")


async def _last_has(scene: Scene, subject: str, text: str) -> bool:
    last = await scene.stack.log.last(subject)
    return last is not None and text.encode() in last.data


async def deployed(scene: Scene) -> None:
    """A runner with other code takes over calls of many turns."""
    old = tuple(scene.stack.runners)
    await scene.load.answers(20 if scene.bounds.whole else 4)
    fresh = await scene.stack.start_runner(UNPOD_FAULTS_VERSION="2")
    await fresh.said("ready: agent")
    await scene.hush()
    scene.figures["asked"] = sum(len(caller.turns) for caller in scene.load.callers)
    for caller in scene.load.callers:
        caller.before = len(caller.turns)
    scene.mark()
    for runner in old:
        await scene.kill(runner)
    scene.go_on()


async def nothing_old_is_said(scene: Scene) -> None:
    """The new code has neither greeted anew nor answered old questions, and that it wanted to is recorded."""
    for caller in scene.load.callers:
        said = [str(frame.raw["text"]) for frame in caller.call.frames if frame.event == "agent.say"]
        old = {turn.question.name for turn in caller.turns[: caller.before]}
        scene.expect(not any("version 2 welcomes" in text for text in said), f"call {caller.number} was greeted anew")
        late = [text for text in said if text.startswith("version 2 notes") and text.split()[-1] in old]
        scene.expect(not late, f"call {caller.number} was told {late[:3]}")
        new = [text for text in said if text.startswith("version 2 notes") and text.split()[-1] not in old]
        scene.expect(new, f"call {caller.number}: the new code did nothing")
        scene.expect(await _has(scene, caller, ev.Diverged), f"call {caller.number}: no divergence is recorded")


async def killed_in_cleanup(scene: Scene) -> None:
    """The clean-up of one call kills its process, each time, while nobody talks; dead runners are started again."""
    doomed = await _doom(scene)
    await scene.hush()
    await _clean_up(scene, doomed)
    scene.mark()
    scene.go_on()


async def killed_in_cleanup_under_load(scene: Scene) -> None:
    """The same, while the others talk: each death takes some of them in the middle of a reply."""
    doomed = await _doom(scene)
    await _clean_up(scene, doomed)
    scene.mark()


async def _doom(scene: Scene) -> Caller:
    """Make the clean-up of one call deadly; return its caller."""
    doomed = scene.rng.choice(scene.load.callers)
    doomed.hush()
    await doomed.quiet()
    await doomed.answer(await doomed.ask(frozenset({"doom"})))
    return doomed


async def _clean_up(scene: Scene, doomed: Caller) -> None:
    supervising = asyncio.create_task(_supervise(scene))
    try:
        await doomed.call.hang_up()
        await scene.stack.noted("over", CLEANUPS)
        await until(lambda: "its cleanup is given up" in _said(scene), "that it is given up")
        await until(lambda: len(scene.expected_deaths) >= CLEANUPS, "new runners")
        await scene.owned([caller.session for caller in scene.load.living])
    finally:
        supervising.cancel()
        await asyncio.gather(supervising, return_exceptions=True)
    tried = len(scene.stack.notes("over", doomed.session))
    scene.expect(tried <= CLEANUPS, f"the clean-up ran {tried} times")
    doomed.orphaned = True


def _dead(scene: Scene) -> list[Process]:
    return [runner for runner in scene.stack.runners if not runner.alive]


def _said(scene: Scene) -> str:
    return "".join(bridge.text for bridge in scene.stack.bridges)


async def _supervise(scene: Scene) -> None:
    """Start a runner for each that dies."""
    while True:
        for runner in scene.stack.runners:
            if not runner.alive and runner not in scene.expected_deaths:
                scene.expected_deaths.add(runner)
                await scene.stack.start_runner()
        await asyncio.sleep(0.05)
