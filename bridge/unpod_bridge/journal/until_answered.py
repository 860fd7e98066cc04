"""Asks a log again that is away, or does not show yet what it has stored."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from math import inf
from typing import Final, TypeVar

from unpod.errors import LogUnavailable
from unpod.ports import Clock, EventLog, Message

T = TypeVar("T")

PAUSE_S: Final = 0.1


async def until_answered(
    clock: Clock,
    ask: Callable[[], Awaitable[T]],
    patience_s: float = inf,
    *,
    pause_s: float = PAUSE_S,
    unless: Callable[[], bool] = lambda: False,
) -> T:
    """Return what `ask` returns, trying again while that raises LogUnavailable.

    Raises:
        LogUnavailable: it did for `patience_s`, or `unless` says that nobody waits for it any more.
    """
    until = clock.now() + patience_s
    while True:
        try:
            return await ask()
        except LogUnavailable:
            if clock.now() >= until or unless():
                raise
        await clock.sleep(pause_s)


async def shown(log: EventLog, subject: str, seq: int) -> Message:
    """Return the last record on a subject on which `seq` is stored.

    Any replica may answer, and one that lags knows of an older record or of none.

    Raises:
        LogUnavailable: no answer, or not of one that knows so much.
    """
    record = await log.last(subject)
    if record is None or record.seq < seq:
        raise LogUnavailable("the log does not show what it has stored")
    return record
