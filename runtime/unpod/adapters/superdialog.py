"""An adapter for the agents of superdialog 0.2.8: a `DialogMachine` with either engine, an `LLMAgent`, or another.

What a machine knows beside the conversation (its node, its slots) is saved with each turn, and taken up again in
another process. Two things of 0.2.8 are met here: a machine resolves a turn as a whole before its first word, and its
tool-call engine speaks a node's instruction where the model fails, which is an error here rather than speech.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict
from importlib.util import find_spec
from typing import Any, Final

from unpod.adapters.call_scope import call_scope
from unpod.adapters.characters import whole
from unpod.adapters.chat import LANGUAGE
from unpod.adapters.memory import HEARD_UNKNOWN
from unpod.adapters.metering import Meter, Price
from unpod.adapters.pieces import ChatMessage, Piece, told
from unpod.adapters.vendors import broken_off, http_error, missing, timed_out, transport_error
from unpod.errors import AdapterError

logger = logging.getLogger("unpod.adapters")

PROVIDER: Final = "superdialog's model"
_ROLES: Final = frozenset({"user", "assistant", "system"})
_REQUIRED: Final = ("turn", "assist", "load_chat_ctx")


class SuperDialogAdapter:
    """Speaks for a superdialog agent; assigned directly to `session.dialog_machine`, it is wrapped in this.

    A machine's slots begin with the call's `data` and `user_number`. A machine at a final node ends the call.

    Raises:
        ConfigurationError: superdialog is missing.
        TypeError: `agent` is none of its agents.
    """

    def __init__(self, agent: Any, *, price: Price | None = None) -> None:  # noqa: ANN401 - it has agents of many classes
        if find_spec("superdialog") is None:
            raise missing("SuperDialogAdapter", "superdialog", "superdialog")
        if not all(callable(getattr(agent, name, None)) for name in _REQUIRED):
            raise TypeError(f"{type(agent).__name__} is no superdialog agent: make a DialogMachine or an LLMAgent")
        self.agent = agent
        self._price = price
        self._is_machine = hasattr(agent, "load_flow_state") and hasattr(agent, "seed")
        self._begun = False
        self._from_node: object = None
        self._notes: list[str] = []
        self._language: str | None = None
        self._report: Callable[..., object] | None = None
        self._meter: Meter | None = None

    @property
    def history(self) -> list[ChatMessage]:
        """The conversation, with of each reply what the caller heard."""
        items = self.agent.chat_ctx.items
        return [{"role": item.role, "content": item.content} for item in items if item.role in _ROLES]

    @property
    def state(self) -> object:
        """The machine's node and slots, and the node at which it began the turn."""
        state = getattr(self.agent, "state", None)
        return {**state, "from_node": self._from_node} if self._is_machine and isinstance(state, dict) else state

    @property
    def is_complete(self) -> bool:
        """Whether the machine has come to a final node."""
        return bool(getattr(self.agent, "is_complete", False))

    async def stream(
        self, text: str, context: Mapping[str, object] | None = None, language: str | None = None
    ) -> AsyncGenerator[Piece, None]:
        """Yield the reply; an `LLMAgent`'s as the model makes it, a machine's once the turn is resolved.

        Raises:
            AdapterError: the model could not be asked.
            Exception: what the agent raises.
        """
        await self._prepare(context or {}, language)
        if self._is_machine:
            self._from_node = self.agent.state["node_id"]
        before = len(self.agent.chat_ctx.items)
        said: list[str] = []
        try:
            async with aclosing(self._chunks(text)) as chunks:
                async for piece in chunks:
                    said.append(piece)
                    yield piece
        finally:
            self._remember(before, text, "".join(said))
            if self._meter is not None and self._meter.answered and self._report is not None:
                self._report(**self._meter.fields())

    async def turn(self, text: str, context: Mapping[str, object] | None = None) -> str:
        """Return the reply as a whole."""
        return "".join([piece async for piece in self.stream(text, context=context) if isinstance(piece, str)])

    def assist(self, text: str) -> None:
        """Put a system message before the caller's next text."""
        self._notes.append(text)

    def mark_interrupted(self, heard: str | None) -> None:
        """Cut the last reply in the conversation to what the caller heard; where nobody knows, say so to the model."""
        if heard is None:
            self._notes.append(HEARD_UNKNOWN)
            return
        items = list(self.agent.chat_ctx.items)
        if items and items[-1].role == "assistant":
            items.pop()
        self._load([*((item.role, item.content) for item in items), *([("assistant", heard)] if heard else [])])

    def restore(self, history: Sequence[ChatMessage]) -> None:
        """Take up a conversation that another process had; a machine's node and slots follow with the next text."""
        self._load([(message["role"], told(message)) for message in history])

    def register_llm_callback(self, fn: Callable[..., object]) -> None:
        """Call `fn` with the figures of each model call (fields as in `LLMCall`)."""
        self._report = fn

    def set_llm(self, uri: str) -> None:
        """Let the agent ask another model from the next turn on."""
        self.agent.set_llm(uri)

    def switch_flow(self, flow: Any, *, preserve_memory: bool = False) -> None:  # noqa: ANN401 - superdialog's
        """Let a machine follow another flow."""
        self.agent.switch_flow(flow, preserve_memory=preserve_memory)

    # --- one turn -----------------------------------------------------------------------------------------------------

    async def _prepare(self, context: Mapping[str, object], language: str | None) -> None:
        if not self._begun:
            self._begun = True
            if self._is_machine:
                await self._prepare_machine(context)
        if language and language != self._language:
            self._language = language
            machine = getattr(self.agent, "_machine", None)
            if machine is not None:
                machine.set_language(language)
            self._notes.append(LANGUAGE.format(language=language))
        for note in self._notes:
            self.agent.assist(note)
        self._notes.clear()

    async def _prepare_machine(self, context: Mapping[str, object]) -> None:
        """Give a new machine what is known of the call, or what it had saved in another process; meter its models."""
        data = context.get("data")
        seed = {**data} if isinstance(data, dict) else {}
        await self.agent.seed({"user_number": context.get("user_number", ""), **seed})
        scope = call_scope()
        if scope is not None and isinstance(scope.saved, dict):
            self.agent.load_flow_state(_flow_state(scope.saved))
        engine = self.agent._adapter  # noqa: SLF001 - 0.2.8 has no other way to the figures of the tool-call engine
        register = getattr(engine, "register_llm_callback", None)
        if register is not None:
            register(self._on_llm_call)
        else:
            engine._on_llm_complete = self._on_llm_call  # noqa: SLF001 - as above

    async def _chunks(self, text: str) -> AsyncGenerator[str, None]:
        self._meter = None if self._is_machine else self._new_meter(text)
        try:
            chunks: AsyncIterator[Any] = await self.agent.turn(text, stream=True)
            resolved = not self._is_machine
            async for chunk in chunks:
                if not resolved:
                    resolved = True
                    self._resolved()
                if self._meter is not None:
                    self._meter.see(chunk.text or "")
                if chunk.text:
                    yield chunk.text
        except AdapterError:
            raise
        except Exception as error:  # noqa: BLE001 - raised again
            raise _meaning(error) or error from None
        finally:
            close = getattr(locals().get("chunks"), "aclose", None)
            if close is not None:
                await close()

    def _resolved(self) -> None:
        """Save where a machine stands, and see to it that it does not read out its instructions."""
        scope = call_scope()
        if scope is not None:
            scope.save(_saved(self.agent.flow_state))
        node, spoken = self.agent._machine.current_node, self.agent.chat_ctx.items  # noqa: SLF001 - the flow's own node
        if node.instruction and spoken and spoken[-1].content.strip() == node.instruction.strip():
            self._load([(item.role, item.content) for item in spoken[:-1]])
            raise AdapterError(
                f"{PROVIDER} failed, and the machine would have read out its instructions", code="provider_error"
            )

    def _remember(self, before: int, text: str, said: str) -> None:
        """Make sure that the conversation has the turn, in whole characters: agents leave out what was cut."""
        found = [(item.role, item.content) for item in self.agent.chat_ctx.items]
        items = [(role, whole(content)) for role, content in found]
        new = items[before:]
        if ("user", text) not in new:
            items.append(("user", text))
        if said and not any(role == "assistant" for role, _ in new):
            items.append(("assistant", said))
        if items != found:
            self._load(items)

    def _load(self, messages: Sequence[tuple[str, str]]) -> None:
        import superdialog  # noqa: PLC0415 - comes with an extra

        items: list[Any] = [superdialog.ChatMessage(_role(role), content) for role, content in messages]
        self.agent.load_chat_ctx(superdialog.ChatContext(items=items))

    # --- figures ------------------------------------------------------------------------------------------------------

    def _new_meter(self, text: str) -> Meter:
        named = getattr(getattr(self.agent, "_provider", None), "model", None)
        provider, model = _named(named)
        chars = len(text) + sum(len(item.content) for item in self.agent.chat_ctx.items)
        return Meter(model=model, provider=provider, prompt_chars=chars, price=self._price)

    async def _on_llm_call(self, call: Any) -> None:  # noqa: ANN401 - superdialog's LLMCallData, of which there are two
        if self._report is None:
            return
        provider, model = _named(call.model)
        meter = Meter(model=model, provider=provider, prompt_chars=len(str(call.prompt_messages)), price=self._price)
        counted = {"tokens_in": call.tokens_in, "tokens_out": call.tokens_out, "estimated": False}
        if not call.tokens_in:
            answer = math.ceil(len(str(call.response_json)) / 4)
            counted = {"tokens_in": meter.fields()["tokens_in"], "tokens_out": answer, "estimated": True}
        self._report(
            **{**meter.fields(), **counted, "ttft_ms": None, "latency_ms": round(call.latency_ms, 1)},
            **{name: getattr(call, name) for name in ("node_id", "edge_id", "prompt_messages", "response_json")},
        )


def _role(role: str) -> Any:  # noqa: ANN401 - superdialog's literals
    return role


def _named(model: object) -> tuple[str, str]:
    """Return provider and model of a name such as `openai/gpt-4o`."""
    if not isinstance(model, str) or not model:
        return "superdialog", "unknown"
    provider, slash, name = model.partition("/")
    return (provider, name) if slash else ("superdialog", model)


def _saved(state: Any) -> dict[str, Any]:  # noqa: ANN401 - superdialog's FlowState
    """Return a machine's state as JSON can hold it."""
    return {**asdict(state), "transition_log": [entry.model_dump() for entry in state.transition_log]}


def _flow_state(saved: Mapping[str, Any]) -> Any:  # noqa: ANN401 - superdialog's FlowState
    from superdialog import FlowState  # noqa: PLC0415 - comes with an extra
    from superdialog.machine.models import TransitionRecord  # noqa: PLC0415 - as above

    fields = dict(saved)
    log = [TransitionRecord(**entry) for entry in fields.pop("transition_log", ())]
    return FlowState(**fields, transition_log=log)


def _meaning(error: Exception) -> AdapterError | None:
    """Return what an error of litellm's or of a transport means, None of any other."""
    status = getattr(error, "status_code", None)
    names = {kind.__name__ for kind in type(error).__mro__}
    if "APITimeoutError" in names or "Timeout" in names:
        return timed_out(PROVIDER)
    if isinstance(status, int):
        return http_error(PROVIDER, status)
    if "APIError" in names or "OpenAIError" in names:
        return broken_off(PROVIDER)
    return transport_error(error, PROVIDER)
