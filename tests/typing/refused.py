"""Wrong uses, each of which type checkers must refuse: an ignore that is not needed is an error for both of them.

Nothing here runs: mypy reads it with all tests, basedpyright with the pages of the documentation (`make types`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import assert_type

from unpod import AgentRunner, CallContext, CallMetrics, Outcome, Session
from unpod.adapters import DialogAdapter, DialogMachine, EchoAdapter


async def charge(amount: int, *, idempotency_key: str = "") -> dict[str, int]:
    return {idempotency_key: amount}


async def takes_text(text: str) -> None: ...
async def takes_nothing() -> None: ...
def takes_numbers(first: int, second: int) -> None: ...
def takes_a_context(ctx: CallContext) -> None: ...


class Half:
    async def turn(self, text: str) -> str:
        return text


def machines(session: Session) -> None:
    session.dialog_machine = 42  # type: ignore[assignment]
    session.dialog_machine = "an adapter"  # type: ignore[assignment]
    session.dialog_machine = Half()  # type: ignore[assignment]
    session.dialog_machine = EchoAdapter  # type: ignore[assignment]
    session.dialog_machine = takes_text  # type: ignore[assignment]


def hooks(session: Session) -> None:
    session.on("user_trun")  # type: ignore[call-overload]
    session.on("user_turn")(takes_nothing)  # type: ignore[type-var]
    session.on("user_turn")(takes_numbers)  # type: ignore[type-var]
    session.on("call_start")(takes_text)  # type: ignore[type-var]
    session.on("interruption")(takes_text)  # type: ignore[type-var]
    session.on("tool_call")(takes_text)  # type: ignore[type-var]
    session.on("silence")(takes_text)  # type: ignore[type-var]
    session.on("metric")(takes_text)  # type: ignore[type-var]
    session.on("error")(takes_text)  # type: ignore[type-var]
    session.on("llm_call")(takes_text)  # type: ignore[type-var]
    session.on("turn_complete")(takes_nothing)  # type: ignore[type-var]
    session.on("call_end")(takes_nothing)  # type: ignore[type-var]


def runner_hooks(runner: AgentRunner) -> None:
    runner.on("user_turn")  # type: ignore[call-overload]
    runner.on("call_start")(takes_text)  # type: ignore[type-var]
    runner.on("metric")(takes_a_context)  # type: ignore[type-var]
    runner.on("call_end")(takes_a_context)  # type: ignore[type-var]


async def steps(session: Session) -> None:
    await session.step("charge", charge)  # type: ignore[call-overload]
    await session.step("charge", charge, "50")  # type: ignore[call-overload]
    await session.step("charge", charge, 50, 51)  # type: ignore[call-overload]
    await session.step("charge", charge, 50, currency="EUR")  # type: ignore[call-arg]
    await session.step("charge", 42)  # type: ignore[call-overload]
    await session.step("add", takes_numbers, 1, 2, timeout_s=3)  # type: ignore[call-arg, arg-type]
    (await session.step("charge", charge, 50)).append(1)  # type: ignore[attr-defined]


# --------------------------------------------------------------------------------------------- and what is right is not


async def reply(text: str) -> AsyncIterator[str]:
    yield text


async def right(session: Session, runner: AgentRunner, adapter: DialogAdapter) -> None:
    session.dialog_machine = adapter
    session.dialog_machine = reply
    session.dialog_machine = EchoAdapter()
    session.dialog_machine = None
    machine: DialogMachine | None = session.dialog_machine
    session.dialog_machine = machine
    session.on("user_turn")(takes_text)
    session.on("call_end", replay=True)(takes_text)
    session.on("call_start")(takes_nothing)

    @session.on("turn_complete")
    def on_turn(*, turn_id: int, heard_text: str | None, **_: object) -> None: ...

    @session.on("llm_call")
    async def on_call(**fields: object) -> None: ...

    @session.on("tool_result")
    def on_result(name: str, result: dict[str, int], call_id: str) -> None: ...

    @runner.on("metric")
    async def on_metric(ctx: CallContext, metrics: CallMetrics) -> None: ...

    @runner.on("call_end")
    async def on_end(ctx: CallContext, final_state: str) -> None: ...

    assert_type(await session.step("charge", charge, 50), dict[str, int])
    assert_type(await session.step("charge", charge, amount=50), dict[str, int])
    assert_type(await session.step("charge", charge, 50, timeout_s=2.5), dict[str, int])
    assert_type(await session.step("add", lambda: 3), int)


async def handles(session: Session) -> None:
    assert_type(await (await session.say("hello")).outcome(timeout_s=1), Outcome)
    await (await session.say("hello"))  # type: ignore[misc]  # a handle itself is not awaited
    await session.dispatch(42)  # type: ignore[arg-type]
    session.history = ()  # type: ignore[misc]
