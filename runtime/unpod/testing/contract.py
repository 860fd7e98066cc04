"""What every brain promises, as a suite that anyone can run on an adapter of theirs.

::

    @pytest.mark.parametrize("promise", ADAPTER_PROMISES)
    async def test_my_adapter(promise: str) -> None:
        await adapter_contract(make_my_adapter, promises=[promise])

`make_my_adapter(model)` returns an adapter whose model is `model`: a server of the test, or a stand-in for the vendor's
client, asks `model.answer(prompt)` for what to say. It may be async, or an async context manager for what has to be
closed. One that takes no argument gets only the promises that need no model.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final

from msgspec.structs import asdict

from unpod.adapters.pieces import LLMCall, Piece
from unpod.adapters.protocol import accepted_options
from unpod.adapters.view import AdapterView, check_adapter
from unpod.testing.fake_model import Answer, FakeModel

WAIT_S: Final = 15.0
"""How long a check waits for what is promised at once: a busy machine is no broken promise."""

CONTEXT: Final[dict[str, object]] = {
    "call_id": "call-1",
    "session_id": "call-1",
    "turn_number": 1,
    "direction": "inbound",
    "user_number": "+15550100",
    "instructions": None,
    "data": {},
}

Make = Callable[..., object]
Check = Callable[[Make], Awaitable[None]]


async def adapter_contract(
    make_adapter: Make, *, promises: Collection[str] | None = None, without: Collection[str] = ()
) -> list[str]:
    """Check the promises of an adapter, all of them unless told which, and return the names of those checked.

    Raises:
        AssertionError: some are broken; the text says which, and how.
        ValueError: there is no promise of that name.
    """
    unknown = {*(promises or ()), *without} - set(_CHECKS)
    if unknown:
        raise ValueError(f"no promises {sorted(unknown)}; there are: {', '.join(_CHECKS)}")
    wanted = [name for name in _CHECKS if (promises is None or name in promises) and name not in without]
    if not _takes_model(make_adapter):
        wanted = [name for name in wanted if name in WITHOUT_MODEL]
    broken: list[str] = []
    for name in wanted:
        try:
            async with asyncio.timeout(WAIT_S * 2):
                await _CHECKS[name](make_adapter)
        except TimeoutError:
            broken.append(f"{name}: it hangs")
        except AssertionError as error:
            broken.append(f"{name}: {error}")
    if broken:
        raise AssertionError("; ".join(broken))
    return wanted


# --- the promises -----------------------------------------------------------------------------------------------------


async def _streams(make: Make) -> None:
    model = FakeModel(Answer(("Good ",), "hang"), Answer(("Good ", "evening", ".")))
    async with _made(make, model) as view, aclosing(_open(view, "hello")) as pieces:
        first = await anext(pieces, None)
        _hold(first == "Good ", f"the first piece is {first!r} while the model has said 'Good ' and thinks")
    async with _made(make, model) as view:
        _hold(await _reply(view, "hello") == "Good evening.", "the pieces are not the model's")


async def _is_cancelled(make: Make) -> None:
    """A barge-in closes the provider's stream: before the first piece, between two, and while it is waited for."""
    for pieces in ((), ("Good ",)):
        model = FakeModel(Answer(pieces, "hang"), Answer(("Go on",)))
        async with _made(make, model) as view:
            task = asyncio.ensure_future(_reply(view, "hello"))
            await asyncio.wait_for(model.hanging.wait(), WAIT_S)
            task.cancel()
            await asyncio.wait({task}, timeout=WAIT_S)
            _hold(task.cancelled(), "its stream does not end when it is cancelled")
            await _stopped(model)
            await view.mark_interrupted("")
            _hold(await _reply(view, "go on") == "Go on", "it does not answer after an interruption")


async def _is_closed(make: Make) -> None:
    model = FakeModel(Answer(("Good ",), "hang"))
    async with _made(make, model) as view:
        async with aclosing(_open(view, "hello")) as pieces:
            _hold(await anext(pieces, None) == "Good ", "no piece came")
        await _stopped(model)


async def _stopped(model: FakeModel) -> None:
    try:
        await asyncio.wait_for(model.stopped.wait(), WAIT_S)
    except TimeoutError:
        raise AssertionError("the model's stream was not closed") from None


async def _remembers(make: Make) -> None:
    model = FakeModel(Answer(("Good ", "evening")))
    async with _made(make, model) as view:
        await _reply(view, "my name is Ada")
        await _reply(view, "and now")
        _shows(model, "my name is Ada", "Good evening", "and now")


async def _forgets_what_was_not_heard(make: Make) -> None:
    for heard, shown, hidden in (("Good eve", "Good eve", "evening Ada"), ("", "", "Good ")):
        model = FakeModel(Answer(("Good ", "evening", " Ada")))
        async with _made(make, model) as view:
            await _reply(view, "hello")
            await view.mark_interrupted(heard)
            await _reply(view, "wait")
            _shows(model, shown)
            _hold(hidden not in model.prompts[-1], f"the caller heard {heard!r}, and the model is shown more")
    model = FakeModel()
    async with _made(make, model) as view:
        await _reply(view, "hello")
        await view.mark_interrupted(None)
        _hold(await _reply(view, "go on"), "it does not answer after mark_interrupted(None)")


async def _is_restored(make: Make) -> None:
    model = FakeModel()
    async with _made(make, model) as view:
        _hold(view.has_restore, "it has no restore()")
        await view.restore([{"role": "user", "content": "I am Ada"}, {"role": "assistant", "content": "Hello Ada"}])
        await _reply(view, "who am I")
        _shows(model, "I am Ada", "Hello Ada", "who am I")


async def _takes_notes(make: Make) -> None:
    model = FakeModel()
    async with _made(make, model) as view:
        await view.assist("The caller is a member")
        await _reply(view, "hello")
        _shows(model, "The caller is a member")


async def _fails_at_once(make: Make) -> None:
    model = FakeModel(Answer((), "fail"), Answer(("Here I am",)))
    async with _made(make, model) as view:
        said, error = await _attempt(view, "my secret")
        _hold(error is not None or said, "the provider fails, and nobody is told")
        _hold("my secret" not in str(error), "the error quotes what the caller has said")
        _hold(await _reply(view, "again") == "Here I am", "it does not answer after a failure")


async def _fails_in_mid_reply(make: Make) -> None:
    model = FakeModel(Answer(("Good ", "even"), "fail"), Answer(("Here I am",)))
    async with _made(make, model) as view:
        said, error = await _attempt(view, "my secret")
        _hold(error is not None, "the provider fails in the middle, and it passes as a whole reply")
        _hold("Good even".startswith(said), f"{said!r} was said, and the model had said 'Good even'")
        _hold("my secret" not in str(error), "the error quotes what the caller has said")
        _hold(await _reply(view, "again") == "Here I am", "it does not answer after a failure")


async def _says_nothing(make: Make) -> None:
    model = FakeModel(Answer(()), Answer(("Here I am",)))
    async with _made(make, model) as view:
        _hold(await _reply(view, "hello") == "", "the model says nothing, and the brain says something")
        _hold(await _reply(view, "again") == "Here I am", "it does not answer after an empty reply")


async def _knows_the_language(make: Make) -> None:
    model = FakeModel()
    async with _made(make, model) as view:
        _hold(await _reply(view, "ola", language="pt-BR"), "it does not answer a text with a language")
        _hold(await _reply(view, "hello"), "it does not answer a text without a language")
        if "language" in accepted_options(view.adapter.stream):
            _hold("pt-BR" in model.prompts[0], "it takes the language, and the model is not told")


async def _is_metered(make: Make) -> None:
    model, calls = FakeModel(), list[dict[str, object]]()
    async with _made(make, model) as view:
        view.register_llm_callback(lambda **fields: calls.append(fields))
        async with aclosing(_open(view, "hello")) as pieces:
            async for piece in pieces:
                calls += [asdict(piece)] if isinstance(piece, LLMCall) else []
        _hold(calls or not hasattr(view.adapter, "register_llm_callback"), "no model call was reported")
        for call in calls:
            missing = [name for name in ("model", "latency_ms") if call[name] is None]
            _hold(not missing, f"a model call was reported without {missing}")


async def _has_company(make: Make) -> None:
    """Calls beside each other do not mix."""
    answers = [("You ", "are ", f"caller {number}") for number in range(5)]
    models = [FakeModel(Answer(pieces), Answer(pieces)) for pieces in answers]

    async def talk(number: int) -> str:
        async with _made(make, models[number]) as view:
            await _reply(view, f"I am number {number}")
            return await _reply(view, "who am I")

    replies = await asyncio.gather(*(talk(number) for number in range(5)))
    _hold(replies == ["".join(pieces) for pieces in answers], f"calls are mixed up: {replies}")
    for number, model in enumerate(models):
        strangers = [other for other in range(5) if other != number and f"number {other}" in model.prompts[-1]]
        _hold(not strangers, "one call's brain is shown another call's texts")


# --- those that need no model -----------------------------------------------------------------------------------------


async def _answers(make: Make) -> None:
    async with _made(make, None) as view:
        said = await _reply(view, "hello")
        _hold(isinstance(await view.adapter.turn("hello"), str), "turn() returns no text")
        _hold(said is not None, "it answers nothing")


async def _can_be_stopped(make: Make) -> None:
    async with _made(make, None) as view:
        async with aclosing(_open(view, "hello")) as pieces:
            await anext(pieces, None)
        for heard in ("", "He", None):
            await view.mark_interrupted(heard)
            await _attempt(view, "go on")
        await view.assist("The caller is a member")
        await view.restore([{"role": "user", "content": "I am Ada"}, {"role": "assistant", "content": "Hello Ada"}])
        _, error = await _attempt(view, "hello", language="pt-BR")
        _hold(error is None, f"it fails after interruptions, a note and a restore: {type(error).__name__}")
        view.is_complete()


_CHECKS: Final[dict[str, Check]] = {
    "answers": _answers,
    "can be stopped": _can_be_stopped,
    "streaming": _streams,
    "cancellation": _is_cancelled,
    "closing": _is_closed,
    "memory": _remembers,
    "mark_interrupted": _forgets_what_was_not_heard,
    "restore": _is_restored,
    "notes": _takes_notes,
    "errors before the first piece": _fails_at_once,
    "errors in mid-reply": _fails_in_mid_reply,
    "empty replies": _says_nothing,
    "language": _knows_the_language,
    "metering": _is_metered,
    "concurrency": _has_company,
}

WITHOUT_MODEL: Final = frozenset({"answers", "can be stopped"})
ADAPTER_PROMISES: Final[Sequence[str]] = tuple(_CHECKS)
"""The names of the promises."""


# --- parts ------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _made(make: Make, model: FakeModel | None) -> AsyncIterator[AdapterView]:
    made: Any = make(model or FakeModel()) if _takes_model(make) else make()
    if hasattr(made, "__aenter__"):
        async with made as adapter:
            yield check_adapter(adapter)
        return
    yield check_adapter(await made if inspect.isawaitable(made) else made)


def _takes_model(make: Make) -> bool:
    parameters = inspect.signature(make).parameters.values()
    return any(p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)


def _open(view: AdapterView, text: str, language: str | None = None) -> AsyncGenerator[Piece, None]:
    return view.open(text, context=CONTEXT, language=language)


async def _attempt(view: AdapterView, text: str, language: str | None = None) -> tuple[str, Exception | None]:
    said: list[str] = []
    try:
        async with aclosing(view.open(text, context=CONTEXT, language=language)) as pieces:
            async for piece in pieces:
                said += [piece] if isinstance(piece, str) else []
    except Exception as error:  # noqa: BLE001 - a brain may raise anything
        return "".join(said), error
    return "".join(said), None


async def _reply(view: AdapterView, text: str, language: str | None = None) -> str:
    said, error = await _attempt(view, text, language)
    _hold(error is None, f"it raised {type(error).__name__}: {error}")
    return said


def _shows(model: FakeModel, *texts: str) -> None:
    missing = [text for text in texts if text not in model.prompts[-1]]
    _hold(not missing, f"the model is not shown {missing}")


def _hold(kept: object, otherwise: str) -> None:
    """Raise where a promise is not kept; no `assert`, which Python's -O would leave out."""
    if not kept:
        raise AssertionError(otherwise)
