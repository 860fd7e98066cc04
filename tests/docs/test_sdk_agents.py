"""The Unpod SDK's public documents (02 to 06): agents of our own with the calls of each of their examples."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from anthropic import AsyncAnthropic
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.prompt_values import PromptValue
from langchain_core.prompts import ChatPromptTemplate
from openai import AsyncOpenAI
from tests.providers.anthropic_wire import AnthropicWire
from tests.providers.http_wire import EventsWire
from tests.providers.openai_wire import OpenAIWire
from tests.providers.served import serve

from unpod import CallContext
from unpod.adapters import AnthropicAdapter, DialogAdapter, HTTPAdapter, LangChainAdapter, OpenAIAdapter
from unpod.core import commands as cmd
from unpod.session.frame_view import FrameView
from unpod.testing import Answer, FakeModel, Pause, ScriptedAdapter, simulate_call


class Engine:
    """Stands for a conversation engine of a user's own."""

    def __init__(self) -> None:
        self.injected: list[str] = []
        self.heard: list[str | None] = []
        self.languages: list[str | None] = []
        self.closed = 0
        self.finished = False
        self.report: Any = None

    async def astream(self, text: str, language: str | None = None) -> AsyncIterator[str]:
        self.languages.append(language)
        try:
            for word in ("You ", "said ", text):
                yield word
            self.finished = text == "bye"
        finally:
            self.closed += 1


class Brain:
    """Document 05, "Writing a custom adapter": the whole surface that an adapter may have."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._pending: list[str] = []

    async def stream(
        self, text: str, context: dict[str, Any] | None = None, language: str | None = None
    ) -> AsyncIterator[str]:
        for note in self._pending:
            self._engine.injected.append(note)
        self._pending.clear()
        pieces = self._engine.astream(text, language=language)
        try:
            async for piece in pieces:
                yield piece
        finally:
            await pieces.aclose()  # type: ignore[attr-defined]

    async def turn(self, text: str, context: dict[str, Any] | None = None) -> str:
        return "".join([piece async for piece in self.stream(text, context)])

    def assist(self, text: str) -> None:
        self._pending.append(text)

    def mark_interrupted(self, heard_text: str | None = None) -> None:
        self._engine.heard.append(heard_text)

    def register_llm_callback(self, fn: object) -> None:
        self._engine.report = fn

    @property
    def is_complete(self) -> bool:
        return self._engine.finished

    @property
    def state(self) -> dict[str, str]:
        return {"node_id": "two", "from_node": "one"}


async def test_05_an_adapter_of_ones_own() -> None:
    engine = Engine()
    assert isinstance(Brain(engine), DialogAdapter)

    async def entrypoint(ctx: CallContext) -> None:
        ctx.session.dialog_machine = Brain(engine)
        ctx.session.dialog_machine.assist("be brief")
        await ctx.session.run()

    async with simulate_call(entrypoint) as call:
        assert await call.user("hello", language="hi") == "You said hello"
        assert (engine.injected[0], engine.languages, engine.closed) == ("be brief", ["hi"], 1)
        assert await call.user("bye") == "You said bye"
        assert await call.ended() == "completed"  # `is_complete` ends the call


async def test_05_one_model_call_is_reported_as_they_report_it() -> None:
    engine, told = Engine(), list[Mapping[str, object]]()

    async def entrypoint(ctx: CallContext) -> None:
        @ctx.session.on("llm_call")
        async def on_llm_call(**fields: object) -> None:
            told.append(fields)

        @ctx.session.on("user_turn")
        async def on_user_turn(text: str) -> None:
            await engine.report(Data())

        ctx.session.dialog_machine = Brain(engine)
        await ctx.session.run()

    class Data:
        latency_ms, call_type, node_id, model, edge_id = 80, "reply", "two", "openai/gpt-4.1-mini", None
        prompt_messages, response_json = list[object](), dict[str, object]()
        tokens_in, tokens_out, cached, cache_write = 21, 5, 0, 0

    async with simulate_call(entrypoint) as call:
        await call.user("hello")
        await call.until(lambda: bool(told))
        assert {"model": "openai/gpt-4.1-mini", "tokens_in": 21, "tokens_out": 5}.items() <= told[0].items()
        assert {"turn_id", "node_id", "call_type", "latency_ms", "edge_id"} <= told[0].keys()


async def test_05_a_brain_that_answers_in_one_piece() -> None:
    class Whole:  # the older document's fallback: `stream` without a language, over `turn`
        async def turn(self, text: str, context: dict[str, Any] | None = None) -> str:
            return f"Whole: {text}"

        async def stream(self, text: str, context: dict[str, Any] | None = None) -> AsyncIterator[str]:
            yield await self.turn(text, context)

        def assist(self, text: str) -> None: ...

    async def entrypoint(ctx: CallContext) -> None:
        ctx.session.dialog_machine = Whole()
        await ctx.session.run()

    async with simulate_call(entrypoint) as call:
        assert await call.user("hello", language="hi") == "Whole: hello"


@pytest.mark.parametrize("by_position", [False, True])
async def test_05_openai_with_a_client_of_ones_own(*, by_position: bool) -> None:
    async with (
        serve(FakeModel(), OpenAIWire()) as served,
        AsyncOpenAI(api_key="k", base_url=f"{served.url}/v1") as client,
    ):

        async def entrypoint(ctx: CallContext) -> None:
            ctx.session.dialog_machine = (
                OpenAIAdapter(client, "gpt-4o-mini", "Two sentences.")
                if by_position
                else OpenAIAdapter(client, model="gpt-4o-mini", system_prompt="Two sentences.")
            )
            await ctx.session.run()

        async with simulate_call(entrypoint, timeout_s=20) as call:
            assert await call.user("hello") == "Hello there"
        assert served.requests[0]["model"] == "gpt-4o-mini"
        assert "Two sentences." in json.dumps(served.requests[0]["messages"][0])


async def test_05_anthropic_with_a_client_of_ones_own() -> None:
    async with (
        serve(FakeModel(), AnthropicWire()) as served,
        AsyncAnthropic(api_key="k", base_url=served.url) as client,
    ):

        async def entrypoint(ctx: CallContext) -> None:
            ctx.session.dialog_machine = AnthropicAdapter(
                client, model="claude-haiku-4-5-20251001", system_prompt="Two sentences.", max_tokens=64
            )
            await ctx.session.run()

        async with simulate_call(entrypoint, timeout_s=20) as call:
            assert await call.user("hello") == "Hello there"
        assert (served.requests[0]["max_tokens"], "Two sentences." in json.dumps(served.requests[0]["system"])) == (
            64,
            True,
        )


async def test_05_http() -> None:
    async with serve(FakeModel(), EventsWire()) as served:

        async def entrypoint(ctx: CallContext) -> None:
            headers = {"Authorization": "Bearer sk_mine"}
            ctx.session.dialog_machine = HTTPAdapter(url=f"{served.url}/brain", headers=headers, timeout_s=10)
            await ctx.session.run()

        async with simulate_call(entrypoint, timeout_s=20) as call:
            assert await call.user("hello") == "Hello there"
        assert served.requests[0]["text"] == "hello"
        assert served.headers[0]["Authorization"] == "Bearer sk_mine"
    assert HTTPAdapter("http://localhost", {}, 10) is not None


@pytest.mark.parametrize("key", [None, "messages", "input"])
async def test_05_langchain(key: str | None) -> None:
    model = GenericFakeChatModel(messages=iter([AIMessage("Which ID?")]))
    prompt = ChatPromptTemplate.from_messages(
        [("system", "You verify customers."), ("placeholder", "{input}" if key == "input" else "{messages}")]
    )
    shown: list[object] = []

    def look(value: PromptValue) -> PromptValue:
        shown.extend(value.to_messages())
        return value

    async def entrypoint(ctx: CallContext) -> None:
        chain = prompt | look | model
        ctx.session.dialog_machine = LangChainAdapter(chain) if key is None else LangChainAdapter(chain, input_key=key)
        await ctx.session.run()

    async with simulate_call(entrypoint, timeout_s=20) as call:
        assert await call.user("verify me") == "Which ID?"
    assert any(isinstance(each, HumanMessage) and each.content == "verify me" for each in shown)


class Wrapped:
    """An adapter around one of the bundled ones, which hands the arguments on by position, as they declare them."""

    def __init__(self, inner: HTTPAdapter) -> None:
        self._inner = inner

    async def stream(
        self, text: str, context: dict[str, Any] | None = None, language: str | None = None
    ) -> AsyncIterator[object]:
        async for piece in self._inner.stream(text, context, language):
            yield piece

    async def turn(self, text: str, context: dict[str, Any] | None = None) -> str:
        return await self._inner.turn(text, context)

    def assist(self, text: str) -> None:
        self._inner.assist(text)


async def test_05_a_bundled_adapter_takes_its_arguments_by_position() -> None:
    async with serve(FakeModel(Answer(("Hi",))), EventsWire()) as served:

        async def entrypoint(ctx: CallContext) -> None:
            ctx.session.dialog_machine = Wrapped(HTTPAdapter(f"{served.url}/brain"))
            await ctx.session.run()

        async with simulate_call(entrypoint, timeout_s=20) as call:
            assert await call.user("hello", language="hi") == "Hi"
        assert served.requests[0]["language"] == "hi"


async def test_04_every_hook_is_told_what_the_documents_say() -> None:
    told: dict[str, tuple[object, ...]] = {}

    async def entrypoint(ctx: CallContext) -> None:
        session = ctx.session
        session.on("call_start")(lambda: told.update(call_start=()))
        session.on("interruption")(lambda: told.update(interruption=()))

        @session.on("user_turn")
        async def on_user_turn(text: str) -> None:
            told["user_turn"] = (text,)

        @session.on("agent_turn")
        async def on_agent_turn(full_text: str) -> None:
            told["agent_turn"] = (full_text,)

        @session.on("metric")
        async def on_metric(event: FrameView) -> None:
            told["metric"] = (event.ttfa_ms, event.asr_p95_ms, event.tts_p95_ms, event.turns, event.cost_usd_so_far)

        @session.on("state")
        async def on_state(event: FrameView) -> None:
            told["state"] = (event.state, event.turn_id)

        @session.on("error")
        async def on_error(code: str, message: str, severity: str, source: str) -> None:
            told["error"] = (code, message, severity, source)

        @session.on("turn_complete")
        async def on_turn_complete(**fields: object) -> None:
            told["turn_complete"] = (fields["user_text"], fields["agent_text"], fields["from_node"], fields["ttfa_ms"])

        @session.on("call_end")
        async def on_end(reason: str) -> None:
            told["call_end"] = (reason,)

        session.dialog_machine = ScriptedAdapter([("wait", ["One", Pause(60)]), (".", "Yes?")])
        await session.run()

    async with simulate_call(entrypoint) as call:
        assert await call.user("hello") == "Yes?"
        await call.user("wait", wait=False)
        await call.barge_in("One")
        await call.frame("metric", ttfa_ms=800, asr_p95_ms=150, tts_p95_ms=90, turns=2, cost_usd_so_far=0.02)
        await call.frame("state", state="listening", turn_id=2)
        await call.frame("error", severity="warn", source="stt", code="stt.slow", message="slow")
        await call.until(lambda: {"error", "state", "metric", "interruption"} <= told.keys())
        await call.hang_up()
    assert told["user_turn"] == ("wait",)
    assert told["error"] == ("stt.slow", "slow", "warn", "stt")
    assert told["metric"] == (800, 150, 90, 2, 0.02)
    assert told["state"] == ("listening", 2)
    assert told["call_end"] == ("hangup",)
    assert {"call_start", "agent_turn", "interruption", "turn_complete"} <= told.keys()


async def test_04_transfers_in_every_form() -> None:
    async def entrypoint(ctx: CallContext) -> None:
        @ctx.session.on("user_turn")
        async def on_user_turn(text: str) -> None:
            match text:
                case "number":
                    await ctx.session.transfer("+14155550100")
                case "queue":
                    await ctx.session.transfer("tier2", transfer_type="human", mode="warm", announcement="Connecting.")
                case "human":
                    await ctx.session.transfer_to_human("tier2", mode="cold")
                case _:
                    await ctx.session.transfer_to_agent("senior-bot", announcement="One moment.")

        await ctx.session.run()

    expected = {
        "number": ("number", "+14155550100", "cold", ""),
        "queue": ("human", "tier2", "warm", "Connecting."),
        "human": ("human", "tier2", "cold", ""),
        "agent": ("agent", "senior-bot", "cold", "One moment."),
    }
    for text, transfer in expected.items():
        async with simulate_call(entrypoint) as call:
            await call.user(text, wait=False)
            await call.until(lambda: bool(call.commands))
            sent = next(c for c in call.commands if isinstance(c, cmd.Transfer))
            assert (sent.transfer_type, sent.target, sent.mode, sent.announcement or "") == transfer


async def test_03_what_an_outbound_call_was_placed_with() -> None:
    """The older document 03: `calls.create(instructions=, data=)`, and steering the adapter with it."""
    seen: list[object] = []

    async def entrypoint(ctx: CallContext) -> None:
        engine = Engine()
        ctx.session.dialog_machine = Brain(engine)
        ctx.session.dialog_machine.assist(f"Customer {ctx.data['customer_id']}")
        ctx.session.data["verified"] = True
        seen.extend((ctx.direction, ctx.user_number, ctx.instructions, ctx.data["loan_amount"]))
        await ctx.session.run()
        seen.extend((engine.injected[0], ctx.session.data["verified"], ctx.session.metrics.live().turns))

    metadata = {
        "direction": "outbound",
        "to_number": "+15550100",
        "instructions": "Customer prefers Hindi",
        "data": {"customer_id": "C1", "loan_amount": 500},
    }
    async with simulate_call(entrypoint, metadata=metadata) as call:
        await call.user("hello")
        await call.hang_up()
    assert seen == ["outbound", "+15550100", "Customer prefers Hindi", 500, "Customer C1", True, 1]


async def test_03_silence_three_times_and_a_human() -> None:
    async def entrypoint(ctx: CallContext) -> None:
        silences = 0

        @ctx.session.on("silence")
        async def on_silence(seconds: float) -> None:
            nonlocal silences
            silences += 1
            if silences == 3:
                await ctx.session.transfer_to_human(queue="general")
            elif silences == 2:
                await ctx.session.say("Are you still there?")

        ctx.session.dialog_machine = ScriptedAdapter([(".", "Yes?")])
        await ctx.session.run()

    async with simulate_call(entrypoint) as call:
        for _ in range(4):
            await call.advance(11)
        assert "Are you still there?" in call.said
        assert any(isinstance(c, cmd.Transfer) for c in call.commands)
