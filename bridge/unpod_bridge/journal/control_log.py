"""Reads the controls of one call: the live tail says that there is one, the log what it is and how old.

The tail shows what the log has refused, and shows it before the log can be asked; so what it names is looked for, for a
while. What the tail has missed is found with the next one, or when its sender asks again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, get_args

from unpod.core import codec
from unpod.core.controls import AnyControl
from unpod.core.envelope import from_headers
from unpod.core.subjects import CallSubjects, Subjects
from unpod.errors import LogError, ProtocolViolation
from unpod.ports import Clock, EventLog, Message
from unpod_bridge.protocol.controls import Asked

logger = logging.getLogger("unpod.bridge.line")

_LOOKS_S: Final = (0.0, 0.002, 0.01, 0.05, 0.2, 0.5, 1.0)
_RETRY_S: Final = 0.2
_MOST_HINTS: Final = 2_000
_CONTROLS: Final = get_args(AnyControl)


class ControlReader:
    """Hands the controls of a session to `ask`, in stream order, each at least once."""

    def __init__(
        self,
        log: EventLog,
        clock: Clock,
        subjects: Subjects,
        call: CallSubjects,
        *,
        since: int,
        ask: Callable[[Asked], None],
    ) -> None:
        self._log = log
        self._clock = clock
        self._subjects = subjects
        self._call = call
        self._next = since
        self._ask = ask
        self._wanted: set[str] = set()
        self._again = False
        self._reading = False

    def hint(self, message: Message | None) -> bool:
        """Take note of a control on the tail, or that there may be some; return whether `read` has to be called."""
        identifier = "" if message is None else message.headers.get("ce-id", "")
        if identifier and len(self._wanted) < _MOST_HINTS:
            self._wanted.add(identifier)
        self._again = True
        was_reading, self._reading = self._reading, True
        return not was_reading

    async def read(self) -> None:
        """Hand over what the log has, until everything is there that the tail has named, or does not come."""
        try:
            looks = 0
            while self._again or (self._wanted and looks < len(_LOOKS_S)):
                if self._again:
                    looks, self._again = 0, False
                if looks:
                    await self._clock.sleep(_LOOKS_S[looks])
                looks += 1
                await self._read_once()
            self._wanted.clear()
        finally:
            self._reading = False

    async def _read_once(self) -> None:
        while True:
            try:
                async for message in self._log.read(self._call.ctl, start_seq=self._next):
                    self._next = message.seq + 1
                    self._hand_over(message)
                    await asyncio.sleep(0)  # a thousand of them are not worth another call's pause
            except LogError as error:
                logger.info("controls cannot be read (%s): trying again", type(error).__name__)
                await self._clock.sleep(_RETRY_S)
            else:
                return

    def _hand_over(self, message: Message) -> None:
        try:
            envelope = from_headers(message.headers)
        except ProtocolViolation:
            return  # nobody can be answered
        self._wanted.discard(envelope.id)
        control = None
        try:
            body = codec.read(self._subjects, message.subject, message.headers, message.data, message.seq).body
        except ProtocolViolation as error:
            logger.warning("a control is refused: %s", error)
        else:
            control = body if isinstance(body, _CONTROLS) else None
        self._ask(Asked(envelope.id, control, message.time_ns / 1e9))
