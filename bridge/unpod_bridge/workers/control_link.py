"""The control socket's shell: dials, feeds `registration.Registration` what it hears, and does what that says."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from typing import Final, Protocol, assert_never

from unpod.core.dispatch_messages import Refusal
from unpod.errors import OrchestratorTooOld, RunnerAuthError
from unpod_bridge.transport.sockets import Dialer, DialError, Socket
from unpod_bridge.wire.job import Job
from unpod_bridge.workers.effects import (
    Assigned,
    Cancel,
    CloseControl,
    DialControl,
    Effect,
    Extend,
    FindRunner,
    GiveUp,
    Log,
    RedialControl,
    Send,
    Withdraw,
)
from unpod_bridge.workers.registration import Registration

logger = logging.getLogger("unpod.bridge")

NORMAL: Final = 1000
RENEW_PATIENCE_S: Final = 5.0
"""How long jobs that look for a runner may delay a new registration."""

FRESH_S: Final = 3.0
"""For how long after a registration the loss of a call is no reason for another one."""


class JobHandler(Protocol):
    """Who carries out what becomes of jobs; nothing here blocks."""

    def find(self, link: ControlLink, assigned: Assigned) -> None:
        """Look for a runner; tell the link `taken`, `refused` or `elsewhere`."""
        ...

    def extend(self, assigned: Assigned) -> None:
        """The job that is looked for has come again."""
        ...

    def withdraw(self, job_id: str) -> None:
        """Stop looking."""
        ...

    def dial(self, job: Job) -> None:
        """Begin the call."""
        ...

    def cancel(self, job_id: str) -> None:
        """End the call, if need be at the bridge that has it."""
        ...


class ControlLink:
    """One worker's control socket, kept open until the worker leaves. `on_change` hears of each change of state."""

    def __init__(
        self,
        registration: Registration,
        *,
        dialer: Dialer,
        url: str,
        headers: Mapping[str, str],
        handler: JobHandler,
        on_change: Callable[[], None],
        fresh_s: float = FRESH_S,
    ) -> None:
        self.registration = registration
        self._dialer = dialer
        self._url = url
        self._headers = headers
        self._handler = handler
        self._on_change = on_change
        self._fresh_s = fresh_s
        self._loop = asyncio.get_running_loop()
        self._socket: Socket | None = None
        self._opened_at = float("-inf")
        self._over = asyncio.Event()
        self._delay_s = 0.0
        self._error: RunnerAuthError | OrchestratorTooOld | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._renewing = False
        self._leaving = False
        self._shown = (registration.state, registration.detail)

    async def run(self) -> None:
        """Keep the socket open; return once the worker has left.

        Raises:
            RunnerAuthError: the key is refused.
            OrchestratorTooOld: the transport is not confirmed.
        """
        try:
            while not self._left:
                await self._once()
                if self._error is not None:
                    raise self._error
                await self._pause()
        finally:
            self._cancel_timers()
            socket, self._socket = self._socket, None
            if socket is not None:
                socket.close(NORMAL)
                await socket.wait_closed()

    # --------------------------------------------------------------------------------------------- what is asked of it

    def renew(self) -> None:
        """Register again where the capacity has changed."""
        if self.registration.registered_capacity != self.registration.capacity:
            self.register_anew()

    def register_anew(self) -> None:
        """Register again over a new socket, as soon as no job looks for a runner."""
        self._renewing = True
        if self._patience is None:
            self._patience = self._loop.call_later(RENEW_PATIENCE_S, self._lose_patience)
        self._settle()

    def leave(self) -> None:
        """End the registration once its calls are over."""
        self._leaving = True
        self._settle()

    def stay(self) -> None:
        """Do not leave after all."""
        self._leaving = False

    def drain(self) -> None:
        """Take no more jobs; leave when the calls are over."""
        self._perform(self.registration.drain())
        self.leave()

    def taken(self, job_id: str) -> None:
        """A runner holds a place for the job."""
        self._perform(self.registration.taken(job_id))

    def refused(self, job_id: str, reason: Refusal) -> None:
        """No runner takes the job."""
        self._perform(self.registration.refused(job_id, reason))

    def elsewhere(self, job_id: str) -> None:
        """The job's call lives at another bridge."""
        self._perform(self.registration.elsewhere(job_id))

    def up(self, job_id: str) -> None:
        """The job's call has begun."""
        self.registration.up(job_id)

    def ended(self, job_id: str) -> None:
        """The job's call is over."""
        self.registration.ended(job_id)
        self._settle()

    def taken_away(self) -> None:
        """Another bridge has taken a call of ours, believing us dead, and may have registered under this worker's id.

        Many such calls are found out at a time; a socket that is new already will do for all of them.
        """
        if self._loop.time() - self._opened_at >= self._fresh_s:
            self.register_anew()

    # --------------------------------------------------------------------------------------------------- one connection

    async def _once(self) -> None:
        self._over = asyncio.Event()
        ear = _Ear(self)
        try:
            socket = await self._dialer.dial(self._url, ear, headers=self._headers)
        except DialError as error:
            self._perform(self.registration.unreachable(str(error), error.status, _chance()))
            self._over.set()
            return
        self._socket, self._opened_at = socket, self._loop.time()
        self._renewing = False  # what is registered now is the capacity as of now
        self._perform(self.registration.opened(self._loop.time()))
        ear.open()
        await self._over.wait()
        # An orderly goodbye before the next dial: the orchestrator must not see the worker twice.
        await socket.wait_closed()

    async def _pause(self) -> None:
        if self._delay_s > 0 and not self._left:
            self._over = asyncio.Event()
            try:
                async with asyncio.timeout(self._delay_s):
                    await self._over.wait()
            except TimeoutError:
                return

    def heard(self, data: bytes, *, binary: bool) -> None:
        """Take a frame of the open socket."""
        if self._socket is not None:
            self._perform(self.registration.received(data, self._loop.time(), binary=binary))

    def lost(self, code: int | None) -> None:
        """The open socket is gone, and not by our doing."""
        if self._socket is not None:
            self._socket = None
            self._lose(code)

    def _lose(self, code: int | None) -> None:
        self._perform(self.registration.lost(code, _chance()))
        self._over.set()

    # -------------------------------------------------------------------------------------------------------- effects

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            self._do(effect)
        self._arm()
        shown = self.registration.state, self.registration.detail
        if shown != self._shown:
            self._shown = shown
            self._on_change()
        self._settle()

    def _do(self, effect: Effect) -> None:  # noqa: C901 - one case per effect
        match effect:
            case Send():
                if self._socket is not None:
                    self._socket.write(effect.data)
            case FindRunner():
                self._handler.find(self, effect.assigned)
            case Extend():
                self._handler.extend(effect.assigned)
            case Withdraw():
                self._handler.withdraw(effect.job_id)
            case DialControl():
                self._handler.dial(effect.job)
            case Cancel():
                self._handler.cancel(effect.job_id)
            case CloseControl():
                self._hang_up()
                self._lose(None)
            case RedialControl():
                self._delay_s = effect.delay_s
            case GiveUp():
                self._error = effect.error
            case Log():
                logger.log(effect.level, "%s", effect.text)
            case _:
                assert_never(effect)

    def _hang_up(self) -> None:
        if self._socket is not None:
            self._socket.close(NORMAL)
            self._socket = None

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        due = self.registration.due()
        self._timer = None if due is None else self._loop.call_at(due, self._tick)

    def _tick(self) -> None:
        self._perform(self.registration.tick(self._loop.time()))

    # ------------------------------------------------------------------------------------------- renewing and leaving

    @property
    def _left(self) -> bool:
        return self._leaving and not self.registration.calls and not self.registration.asking

    def _settle(self) -> None:
        """Close the socket where that is wanted and nothing speaks against it."""
        renewable = self._renewing and self.registration.state == "registered"
        if self._left or (renewable and not self.registration.asking):
            self._end()

    def _lose_patience(self) -> None:
        self._patience = None
        if self._renewing and self.registration.state == "registered":
            self._end()

    def _end(self) -> None:
        self._renewing = False
        self._delay_s = 0.0
        if self._socket is not None:
            self._hang_up()
            self._perform(self.registration.closed())
        self._over.set()

    def _cancel_timers(self) -> None:
        for timer in (self._timer, self._patience):
            if timer is not None:
                timer.cancel()
        self._timer = self._patience = None


class _Ear:
    """Hears one socket; what comes before the socket is ours waits for it."""

    def __init__(self, link: ControlLink) -> None:
        self._link = link
        self._early: list[Callable[[], None]] | None = []

    def open(self) -> None:
        """Hand over what has come already."""
        early, self._early = self._early or [], None
        for call in early:
            call()

    def on_frame(self, data: bytes, *, binary: bool) -> None:
        """Take a frame (`sockets.Receiver`)."""
        self._now_or_then(lambda: self._link.heard(data, binary=binary))

    def on_pong(self, token: bytes) -> None:
        """Take a pong (`sockets.Receiver`); nobody here asks for one."""

    def on_lost(self, code: int | None, reason: str) -> None:
        """The socket is gone (`sockets.Receiver`)."""
        del reason
        self._now_or_then(lambda: self._link.lost(code))

    def _now_or_then(self, call: Callable[[], None]) -> None:
        if self._early is None:
            call()
        else:
            self._early.append(call)


def _chance() -> float:
    return random.random()  # noqa: S311 - spreads load, guards nothing
