"""A call that is crashed at every point, one after the other, and must come out the same each time.

::

    async def script(call: SimulatedCall) -> None:
        await call.user("I want to pay")
        await call.hang_up()


    async def test_it_survives() -> None:
        await assert_survives_crashes(handle_call, script)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.events import tag_of
from unpod.runner.call import Entrypoint
from unpod.session.settings import SessionSettings
from unpod.testing.line import ALL_VERBS, Reply
from unpod.testing.simulate import SimulatedCall, simulate_call

Script = Callable[[SimulatedCall], Awaitable[object]]
T = TypeVar("T")

_NOTHING = object()


@dataclass(frozen=True)
class _Outcome:
    """What can be seen of a call from outside, and what its code has made of it."""

    reason: str
    said: Sequence[str]
    commands: Sequence[cmd.AnyCommand]
    replies: Mapping[int, Reply]
    data: Mapping[str, object]
    points: Sequence[str]
    command_ids: Sequence[str]
    facts: Sequence[object]


async def assert_survives_crashes(
    entrypoint: Entrypoint,
    script: Script,
    *,
    prepare: Callable[[], object] = lambda: None,
    settings: SessionSettings | None = None,
    metadata: Mapping[str, object] | None = None,
    verbs: Sequence[str] = ALL_VERBS,
    timeout_s: float = 5.0,
) -> int:
    """Run `script` on a simulated call, then again for each point of it with a crash there; return how many there were.

    The script is the caller's side; a call that still goes on at its end is hung up. `prepare` is called before each
    run, to reset what belongs to the test. A point is a record of the call, or a piece of a reply. Of the reply that
    a crash cuts, the caller may hear what `on_resume` says.

    Raises:
        AssertionError: after a crash a command was repeated or lost, the caller heard something else, a step's result
            was recorded twice, `session.data` is not equal, the code asked for other things when it ran again, or the
            call did not come to its end. The text says after which point, and what.
    """

    async def play(crash_at: int | None) -> _Outcome:
        prepare()
        async with simulate_call(
            entrypoint, settings=settings, metadata=metadata, verbs=verbs, crash_at=crash_at, timeout_s=timeout_s
        ) as call:
            await script(call)
            await call.hang_up()
            return await _outcome(call)

    expected = await play(None)
    apology = (settings or SessionSettings()).resume_apology
    for number, point in enumerate(expected.points, start=1):
        where = f"crash after point {number} of {len(expected.points)} ({point}): "
        try:
            found = await play(number)
        except TimeoutError as error:
            raise AssertionError(f"{where}the call did not go on within {timeout_s:g} s") from error
        except AssertionError as error:
            raise AssertionError(f"{where}{error}") from error
        problems = list(_problems(expected, found, apology))
        if problems:
            raise AssertionError(where + "; ".join(problems))
    return len(expected.points)


async def _outcome(call: SimulatedCall) -> _Outcome:
    return _Outcome(
        reason=call.reason or "",
        said=call.said,
        commands=[command for command in call.commands if not isinstance(command, cmd.EndReply)],
        replies=dict(call.line.replies),
        data=dict(call.context.session.data),
        points=tuple(call.points),
        command_ids=tuple(call.line.command_ids),
        facts=[record.body for record in await call.records()],
    )


def _problems(expected: _Outcome, found: _Outcome, apology: str) -> Iterator[str]:
    for fact in found.facts:
        if isinstance(fact, ev.Diverged):
            what = f"does {fact.found}" if fact.found else f"does not do {fact.expected}"
            yield f"when the code runs again it {what}"
    for name in _repeated((fact.step, fact.name) for fact in found.facts if isinstance(fact, ev.StepCompleted)):
        yield f"step {name[1]!r} was recorded twice"
    if _repeated(found.command_ids) or found.commands != expected.commands:
        yield f"commands: expected {_names(expected.commands)}, found {_names(found.commands)}"
    if found.said != expected.said:
        yield f"said: expected {list(expected.said)}, found {list(found.said)}"
    for turn in sorted({*expected.replies, *found.replies}):
        yield from _reply_problems(turn, expected.replies.get(turn), found.replies.get(turn), apology)
    if found.reason != expected.reason:
        yield f"the call ended with {found.reason!r} instead of {expected.reason!r}"
    for key in sorted({*expected.data, *found.data}, key=str):
        was, now = expected.data.get(key, _NOTHING), found.data.get(key, _NOTHING)
        if was != now:
            yield f"session.data[{key!r}] is {_shown(now)} instead of {_shown(was)}"


def _reply_problems(turn: int, was: Reply | None, now: Reply | None, apology: str) -> Iterator[str]:
    if was is None or now is None:
        yield f"the text {turn} was {'answered' if was is None else 'not answered'}"
        return
    if was.ended != now.ended:
        yield f"the reply to text {turn} was {'ended' if now.ended else 'not ended'}"
    cut = {was.text[:chars] + rest for chars in range(len(was.text) + 1) for rest in (apology, was.text)}
    if now.text != was.text and now.text not in cut:
        yield f"the reply to text {turn}: expected {was.text!r}, found {now.text!r}"


def _repeated(things: Iterable[T]) -> list[T]:
    return [thing for thing, count in Counter(things).items() if count > 1]


def _names(commands: Sequence[cmd.AnyCommand]) -> list[str]:
    return [tag_of(command) for command in commands]


def _shown(value: object) -> str:
    return "missing" if value is _NOTHING else repr(value)
