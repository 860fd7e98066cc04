"""What a brain may use of the call: steps that are done once, and what another process needs of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable

from unpod import CallContext
from unpod.adapters import call_scope
from unpod.core import events as ev
from unpod.core.replay.history import ADAPTER_STATE
from unpod.testing import assert_survives_crashes, simulate_call


def counting(done: list[str]) -> Callable[[CallContext], Awaitable[None]]:
    """Return an agent whose brain counts its turns, in what it saves alone."""

    async def handle_call(ctx: CallContext) -> None:
        turns: list[int] = []

        async def brain(text: str, *, context: dict[str, object]) -> AsyncGenerator[str, None]:
            scope = call_scope()
            assert scope is not None
            assert scope.context == context
            if not turns and isinstance(scope.saved, int):
                turns.append(scope.saved)

            async def attempt(key: str) -> str:
                done.append(key)
                return text.upper()

            said = await scope.step("shout", attempt)
            turns.append((turns[-1] if turns else 0) + 1)
            scope.save(turns[-1])
            yield f"{turns[-1]} {said}"

        ctx.session.dialog_machine = brain

        @ctx.session.on("user_turn")
        async def on_user_turn(text: str) -> None:
            if text == "pause":
                await ctx.session.recording.pause()

        await ctx.session.run()

    return handle_call


async def test_what_is_saved_is_there_in_the_next_process() -> None:
    done: list[str] = []
    async with simulate_call(counting(done)) as call:
        assert await call.user("one") == "1 ONE"
        assert await call.user("two") == "2 TWO"
        await call.crash()
        assert await call.user("three") == "3 THREE"
        await call.crash()
        assert await call.user("four") == "4 FOUR"
        await call.hang_up()
    assert len(set(done)) == 4


async def test_a_call_that_dies_at_every_point_comes_out_the_same() -> None:
    done: list[str] = []

    async def script(call: object) -> None:
        for text in ("one", "two", "three"):
            await call.user(text)  # type: ignore[attr-defined]

    assert await assert_survives_crashes(counting(done), script, prepare=done.clear) > 10


async def test_nothing_is_saved_that_was_said_off_the_record() -> None:
    async with simulate_call(counting([])) as call:
        assert await call.user("one") == "1 ONE"
        assert await call.user("pause") == "2 PAUSE"
        assert await call.user("secret") == "3 SECRET"
        await call.hang_up()
        records = await call.records()
    saved = [r.body for r in records if isinstance(r.body, ev.StepCompleted) and r.body.name == ADAPTER_STATE]
    assert [fact.value for fact in saved] == [1]
