"""What every adapter promises, as a suite that anyone can run on an adapter of theirs.

::

    @pytest.mark.parametrize("promise", ADAPTER_PROMISES)
    async def test_my_adapter(promise: str) -> None:
        await adapter_contract(make_my_adapter, promises=[promise])

`make_my_adapter(model)` returns an adapter whose model is `model`: a server of the test, or a stand-in for the vendor's
client, asks `model.answer(prompt)` for what to say. It may be async, or an async context manager for what has to be
closed. One that takes no argument gets only the promises that need no model. One with a parameter `tools` is held to
`TOOL_PROMISES`, too: its adapter offers these plain functions to its model.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final

from msgspec.structs import asdict

from unpod.adapters.adapter import AdapterView, check_adapter
from unpod.adapters.pieces import ChatMessage, LLMCall, Piece, ToolCall, ToolResult, UsedTool
from unpod.adapters.protocol import accepted_options
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

SMILE: Final = "\U0001f600"
CUTS: Final = 20
MOST_ROUNDS: Final = 50
"""How often a model may ask for tools in one reply, before somebody says that it is enough."""

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
    elif not _takes_tools(make_adapter):
        wanted = [name for name in wanted if name not in TOOL_PROMISES]
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
    """A model that says nothing leaves a reply empty, or makes it fail, for which a session has a phrase."""
    model = FakeModel(Answer(()), Answer(("Here I am",)))
    async with _made(make, model) as view:
        said, _ = await _attempt(view, "hello")
        _hold(said == "", "the model says nothing, and the adapter says something")
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
        _hold(not strangers, "one call's adapter is shown another call's texts")


async def _speaks_whole_characters(make: Make) -> None:
    """Half a character, as a model's token can be, waits for the other half."""
    high, low = "\ud83d", "\ude00"
    model = FakeModel(Answer((f"Hi {high}", f"{low}!")), Answer((f"Hi {high}",)))
    async with _made(make, model) as view:
        said = await _reply(view, "hello")
        _hold(
            said == f"Hi {SMILE}!", f"{said!r} is said, and the model had said 'Hi {SMILE}!' with a cut in the middle"
        )
        cut = await _reply(view, "again")
        _hold(not _has_halves(cut), "half a character is said")
        await _reply(view, "and now")
        _hold(not _has_halves(model.prompts[-1]), "the model is sent half a character, which no server takes")


async def _survives_blank_replies(make: Make) -> None:
    """Whitespace is not worth a turn in the memory; some vendors refuse it for ever after."""
    model = FakeModel(Answer((" ", "\n")), Answer(("Here I am",)))
    async with _made(make, model) as view:
        await _attempt(view, "hello")
        await view.mark_interrupted(" ")
        _hold(await _reply(view, "again") == "Here I am", "it does not answer after a blank reply")


async def _survives_blank_texts(make: Make) -> None:
    model = FakeModel()
    async with _made(make, model) as view:
        for text in ("", " "):
            _, error = await _attempt(view, text)
            _hold(error is None, f"a text of the caller's that is blank fails: {type(error).__name__}: {error}")
        _hold(await _reply(view, "again"), "it does not answer after a blank text of the caller's")


async def _is_cut_off_often(make: Make) -> None:
    """A caller who cuts in uses nothing up: no connection, no lock."""
    model = FakeModel(*[Answer(("Good ",), "hang")] * CUTS)
    async with _made(make, model) as view:
        for _ in range(CUTS):
            async with aclosing(_open(view, "hello")) as pieces:
                await anext(pieces, None)
            await view.mark_interrupted("Good")
        _hold(await _reply(view, "go on"), f"it does not answer after {CUTS} interruptions")


# --- for adapters that run tools --------------------------------------------------------------------------------------


class _Kitchen:
    """A tool that needs no argument at all: one that is run without any is seen."""

    def __init__(self) -> None:
        self.orders: list[str] = []
        self.ended = asyncio.Event()
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def order(self, pizza: str = "everything") -> str:
        """Order a pizza."""
        self.orders.append(pizza)
        number = len(self.orders)
        self.begun.set()
        await self.may_end.wait()
        self.ended.set()
        return f"number {number}"


def _order(arguments: object = None, call_id: str = "call00001") -> ToolCall:
    return ToolCall("order", {"pizza": "margherita"} if arguments is None else arguments, call_id)


async def _uses_tools(make: Make) -> None:
    kitchen, model = _Kitchen(), FakeModel(Answer(("One moment. ", _order())), Answer(("It is ready.",)))
    async with _made(make, model, kitchen.order) as view:
        async with aclosing(_open(view, "a margherita")) as pieces:
            got = [piece async for piece in pieces if not isinstance(piece, LLMCall)]
        _hold(
            kitchen.orders == ["margherita"], f"the tool is run with {kitchen.orders}, and not once with 'margherita'"
        )
        kinds = [type(piece) for piece in got]
        _hold(kinds == [str, ToolCall, ToolResult, str], f"it reports {kinds}: not the tool's call and its result")
        _shows(model, "number 1")
        _hold(await _reply(view, "thanks"), "it does not answer after a tool was used")
        _shows(model, "number 1", "It is ready.")


async def _runs_no_tool_by_guess(make: Make) -> None:
    """Arguments that were cut off, or are no object, are not those that the model meant: nothing is done."""
    for arguments in ('{"pizza": "margherita', '["margherita"]', "0", '""', "nonsense"):
        kitchen, model = _Kitchen(), FakeModel(Answer((_order(arguments),)), Answer(("Which one?",)))
        async with _made(make, model, kitchen.order) as view:
            said = await _reply(view, "a margherita")
            _hold(kitchen.orders == [], f"the tool is run with {kitchen.orders}; the arguments were {arguments!r}")
            _hold(said == "Which one?", f"the model is not told that its arguments {arguments!r} are none")
            _hold(await _reply(view, "funghi"), f"it does not answer after the arguments {arguments!r}")


async def _survives_made_up_tools(make: Make) -> None:
    for name in ("bake", "functions.order now", "x" * 90, "$"):
        kitchen, model = _Kitchen(), FakeModel(Answer((ToolCall(name, {}, "call00001"),)), Answer(("No.",)))
        async with _made(make, model, kitchen.order) as view:
            said = await _reply(view, "a margherita")
            _hold(kitchen.orders == [], f"a tool is run though the model has asked for {name!r}, which there is not")
            _hold(said == "No.", f"the model is not told that there is no tool {name!r}")
            _hold(await _reply(view, "again"), f"it does not answer after the made-up tool {name!r}")


def _failing(error: BaseException) -> Callable[[], str]:
    def bake() -> str:
        """Bake."""
        raise error

    return bake


async def _survives_failing_tools(make: Make) -> None:
    for error in (ValueError("the oven is cold"), StopIteration("cold"), asyncio.CancelledError("cold")):
        model = FakeModel(Answer((ToolCall("bake", {}, "call00001"),)), Answer(("Sorry.",)))
        async with _made(make, model, _failing(error)) as view:
            said = await _reply(view, "a margherita")
            _hold(said == "Sorry.", f"the model is not told of a tool that raises {type(error).__name__}")
            _hold(await _reply(view, "again"), f"it does not answer after a tool that raised {type(error).__name__}")


class _Oven:
    """A tool that ends when two of it run."""

    def __init__(self) -> None:
        self.orders: list[str] = []
        self.both = asyncio.Event()

    async def order(self, pizza: str) -> str:
        """Order a pizza."""
        self.orders.append(pizza)
        if len(self.orders) > 1:
            self.both.set()
        await self.both.wait()
        return f"{pizza} is ready"


async def _runs_tools_side_by_side(make: Make) -> None:
    """Two calls in one answer are two, under one id as well, and the second does not wait for the first."""
    for second in ("call00002", "call00001"):
        both = (_order({"pizza": "funghi"}), _order({"pizza": "marinara"}, second))
        model, oven = FakeModel(Answer(both), Answer(("Ready.",))), _Oven()
        async with _made(make, model, oven.order) as view:
            said = await _reply(view, "both")
            _hold(sorted(oven.orders) == ["funghi", "marinara"], f"of two calls in one answer {oven.orders} were run")
            _hold(said == "Ready.", "the model is not asked again with what two tools have returned")
            _shows(model, "funghi is ready", "marinara is ready")
            _hold(await _reply(view, "again"), "it does not answer after two calls in one answer")


async def _ends_endless_tools(make: Make) -> None:
    kitchen, model = _Kitchen(), FakeModel(*[Answer((_order(),))] * MOST_ROUNDS * 2)
    async with _made(make, model, kitchen.order) as view:
        await _attempt(view, "a margherita")  # with a text, or with an error
        _hold(len(model.prompts) <= MOST_ROUNDS, "a model that never stops using tools is asked without end")
        model.answers.clear()
        _hold(await _reply(view, "again"), "it does not answer after a model that did not stop using tools")


async def _finishes_tools(make: Make) -> None:
    """A caller who cuts in does not cancel half an order; what comes of it is known on later turns."""
    kitchen, model = _Kitchen(), FakeModel(Answer((_order(),)), Answer(("Here I am",)))
    kitchen.may_end.clear()
    async with _made(make, model, kitchen.order) as view:
        task = asyncio.ensure_future(_reply(view, "a margherita"))
        await asyncio.wait_for(kitchen.begun.wait(), WAIT_S)
        task.cancel()
        await asyncio.wait({task}, timeout=WAIT_S)
        _hold(task.cancelled(), "its stream does not end when it is cancelled while a tool runs")
        await view.mark_interrupted("")
        _hold(await _reply(view, "are you there") == "Here I am", "it does not answer while a tool runs")
        kitchen.may_end.set()
        await asyncio.wait({asyncio.ensure_future(kitchen.ended.wait())}, timeout=WAIT_S)
        _hold(kitchen.ended.is_set(), "the tool was cancelled in the middle")
        _hold(await _reply(view, "and now"), "it does not answer after a tool that was cut in on")
        _shows(model, "number 1")


async def _knows_what_was_done(make: Make) -> None:
    used: UsedTool = {
        "name": "order",
        "arguments": {"pizza": "margherita"},
        "call_id": "call00001",
        "result": "number 1",
    }
    history: list[ChatMessage] = [
        {"role": "user", "content": "a margherita"},
        {"role": "assistant", "content": "It is ordered.", "tools": [used]},
    ]
    kitchen, model = _Kitchen(), FakeModel(Answer((_order({"pizza": "funghi"}),)))
    async with _made(make, model, kitchen.order) as view:
        await view.restore(history)
        await _reply(view, "and a funghi")
        _shows(model, "a margherita", "number 1", "It is ordered.", "and a funghi")
        _hold(
            kitchen.orders == ["funghi"], f"after a takeover the tool is run with {kitchen.orders}, not with 'funghi'"
        )


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


_CHECKS_OF_ALL: Final[dict[str, Check]] = {
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
    "whole characters": _speaks_whole_characters,
    "blank replies": _survives_blank_replies,
    "blank texts": _survives_blank_texts,
    "many interruptions": _is_cut_off_often,
}
_TOOL_CHECKS: Final[dict[str, Check]] = {
    "tools": _uses_tools,
    "tools without proper arguments": _runs_no_tool_by_guess,
    "tools that are made up": _survives_made_up_tools,
    "tools that fail": _survives_failing_tools,
    "tools side by side": _runs_tools_side_by_side,
    "tools without end": _ends_endless_tools,
    "tools that are cut in on": _finishes_tools,
    "tools of before": _knows_what_was_done,
}

_CHECKS: Final[dict[str, Check]] = _CHECKS_OF_ALL | _TOOL_CHECKS

WITHOUT_MODEL: Final = frozenset({"answers", "can be stopped"})
ADAPTER_PROMISES: Final[Sequence[str]] = tuple(_CHECKS_OF_ALL)
"""The names of the promises of all adapters."""
TOOL_PROMISES: Final[Sequence[str]] = tuple(_TOOL_CHECKS)
"""The names of the promises of adapters that run tools."""


# --- parts ------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _made(make: Make, model: FakeModel | None, *tools: Callable[..., object]) -> AsyncIterator[AdapterView]:
    given: dict[str, object] = {"tools": list(tools)} if tools else {}
    made: Any = make(model or FakeModel(), **given) if _takes_model(make) else make()
    if hasattr(made, "__aenter__"):
        async with made as adapter:
            yield check_adapter(adapter)
        return
    yield check_adapter(await made if inspect.isawaitable(made) else made)


def _takes_model(make: Make) -> bool:
    parameters = inspect.signature(make).parameters.values()
    return any(p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)


def _takes_tools(make: Make) -> bool:
    return "tools" in inspect.signature(make).parameters


def _open(view: AdapterView, text: str, language: str | None = None) -> AsyncGenerator[Piece, None]:
    return view.open(text, context=CONTEXT, language=language)


async def _attempt(view: AdapterView, text: str, language: str | None = None) -> tuple[str, Exception | None]:
    said: list[str] = []
    try:
        async with aclosing(view.open(text, context=CONTEXT, language=language)) as pieces:
            async for piece in pieces:
                said += [piece] if isinstance(piece, str) else []
    except Exception as error:  # noqa: BLE001 - an adapter may raise anything
        return "".join(said), error
    return "".join(said), None


async def _reply(view: AdapterView, text: str, language: str | None = None) -> str:
    said, error = await _attempt(view, text, language)
    _hold(error is None, f"it raised {type(error).__name__}: {error}")
    return said


def _shows(model: FakeModel, *texts: str) -> None:
    missing = [text for text in texts if text not in model.prompts[-1]]
    _hold(not missing, f"the model is not shown {missing}")


def _has_halves(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _hold(kept: object, otherwise: str) -> None:
    """Raise where a promise is not kept; no `assert`, which Python's -O would leave out."""
    if not kept:
        raise AssertionError(otherwise)
