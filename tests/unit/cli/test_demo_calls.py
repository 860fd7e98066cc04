from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from unpod.core.codec import Record
from unpod.testing import SimulatedCall, simulate_call
from unpod_cli.demo.calls import CALLS, CARD_NUMBER, PATIENCE_S, DemoCall
from unpod_cli.demo.pizzeria import handle_call
from unpod_cli.demo.show import Show
from unpod_cli.transcript import CallOver, Done, Speaking, SpokenLine
from unpod_orchestrator import ExpectsEnd, HangsUp, Says, VerbOutcome


def demo(caller: str) -> DemoCall:
    return next(call for call in CALLS if call.caller == caller)


async def texts(call: SimulatedCall, caller: str) -> None:
    """Say what the caller of the demo says."""
    for step in demo(caller).steps:
        if isinstance(step, Says):
            await call.user(step.text)
            await call.frame("state", state="speaking", turn_id=1)
            await call.frame("state", state="listening", turn_id=1)
            await call.advance(2)


@pytest.mark.parametrize("caller", ["Ada", "Dora"])
async def test_a_call_that_goes_as_its_script_says_has_no_problems(caller: str) -> None:
    async with simulate_call(handle_call) as call:
        await texts(call, caller)
        await call.hang_up()
        assert demo(caller).problems(await call.records()) == []


async def test_the_agent_ends_a_call_and_transfers_another() -> None:
    async with simulate_call(handle_call) as call:
        await texts(call, "Finn")
        assert await call.ended() == "completed"
        assert demo("Finn").problems(await call.records()) == []
    async with simulate_call(handle_call) as call:
        await texts(call, "Carl")
        assert await call.ended() == "transferred"
        assert demo("Carl").problems(await call.records()) == []


def test_a_call_without_a_log() -> None:
    assert demo("Ada").problems([]) == [
        "the log has no end of the call",
        "the log does not say that the entrypoint has returned",
        "the log has 0 answered turns, not 2",
    ]


async def test_another_end_and_no_cut() -> None:
    async with simulate_call(handle_call) as call:
        await texts(call, "Ada")
        await call.hang_up("lost")
        records = await call.records()
    assert demo("Ada").problems(records) == ["the log says that the call ended with lost, not hangup"]
    assert "was cut off" in demo("Ben").problems(records)[-1]
    assert "something was withheld" in demo("Dora").problems(records)[-1]


LEAKED = "the number of the card stands in the log"


@pytest.mark.parametrize("said", [CARD_NUMBER, CARD_NUMBER.replace(" ", ""), "4929-1234", "... 5678 9012"])
async def test_a_card_number_in_the_log_is_found(said: str) -> None:
    assert LEAKED in demo("Dora").problems(await log_of(f"It is {said}."))


@pytest.mark.parametrize("said", ["job-b94f4e5e54fb4411a489a8506265678f", "1795234510.5567813", "4929 and 9012"])
async def test_digits_of_ids_and_times_are_no_card_number(said: str) -> None:
    assert LEAKED not in demo("Dora").problems(await log_of(said))


async def log_of(said: str) -> list[Record]:
    """Return the log of a call on which the caller said this."""
    async with simulate_call(handle_call) as call:
        await call.user(said)
        await call.hang_up()
        return await call.records()


def test_every_call_is_told_apart() -> None:
    assert len({call.caller for call in CALLS}) == len({call.colour for call in CALLS}) == len(CALLS) == 6
    kinds = [type(step) for call in CALLS for step in call.steps]
    assert kinds.count(ExpectsEnd) == 2
    assert HangsUp in kinds


@pytest.mark.parametrize(("speed", "within_s"), [(10.0, PATIENCE_S), (0.1, 250.0)])
def test_patience_follows_the_speed(speed: float, within_s: float) -> None:
    first = demo("Ada").scenario(speed).steps[0]
    assert getattr(first, "within_s", None) == within_s


def test_what_is_shown_of_a_call() -> None:
    console = Console(file=StringIO(), width=66, force_terminal=False)
    show = Show(console, CALLS)
    call = demo("Ben")
    with console.capture() as captured:
        show.happened(call, 0.0, Done("connected"))
        show.happened(call, 1.25, SpokenLine("agent", "We have margherita,", "funghi and many others", cut=True))
        show.happened(call, 1.3, Speaking("agent", "not shown"))
        show.happened(call, 1.3, SpokenLine("caller", "Stop it, please, I know what I want now: a margherita."))
        show.happened(call, 2.0, SpokenLine("caller", "4929", recorded=False))
        show.happened(call, 12.0, CallOver(VerbOutcome("hangup"), "the caller hung up"))
        show.verdict([(call, []), (demo("Ada"), ["it went wrong"])], 3.21)
    assert captured.get().splitlines() == [
        " 0.0s Ben  │        · connected",
        " 1.2s Ben  │ agent  We have margherita, ✂ [unheard: funghi and…]",
        " 1.3s Ben  │ caller Stop it, please, I know what I want now: a",
        "                    margherita.",
        " 2.0s Ben  │ caller 4929 [not recorded]",
        "12.0s Ben  │        ■ the caller hung up",
        "",
        "Result  1 of 2 calls went as their scripts say, in 3.2 s ─────────",
        "✓ Ben a barge-in",
        "✗ Ada plain turns",
        "      it went wrong",
    ]
