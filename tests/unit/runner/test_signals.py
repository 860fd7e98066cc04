from __future__ import annotations

import asyncio
import signal

from unpod.runner.signals import listening
from unpod.testing.clock import settle


def ignore(number: int) -> None: ...


async def strike(number: int, heard: list[int]) -> None:
    signal.raise_signal(number)
    await settle()
    assert heard == [number]


async def test_signals_are_heard_and_given_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    heard, raw = list[int](), list[int]()
    with listening(heard.append, raw.append):
        await strike(signal.SIGTERM, heard)
        heard.clear()
        await strike(signal.SIGINT, heard)
    assert raw == [signal.SIGTERM, signal.SIGINT]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


async def test_several_runners_of_a_process_hear_the_same_signal() -> None:
    before = signal.getsignal(signal.SIGTERM)
    one, two = list[int](), list[int]()
    first, second = listening(one.append, ignore), listening(two.append, ignore)
    with first:
        second.__enter__()
        await strike(signal.SIGTERM, two)
        assert one == [signal.SIGTERM]
    # the first is over, in whatever order they end
    two.clear()
    await strike(signal.SIGTERM, two)
    assert one == [signal.SIGTERM]
    second.__exit__(None, None, None)
    assert signal.getsignal(signal.SIGTERM) is before


async def test_outside_the_main_thread_signals_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def elsewhere() -> object:
        async def listen() -> object:
            with listening(ignore, ignore):
                return signal.getsignal(signal.SIGTERM)

        return asyncio.run(listen())

    assert await asyncio.to_thread(elsewhere) is before
    await settle()
