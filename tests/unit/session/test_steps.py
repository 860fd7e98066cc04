"""Journaled steps: what comes back, in which type, and how long it may take."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from tests.unit.session.rig import agent

from unpod import CallContext
from unpod.core.events import LLMCalled
from unpod.core.own_hooks import ModelCallFields
from unpod.errors import StepFailed
from unpod.testing import simulate_call

if TYPE_CHECKING:
    from decimal import Decimal


@dataclass
class Booking:
    at: datetime
    seats: dict[int, str]


NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
BOOKED = Booking(NOON, {1: "Ann"})


async def book() -> Booking:
    return BOOKED


def pair() -> tuple[int, str]:
    return 1, "a"


def promises_a_number() -> int:
    return "seven"  # type: ignore[return-value]  # that is it


def of_a_type_that_only_checkers_know() -> Decimal | None:
    return None


def unannotated():  # type: ignore[no-untyped-def]  # noqa: ANN201 - that is it
    return 1, "a"


@pytest.mark.parametrize(
    ("function", "result"),
    [
        (book, BOOKED),
        (pair, (1, "a")),
        (promises_a_number, "seven"),
        (of_a_type_that_only_checkers_know, None),
        (unannotated, [1, "a"]),
        (lambda: {"a": (1,)}, {"a": [1]}),
    ],
)
async def test_a_result_has_the_type_that_the_function_promises_also_after_a_takeover(
    function: Callable[[], object], result: object
) -> None:
    results: list[object] = []

    async def handle(ctx: CallContext) -> None:
        results.append(await ctx.session.step("once", function))
        await ctx.session.run()

    async with simulate_call(handle) as call:
        await call.settled()
        await call.crash()
        await call.settled()
    assert results == [result, result]
    assert [type(each) for each in results] == [type(result)] * 2


async def test_a_step_that_takes_longer_than_its_time_has_failed_for_good() -> None:
    failures: list[str] = []
    begun = 0

    async def hangs(_: str) -> None:
        nonlocal begun
        begun += 1
        await asyncio.Event().wait()

    async def handle(ctx: CallContext) -> None:
        try:
            await ctx.session.step("hangs", hangs, "text", timeout_s=0.01)
        except StepFailed as error:
            failures.append(error.error_type)
        await ctx.session.run()

    async with simulate_call(handle) as call:
        await call.until(lambda: bool(failures))
        await call.crash()
        await call.until(lambda: len(failures) == 2)
    assert (failures, begun) == (["TimeoutError", "TimeoutError"], 1)


async def test_no_time_at_all_is_refused() -> None:
    async with simulate_call(agent()) as call:
        with pytest.raises(ValueError, match="timeout_s must be more than 0"):
            await call.context.session.step("book", book, timeout_s=0)


def test_the_fields_of_a_model_call_are_those_of_its_record() -> None:
    assert set(ModelCallFields.__annotations__) == set(LLMCalled.__struct_fields__) - {"withheld"}
