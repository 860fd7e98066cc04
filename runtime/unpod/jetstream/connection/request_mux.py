"""Answers to what was published: one inbox subscription per connection, one number in a reply subject per answer.

A Future and a timer for each would cost more than the publish itself, so an answer is a callback, and time-outs are
found by one sweep that runs only while something is awaited.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from unpod.errors import LogError, LogUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

_SWEEP_S: Final = 0.1


class Awaited:
    """One answer, or a row of them, that is awaited; `key` is the reply subject as it comes back."""

    __slots__ = ("_replies", "deadline", "key", "on_answer", "on_loss", "once", "reply", "subject")

    def __init__(
        self,
        replies: RequestMux,
        reply: str,
        subject: str,
        on_answer: Callable[[bytes, bytes], None],
        on_loss: Callable[[LogError], None],
        *,
        once: bool,
        deadline: float,
    ) -> None:
        self._replies = replies
        self.reply = reply
        self.key = reply.encode("ascii")
        self.subject = subject
        self.on_answer = on_answer
        self.on_loss = on_loss
        self.once = once
        self.deadline = deadline

    def extend(self, timeout_s: float) -> None:
        """Wait `timeout_s` from now on."""
        self.deadline = self._replies.now() + timeout_s

    def close(self) -> None:
        """Await nothing any more; what still comes is dropped."""
        self._replies.forget(self.key)


class RequestMux:
    """The table of what is awaited on one connection."""

    __slots__ = ("_awaited", "_last", "_loop", "_sweeper", "prefix")

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self._awaited: dict[bytes, Awaited] = {}
        self._last = 0
        self._loop = asyncio.get_running_loop()
        self._sweeper: asyncio.TimerHandle | None = None

    def now(self) -> float:
        """Return the loop's time in seconds."""
        return self._loop.time()

    def expect(
        self,
        subject: str,
        timeout_s: float,
        on_answer: Callable[[bytes, bytes], None],
        on_loss: Callable[[LogError], None],
        *,
        once: bool = False,
    ) -> Awaited:
        """Call `on_answer` with header block and payload of each answer to what will be published on `subject`.

        That goes on until it is closed, until the first answer with `once`, or until `on_loss` is called: at the
        time-out (to 0.1 s), when the connection is lost, or when the publish is denied.
        """
        self._last += 1
        reply = f"{self.prefix}{self._last}"
        deadline = self._loop.time() + timeout_s
        awaited = Awaited(self, reply, subject, on_answer, on_loss, once=once, deadline=deadline)
        self._awaited[awaited.key] = awaited
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep)
        return awaited

    def forget(self, key: bytes) -> None:
        """Drop an entry; unknown ones are ignored."""
        self._awaited.pop(key, None)

    def dispatch(self, subject: bytes, _reply: bytes, block: bytes, data: bytes) -> None:
        """Hand an answer to whoever awaits it."""
        awaited = self._awaited.get(subject)
        if awaited is not None:
            if awaited.once:
                del self._awaited[subject]
            awaited.on_answer(block, data)

    def lose(self, reason: LogError, *, subject: str = "") -> None:
        """Tell all that await an answer (to a publish on `subject`, if given) that none will come."""
        lost = [a for a in self._awaited.values() if not subject or a.subject == subject]
        self._give_up(lost, reason)

    def close(self, reason: LogError) -> None:
        """Lose all, and stop the sweep."""
        self.lose(reason)
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    def _sweep(self) -> None:
        self._sweeper = None
        now = self._loop.time()
        late = [a for a in self._awaited.values() if a.deadline <= now]
        self._give_up(late, LogUnavailable("NATS did not answer in time"))
        if self._awaited and self._sweeper is None:
            self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep)

    def _give_up(self, lost: list[Awaited], reason: LogError) -> None:
        for awaited in lost:
            if self._awaited.pop(awaited.key, None) is not None:
                awaited.on_loss(reason)
