"""superdialog 0.2.8 itself, both engines and the LLMAgent, with models that are played by a local server."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from superdialog import DialogMachine, Flow, LLMAgent, register_llm_provider
from superdialog.llm import StreamChunk
from tests.providers.served import Vendor, serve
from tests.superdialog.machine_wire import MachineWire, let_go

from unpod import CallContext
from unpod.adapters import SuperDialogAdapter, ToolCall, check_adapter
from unpod.errors import AdapterError
from unpod.testing import ADAPTER_PROMISES, Answer, FakeModel, adapter_contract, simulate_call

# litellm's types meet a pydantic that is newer than it knows.
pytestmark = pytest.mark.filterwarnings("ignore:Items? '.*' on TypedDict class:UserWarning")

ENGINES = ("toolcall", "llm")
WHOLE_TURNS = (
    "streaming",
    "closing",
    "errors before the first piece",
    "errors in mid-reply",
    "empty replies",
    "many interruptions",
)
"""What a machine of 0.2.8 does not do: it resolves a turn as a whole, and answers for a model that fails or is mute."""
ENDPOINT = ("concurrency", "whole characters")
"""What cannot be tried with the tool-call engine: it finds its endpoint in the environment, so that all models of a
process are behind one, and the client of that endpoint takes no half characters."""
KEPT = [
    (engine, promise)
    for engine in ENGINES
    for promise in ADAPTER_PROMISES
    if promise not in WHOLE_TURNS and not (engine == "toolcall" and promise in ENDPOINT)
]

FLOW = {
    "system_prompt": "You sell pizza.",
    "initial_node": "ask",
    "nodes": [
        {
            "id": "ask",
            "name": "Ask",
            "instruction": "Ask which pizza they want.",
            "edges": [
                {
                    "id": "ordered",
                    "condition": "They have named a pizza",
                    "target_node_id": "drinks",
                    "input_schema": {"type": "object", "properties": {"pizza": {"type": "string"}}},
                }
            ],
        },
        {
            "id": "drinks",
            "name": "Drinks",
            "static_text": "And to drink?",
            "edges": [{"id": "done", "condition": "They have answered", "target_node_id": "bye"}],
        },
        {"id": "bye", "name": "Bye", "static_text": "Thanks, bye!", "is_final": True},
    ],
}
TAKE_ORDER = Answer((ToolCall("ordered", {"pizza": "margherita"}, "c1"),))
DONE = Answer((ToolCall("done", {}, "c2"),))


@pytest.fixture(autouse=True)
async def nothing_is_left_open() -> AsyncIterator[None]:
    yield
    await let_go()


class PlayedProvider:
    """A provider of superdialog's that says what a `FakeModel` says."""

    model = "openai/tiny"

    def __init__(self, played: FakeModel) -> None:
        self.played = played

    async def complete(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - superdialog's
        raise NotImplementedError

    async def stream(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None = None,
        **opts: Any,  # noqa: ANN401 - superdialog's
    ) -> AsyncGenerator[StreamChunk, None]:
        async with aclosing(self.played.answer(messages)) as pieces:
            async for piece in pieces:
                yield StreamChunk(text=str(piece), tool_call_delta=None, done=False)
        yield StreamChunk(text=None, tool_call_delta=None, done=True)


@asynccontextmanager
async def machine(engine: str, model: FakeModel) -> AsyncIterator[tuple[Vendor, Callable[[], DialogMachine]]]:
    async with serve(model, MachineWire(engine)) as vendor:  # type: ignore[arg-type]
        register_llm_provider("played", f"{vendor.url}/v1", "any")
        name = "custom/played/tiny" if engine == "llm" else "openai/tiny"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OPENAI_BASE_URL", f"{vendor.url}/v1")
            patch.setenv("OPENAI_API_KEY", "any")
            yield vendor, lambda: DialogMachine(Flow.model_validate(FLOW), name, adapter=engine)


@pytest.mark.parametrize("promise", ADAPTER_PROMISES)
async def test_an_llm_agent_keeps_what_every_brain_promises(promise: str) -> None:
    await adapter_contract(lambda model: LLMAgent(PlayedProvider(model)), promises=[promise])


@pytest.mark.parametrize(("engine", "promise"), KEPT)
async def test_a_machine_keeps_what_it_can(engine: str, promise: str) -> None:
    @asynccontextmanager
    async def make(model: FakeModel) -> AsyncIterator[DialogMachine]:
        async with machine(engine, model) as (_, made):
            yield made()

    await adapter_contract(make, promises=[promise])


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_machine_takes_its_edges_and_ends_the_call(engine: str) -> None:
    seen: list[dict[str, object]] = []
    nodes: list[tuple[object, object]] = []
    async with machine(engine, FakeModel(TAKE_ORDER, DONE)) as (vendor, make):

        async def handle_call(ctx: CallContext) -> None:
            ctx.session.dialog_machine = make()
            ctx.session.on("llm_call")(lambda **fields: seen.append(fields))
            ctx.session.on("turn_complete")(lambda **fields: nodes.append((fields["from_node"], fields["to_node"])))
            await ctx.session.run()

        async with simulate_call(handle_call, metadata={"data": {"name": "Ada"}}, timeout_s=20) as call:
            assert await call.user("a margherita") == "And to drink?"
            assert await call.user("nothing") == "Thanks, bye!"
            assert await call.ended() == "completed"
        assert "Ada" in str(vendor.requests[0]), "the call's data are the machine's slots"
    assert nodes == [("ask", "drinks"), ("drinks", "bye")]
    assert [(call["call_type"], call["node_id"], call["model"]) for call in seen] == [
        ("chat", "ask", "tiny"),
        ("chat", "drinks", "tiny"),
    ]
    assert all(call["tokens_in"] for call in seen)


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_machine_goes_on_where_it_was_in_another_process(engine: str) -> None:
    async with machine(engine, FakeModel(TAKE_ORDER, DONE)) as (_, make):
        machines: list[DialogMachine] = []

        async def handle_call(ctx: CallContext) -> None:
            machines.append(make())
            ctx.session.dialog_machine = machines[-1]
            await ctx.session.run()

        async with simulate_call(handle_call, timeout_s=20) as call:
            assert await call.user("a margherita") == "And to drink?"
            await call.crash()
            assert await call.user("nothing") == "Thanks, bye!"
            assert await call.ended() == "completed"
        assert len(machines) == 2
        assert machines[1].state["slots"]["pizza"] == "margherita"


@pytest.mark.parametrize("engine", ENGINES)
async def test_what_was_heard_and_notes(engine: str) -> None:
    async with machine(engine, FakeModel(Answer(("Which one of the many?",)), Answer(("Well?",)))) as (vendor, make):
        view = check_adapter(make())
        assert isinstance(view.adapter, SuperDialogAdapter)
        assert await view.adapter.turn("hello") == "Which one of the many?"
        await view.mark_interrupted("Which one")
        await view.assist("The caller is a member")
        assert await view.adapter.turn("wait") == "Well?"
        assert "of the many" not in str(vendor.requests[-1])
        assert "The caller is a member" in str(vendor.requests[-1])
        assert [m["content"] for m in view.adapter.history if m["role"] == "assistant"] == ["Which one", "Well?"]


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_machine_never_reads_out_its_instructions(engine: str) -> None:
    async with machine(engine, FakeModel(*[Answer((), "fail")] * 9)) as (_, make):
        adapter = SuperDialogAdapter(make())
        if engine == "toolcall":
            with pytest.raises(AdapterError, match="would have read out its instructions"):
                await adapter.turn("hello")
        else:  # it has a phrase for that
            assert await adapter.turn("hello") == "I didn't quite catch that. Could you say that again?"


def test_what_is_no_agent() -> None:
    with pytest.raises(TypeError, match="is no superdialog agent"):
        SuperDialogAdapter(object())
