"""Tools in a conversation and on a call: asked for, run, recorded, remembered, and never done twice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
from openai import AsyncOpenAI
from tests.providers.anthropic_wire import ThinkingWire, anthropic_client
from tests.providers.imitations import DeepSeekWire, GeminiWire
from tests.providers.openai_wire import OpenAIWire, openai_client
from tests.providers.served import Json, Vendor, serve

from unpod import CallContext
from unpod.adapters import AnthropicAdapter, OpenAIAdapter, Tool, ToolCall, ToolResult
from unpod.adapters.chat import MAX_ROUNDS, ChatAdapter, Prompt
from unpod.adapters.memory import Said
from unpod.adapters.metering import Meter
from unpod.core import events as ev
from unpod.testing import Answer, FakeModel, SimulatedCall, assert_survives_crashes, simulate_call

ORDER = ToolCall("order", {"pizza": "margherita"}, "c1")
DRINK = ToolCall("drink", {}, "c2")


@asynccontextmanager
async def model_behind(model: FakeModel) -> AsyncIterator[tuple[Vendor, AsyncOpenAI]]:
    async with serve(model, OpenAIWire()) as vendor, openai_client(vendor) as client:
        yield vendor, client


class Kitchen:
    """Counts what it is asked for."""

    def __init__(self) -> None:
        self.orders: list[tuple[str, object, str]] = []
        self.begun = asyncio.Event()
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def order(self, pizza: str, context: dict[str, object], idempotency_key: str) -> dict[str, object]:
        """Order a pizza."""
        self.orders.append((pizza, context.get("call_id"), idempotency_key))
        self.begun.set()
        await self.may_go_on.wait()
        return {"number": len(self.orders)}

    def drink(self) -> str:
        """Order a drink."""
        return "water"


class Seen(list[object]):
    """What the hooks were told; `result` is set once a tool has returned."""

    def __init__(self) -> None:
        super().__init__()
        self.result = asyncio.Event()

    def append(self, item: object) -> None:
        super().append(item)
        if isinstance(item, tuple) and item[1] == {"number": 1}:
            self.result.set()


def tools_of(messages: Sequence[Json]) -> list[Json]:
    return [message for message in messages if message["role"] == "tool" or "tool_calls" in message]


async def test_the_model_is_asked_again_with_what_the_tools_returned() -> None:
    kitchen = Kitchen()
    model = FakeModel(Answer(("One ", "moment. ", ORDER, DRINK)), Answer(("It is number 1.",)))
    async with model_behind(model) as (vendor, client):
        adapter = OpenAIAdapter("tiny", client=client, tools=[kitchen.order, kitchen.drink])
        calls: list[dict[str, object]] = []
        adapter.register_llm_callback(lambda **fields: calls.append(fields))
        got = [piece async for piece in adapter.stream("a margherita")]
        assert got[:4] == ["One ", "moment. ", ORDER, DRINK]
        assert sorted(got[4:6], key=str) == sorted(
            [ToolResult("order", {"number": 1}, "c1"), ToolResult("drink", "water", "c2")], key=str
        )
        assert got[6:] == ["It is number 1."]
        assert len(calls) == 2
        await adapter.turn("thanks")
        assert [tool["function"]["name"] for tool in vendor.requests[0]["tools"]] == ["order", "drink"]
        assert vendor.requests[2]["messages"] == [
            {"role": "user", "content": "a margherita"},
            {
                "role": "assistant",
                "content": "One moment. ",
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "order", "arguments": '{"pizza":"margherita"}'},
                    },
                    {"id": "c2", "type": "function", "function": {"name": "drink", "arguments": "{}"}},
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": '{"number":1}'},
            {"role": "tool", "tool_call_id": "c2", "content": "water"},
            {"role": "assistant", "content": "It is number 1."},
            {"role": "user", "content": "thanks"},
        ]
        adapter.mark_interrupted("")


async def test_what_was_not_heard_is_forgotten_and_what_was_done_is_not() -> None:
    model = FakeModel(Answer(("One moment. ", DRINK)), Answer(("Here it is.",)))
    async with model_behind(model) as (vendor, client):
        adapter = OpenAIAdapter("tiny", client=client, tools=[Kitchen().drink])
        await adapter.turn("a drink")
        adapter.mark_interrupted("One mo")
        await adapter.turn("wait")
        roles = [message["role"] for message in vendor.requests[-1]["messages"]]
        assert roles == ["user", "assistant", "tool", "assistant", "user"]
        assert vendor.requests[-1]["messages"][3]["content"] == "\u2026"
        assert adapter.history[1] == {"role": "assistant", "content": "One mo"}


async def test_a_model_that_never_stops_using_tools_has_to_answer(caplog: pytest.LogCaptureFixture) -> None:
    model = FakeModel(*[Answer((DRINK,))] * MAX_ROUNDS, Answer(("Enough.",)))
    async with model_behind(model) as (vendor, client):
        adapter = OpenAIAdapter("tiny", client=client, tools=[Kitchen().drink])
        assert await adapter.turn("drinks") == "Enough."
        assert [request.get("tool_choice") for request in vendor.requests] == [None] * MAX_ROUNDS + ["none"]
    assert caplog.messages == [f"tiny has used tools {MAX_ROUNDS} times in one reply: it must answer now"]


# --- on a call --------------------------------------------------------------------------------------------------------


def agent(client: AsyncOpenAI, kitchen: Kitchen, seen: list[object]) -> Callable[[CallContext], Awaitable[None]]:
    async def handle_call(ctx: CallContext) -> None:
        session = ctx.session
        session.dialog_machine = OpenAIAdapter("tiny", client=client, tools=[kitchen.order])
        session.on("tool_call")(lambda name, arguments, call_id: seen.append((name, arguments, call_id)))
        session.on("tool_result")(lambda name, result, call_id: seen.append((name, result, call_id)))
        await session.run()

    return handle_call


async def steps_of(call: SimulatedCall) -> list[ev.StepCompleted]:
    return [record.body for record in await call.records() if isinstance(record.body, ev.StepCompleted)]


async def test_tools_are_recorded_and_hooked_and_get_the_calls_context() -> None:
    kitchen, seen, model = Kitchen(), list[object](), FakeModel(Answer((ORDER,)), Answer(("Number 1.",)))
    async with (
        model_behind(model) as (_, client),
        simulate_call(agent(client, kitchen, seen), session_id="c-7", timeout_s=20) as call,
    ):
        assert await call.user("a margherita") == "Number 1."
        await call.hang_up()
        (step,) = await steps_of(call)
        facts = [record.body for record in await call.records()]
        assert [type(fact) for fact in facts if isinstance(fact, ev.ToolCalled | ev.ToolReturned)] == [
            ev.ToolCalled,
            ev.ToolReturned,
        ]
        metrics = await call.metrics()
    assert kitchen.orders == [("margherita", "c-7", step.step)]
    assert (step.name, step.value) == ("tool:order", {"number": 1})
    assert seen == [("order", {"pizza": "margherita"}, "c1"), ("order", {"number": 1}, "c1")]
    assert (metrics.tokens_in, metrics.tokens_out) == (42, 10)


async def pizza_call(kitchen: Kitchen, crash_at: int | None = None) -> tuple[SimulatedCall, Vendor]:
    """Order a pizza; the model uses the tool in the first request alone."""
    model = FakeModel(Answer((ORDER,)), *[Answer(("Number 1.",))] * 4)
    async with model_behind(model) as (vendor, client):
        async with simulate_call(agent(client, kitchen, []), crash_at=crash_at, timeout_s=20) as call:
            assert "Number 1." in await call.user("a margherita")
            await call.hang_up()
        return call, vendor


@pytest.mark.parametrize("at", ["tool.call", "step.completed", "tool.result"])
async def test_a_takeover_does_not_do_it_twice(at: str) -> None:
    """Wherever the runner dies in the turn: the new one's model is shown what was done."""
    whole, _ = await pizza_call(Kitchen())
    kitchen = Kitchen()
    call, vendor = await pizza_call(kitchen, next(n for n, point in enumerate(whole.points, 1) if at in point))
    (step,) = await steps_of(call)
    assert call.crashes == 1
    assert {key for _, _, key in kitchen.orders} == {step.step}, "the same idempotency key, if it runs again"
    assert len(kitchen.orders) == 1 or at == "tool.call"
    assert sum(isinstance(record.body, ev.ToolReturned) for record in await call.records()) == 1
    shown = tools_of(vendor.requests[-1]["messages"])
    assert [message.get("content") for message in shown] == [None, json.dumps(step.value, separators=(",", ":"))]
    assert shown[0]["tool_calls"][0]["function"]["arguments"] == '{"pizza":"margherita"}'


async def test_the_next_runners_brain_knows_what_was_done_on_earlier_turns() -> None:
    kitchen = Kitchen()
    again = ToolCall("order", {"pizza": "funghi"}, "c1")
    model = FakeModel(Answer((ORDER,)), Answer(("Number 1.",)), Answer((again,)), Answer(("Two now.",)))
    async with (
        model_behind(model) as (vendor, client),
        simulate_call(agent(client, kitchen, []), timeout_s=20) as call,
    ):
        assert await call.user("a margherita") == "Number 1."
        await call.crash()
        assert await call.user("and a funghi") == "Two now."
        await call.hang_up()
        messages = vendor.requests[-1]["messages"]
    assert [message["role"] for message in messages] == [
        *("user", "assistant", "tool", "assistant"),
        *("user", "assistant", "tool"),
    ]
    assert json.loads(messages[2]["content"]) == {"number": 1}
    ids = [message["tool_call_id"] for message in messages if message["role"] == "tool"]
    assert ids[0] == "c1"
    assert len(set(ids)) == 2, "an id that comes again names another call"


async def test_a_brain_that_takes_no_results_back_is_told_in_words() -> None:
    told: list[object] = []

    async def handle_call(ctx: CallContext) -> None:
        async def brain(text: str, history: list[dict[str, str]]) -> AsyncGenerator[object, None]:
            told.append([message["content"] for message in history])
            if text == "a margherita":
                yield ToolCall("order", {"pizza": "margherita"}, "c1")
                yield ToolResult("order", {"number": 1}, "c1")
            yield "Number 1."

        ctx.session.dialog_machine = brain
        await ctx.session.run()

    async with simulate_call(handle_call, timeout_s=20) as call:
        await call.user("a margherita")
        await call.crash()
        await call.user("which number")
        await call.hang_up()
    used = 'On this turn: [used order({"pizza":"margherita"}); it returned {"number":1}]'
    assert told[-1] == ["a margherita", used, "Number 1."]


@pytest.mark.parametrize("crashes", [False, True])
async def test_a_tools_own_time_out_counts_while_it_runs(crashes: bool) -> None:  # noqa: FBT001
    kitchen, model = Kitchen(), FakeModel(Answer(("Well. ", ORDER)), *[Answer(("Fine.",))] * 2)

    async def handle_call(ctx: CallContext) -> None:
        tool = Tool(kitchen.order, timeout_s=600)
        ctx.session.dialog_machine = OpenAIAdapter("tiny", client=client, tools=[tool])
        await ctx.session.run()

    kitchen.may_go_on.clear()
    async with model_behind(model) as (_, client), simulate_call(handle_call, timeout_s=20) as call:
        await call.user("a margherita", wait=False)
        await asyncio.wait_for(kitchen.begun.wait(), 20)
        if crashes:
            kitchen.begun.clear()
            await call.crash()
            await asyncio.wait_for(kitchen.begun.wait(), 20)
        await call.advance(300)
        kitchen.may_go_on.set()
        assert (await call.reply()).text.endswith("Fine.")
        await call.hang_up()


async def test_a_barge_in_does_not_cancel_a_tool() -> None:
    kitchen, seen, model = Kitchen(), Seen(), FakeModel(Answer((ORDER,)), Answer(("Fine.",)), Answer(("Yes.",)))
    kitchen.may_go_on.clear()
    async with (
        model_behind(model) as (vendor, client),
        simulate_call(agent(client, kitchen, seen), timeout_s=20) as call,
    ):
        await call.user("a margherita", wait=False)
        await asyncio.wait_for(kitchen.begun.wait(), 20)
        await call.barge_in("")
        assert await call.user("are you there") == "Fine."
        shown = tools_of(vendor.requests[-1]["messages"])[-1]["content"]
        kitchen.may_go_on.set()
        await asyncio.wait_for(seen.result.wait(), 20)
        assert await call.user("and now") == "Yes."
        assert json.loads(tools_of(vendor.requests[-1]["messages"])[-1]["content"]) == {"number": 1}
        await call.hang_up()
    assert shown == "(not finished yet)"
    assert len(kitchen.orders) == 1


# --- dying at every point ---------------------------------------------------------------------------------------------


class Waiter(ChatAdapter):
    """A model without a network: it orders what it is told to, in other words each time it is asked."""

    asked = 0

    async def _ask(self, prompt: Prompt, meter: Meter) -> AsyncGenerator[str | ToolCall, None]:
        meter.see("")
        last = prompt.conversation[-1]
        if isinstance(last, Said) and last.role == "user":
            Waiter.asked += 1
            yield ToolCall("order", {"pizza": f"{last.content}, request {Waiter.asked}"}, f"c{Waiter.asked}")
        else:
            yield "Done."


async def test_a_call_that_dies_at_every_point_orders_once() -> None:
    keys: list[str] = []

    async def order(pizza: str, idempotency_key: str) -> dict[str, str]:
        """Order a pizza."""
        keys.append(idempotency_key)
        return {"ordered": pizza.partition(",")[0]}

    async def handle_call(ctx: CallContext) -> None:
        ctx.session.dialog_machine = Waiter("tiny", provider="played", tools=[order])
        await ctx.session.run()

    async def script(call: SimulatedCall) -> None:
        before = len(keys)
        assert "Done." in await call.user("margherita")
        assert len(set(keys[before:])) == 1, "one order, however often its process died"

    assert await assert_survives_crashes(handle_call, script, prepare=keys.clear) > 5


@asynccontextmanager
async def strict(vendor: str, model: FakeModel) -> AsyncIterator[tuple[Vendor, Callable[[Kitchen], ChatAdapter]]]:
    """Yield a vendor that wants back what it thought, and what makes a brain there."""
    if vendor == "anthropic":
        async with serve(model, ThinkingWire()) as served, anthropic_client(served) as client:
            thinks = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
            yield (
                served,
                lambda kitchen: AnthropicAdapter("tiny", client=client, tools=[kitchen.order], options=thinks),
            )
    else:
        wire = GeminiWire() if vendor == "gemini" else DeepSeekWire()
        async with serve(model, wire) as served, openai_client(served) as theirs:
            yield served, lambda kitchen: OpenAIAdapter("tiny", client=theirs, tools=[kitchen.order])


@pytest.mark.parametrize("vendor", ["anthropic", "gemini", "deepseek"])
@pytest.mark.parametrize("at", ["step.completed", "tool.result"])
async def test_a_vendor_that_wants_back_what_died_with_a_process_is_told_in_words(vendor: str, at: str) -> None:
    """It is asked again where it refuses; the tool is not used twice, and later turns go well, too."""

    async def once(crash_at: int | None) -> tuple[SimulatedCall, Kitchen, Vendor]:
        kitchen = Kitchen()
        again = ToolCall("order", {"pizza": "funghi"}, "c9")
        model = FakeModel(Answer((ORDER,)), Answer(("Number 1.",)), Answer((again,)), Answer(("Number 2.",)))
        async with strict(vendor, model) as (served, make):

            async def handle_call(ctx: CallContext) -> None:
                ctx.session.dialog_machine = make(kitchen)
                await ctx.session.run()

            async with simulate_call(handle_call, crash_at=crash_at, timeout_s=20) as call:
                assert await call.user("a margherita") == "Number 1."
                assert await call.user("a funghi, too") == "Number 2."
                await call.hang_up()
            return call, kitchen, served

    whole, _, served = await once(None)
    assert served.refused == []
    call, kitchen, served = await once(next(n for n, point in enumerate(whole.points, 1) if at in point))
    assert call.crashes == 1
    assert len(kitchen.orders) == 2
    assert len(served.refused) == 1, served.refused
    assert "margherita" in json.dumps(served.requests[-1])
