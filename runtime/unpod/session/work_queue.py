"""What a session's loop has to do, in order: records to be taken, hooks to be run, the end of `run()`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from unpod.core.codec import OWNER_CHANNELS, Record
from unpod.core.decision import Finish, FireHooks
from unpod.core.events import UserInterrupted
from unpod.core.replay.history import History, Point
from unpod.session.hooks import Hooks, Runs, every
from unpod.session.watermark import Watermark


@dataclass(frozen=True, slots=True)
class HooksDue:
    """Hooks that wait: what to run, the id of its cause, and where in the call they were due, if that is known."""

    fire: FireHooks
    cause: str
    point: Point | None
    runs: Runs = every


@dataclass(frozen=True, slots=True)
class End:
    """The record with which a call had ended before its runner died, and the past in which it stands."""

    record: Record
    past: History


Item = Record | HooksDue | Finish


class WorkQueue:
    """The queue of one session's loop."""

    def __init__(self, hooks: Hooks, watermark: Watermark) -> None:
        self._hooks = hooks
        self._watermark = watermark
        self.items: deque[Item] = deque()
        """What is in line."""
        self._wake = asyncio.Event()
        self._texts: dict[int, Point] = {}

    def begin_with(self, records: Iterable[Record]) -> None:
        """Put records before all that has come in."""
        self.items.extendleft(reversed(list(records)))

    def wake(self) -> None:
        """Let the loop look around."""
        self._wake.set()

    async def woken(self) -> None:
        """Return when the loop is to look around."""
        self._wake.clear()
        await self._wake.wait()

    def through_interruptions(self) -> Iterator[Record]:
        """Take out of the queue, and yield, its records up to the last barge-in among them; hooks stay in it."""
        items = self.items
        while items and any(isinstance(item, Record) and isinstance(item.body, UserInterrupted) for item in items):
            record = next(item for item in items if isinstance(item, Record))
            items.remove(record)
            yield record

    # --- hooks --------------------------------------------------------------------------------------------------------

    def await_turn(self, number: int, point: Point) -> None:
        """Take note of a text: it is settled when its `user_turn` hooks have returned, and they run in its turn."""
        self._texts[number] = point
        self._watermark.begin(point)

    def turn_over(self, number: int) -> None:
        """A turn is completed. If the call was over before its hooks could run, its text is settled with that."""
        point = self._texts.pop(number, None)
        if point is not None:
            self._watermark.returned(point)

    def line_up_turn(self, fire: FireHooks, cause: str) -> None:
        """Queue the hooks of a text whose turn has come; the loop takes them even if there are none."""
        self.items.append(HooksDue(fire, cause, self._texts.pop(fire.turn, None)))

    def line_up(self, fire: FireHooks, stored: Record | None, cause: str, now: Point, end: End | None) -> None:
        """Queue hooks.

        Those that are the session's own tell of `stored`; others, in a takeover, of the `end` of the former runner's
        call, if it had ended; else of `cause`, which was taken `now`.
        """
        point, runs = now, every
        if fire.own and stored is not None:
            cause, point = stored.envelope.id, _point(stored)
        elif end is not None:
            cause, point = end.record.envelope.id, _point(end.record)
            if cause in end.past.poisoned:
                return
            runs = partial(_reruns, end.past, fire.event, point)
        if self._hooks.has(fire.event, runs):
            self._watermark.begin(point)
            self.items.append(HooksDue(fire, cause, point, runs))


def _point(record: Record) -> Point:
    return Point(record.envelope.index, own=record.channel in OWNER_CHANNELS)


def _reruns(past: History, event: str, point: Point, replay: bool | None) -> bool:  # noqa: FBT001 - as `Runs` has it
    return past.reruns(event, point, replay=replay)
