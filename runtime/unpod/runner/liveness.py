"""The runner's liveness: bridges ask each second whether it is there, and a thread of its own answers.

The thread has an event loop and a connection to NATS of its own, so code that blocks the runner's event loop does not
make the runner look dead. The answer says for how long that loop has stood still: if it is too long, the bridges move
the calls elsewhere. The question carries the bridge's last index of each session, so a record that was lost on its way
is noticed here.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

from unpod.core.codec import MALFORMED
from unpod.core.dispatch_messages import PING, Ping, Pulse, encode
from unpod.errors import LogError, LogUnavailable, RunnerBroken
from unpod.event_loop import in_thread
from unpod.jetstream.connection.connection import connect
from unpod.session.task_owner import session_at_work

if TYPE_CHECKING:
    from unpod.jetstream.connection.options import NatsOptions
    from unpod.ports import Bus, Message

logger = logging.getLogger("unpod.runner")

BEAT_S: Final = 0.1
DOUBT_S: Final = 1.0
"""After so many seconds without a turn, an event loop seems to stand still."""
SECOND_LOOK_S: Final = 0.05
"""How many seconds an event loop that seems to stand still gets to prove that it does not, before a bridge is told."""
STOP_S: Final = 2.0
START_S: Final = 10.0


class OwnedSession(Protocol):
    """A session that runs here. Read from another thread."""

    @property
    def epoch(self) -> int:
        """The epoch under which it runs."""
        ...

    @property
    def owner_index(self) -> int:
        """The index of its newest record."""
        ...

    @property
    def bridge_index(self) -> int:
        """The index of the bridge's newest record that it has."""
        ...

    def stored(self, after: int) -> tuple[int, list[int]] | None:
        """Return where its records stand behind an index (`StoredPositions.stored`)."""
        ...

    def expect(self, index: int) -> None:
        """Fetch what the bridge has written up to `index`; called on the runner's event loop."""
        ...

    def forget(self, until: int) -> None:
        """The bridge knows where its records up to an index stand; called on the runner's event loop."""
        ...


class PulseThread:
    """Answers pings on `subject`; `find` returns a session that runs here by its id, and must be thread-safe.

    `died` is called on the runner's event loop where the thread has ended by itself.
    """

    def __init__(
        self,
        options: NatsOptions,
        subject: str,
        runner_id: str,
        find: Callable[[str], OwnedSession | None],
        died: Callable[[RunnerBroken], None],
    ) -> None:
        self._options = options
        self._subject = subject
        self._runner_id = runner_id
        self._find = find
        self._died = died
        self._home = asyncio.get_running_loop()
        self._beat_at = time.monotonic()
        self._beat: asyncio.TimerHandle | None = None
        self._started = threading.Event()
        self._failure: Exception | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._main, name=f"unpod-liveness-{runner_id}", daemon=True)

    async def start(self) -> None:
        """Return once pings are answered.

        Raises:
            UnpodError: NATS does not let us, or does not answer.
        """
        self._turn()
        self._thread.start()
        await in_thread(self._started.wait, START_S)
        if self._failure is not None:
            await self.stop()
            raise self._failure

    async def stop(self) -> None:
        """Answer no more, and end the thread."""
        if self._beat is not None:
            self._beat.cancel()
        loop, stop = self._loop, self._stop
        if loop is not None and stop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(stop.set)
        if self._thread.is_alive():
            await in_thread(self._thread.join, STOP_S)

    def _turn(self) -> None:
        """Note, on the runner's event loop, that it turns."""
        self._beat_at = time.monotonic()
        self._beat = self._home.call_later(BEAT_S, self._turn)

    # --- in the thread ------------------------------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:  # noqa: BLE001 - told to whoever waits in `start`, else to the runner
            if self._started.is_set():
                reason = RunnerBroken(
                    f"the runner's liveness thread has stopped ({type(error).__name__}): its calls would be moved"
                )
                with suppress(RuntimeError):  # the runner's event loop is closed
                    self._home.call_soon_threadsafe(self._died, reason)
            self._failure = error
        finally:
            self._started.set()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), (stop := asyncio.Event())
        async with connect(self._options) as nats:
            subscription = await nats.subscribe(self._subject, lambda message: self._on_ping(nats, message))
            lost: asyncio.Future[LogUnavailable] = asyncio.get_running_loop().create_future()
            nats.on_given_up(lost.set_result)
            nats.on_given_up(lambda _: stop.set())
            self._started.set()
            await stop.wait()
            if lost.done():
                raise lost.result()
            await subscription.close()

    def _on_ping(self, bus: Bus, message: Message) -> None:
        try:
            ping = PING.decode(message.data)
        except MALFORMED:
            logger.warning("a ping of %d bytes cannot be read", len(message.data))
            return
        if self._lag_s() < DOUBT_S:
            self._reply(bus, message, ping)
        elif self._loop is not None:
            # The whole process may have stood still, and this thread be the first to wake.
            self._loop.call_later(SECOND_LOOK_S, self._reply, bus, message, ping)

    def _reply(self, bus: Bus, message: Message, ping: Ping) -> None:
        try:
            bus.send(message.reply, encode(self._answer(ping)))
        except LogError as error:  # it will ask again
            logger.debug("a ping could not be answered: %s", type(error).__name__)

    def _lag_s(self) -> float:
        """For how many seconds the runner's event loop is overdue."""
        return max(0.0, time.monotonic() - self._beat_at - BEAT_S)

    def _answer(self, ping: Ping) -> Pulse:
        sessions: dict[str, tuple[int, int]] = {}
        stored: dict[str, tuple[int, list[int]]] = {}
        for session_id, index in ping.sessions.items():
            owned = self._find(session_id)
            if owned is None:
                continue
            sessions[session_id] = owned.epoch, owned.owner_index
            after = ping.after.get(session_id)
            # Read after `owner_index`: if the list has no record behind that index, none had been sent when the ping
            # came.
            if after is not None and (said := owned.stored(after)) is not None:
                stored[session_id] = said
                self._home.call_soon_threadsafe(owned.forget, after)
            if index > owned.bridge_index:
                self._home.call_soon_threadsafe(owned.expect, index)
        lag_s = self._lag_s()
        culprit = session_at_work(self._home) if lag_s >= DOUBT_S else ""
        return Pulse(runner=self._runner_id, lag_s=lag_s, culprit=culprit, sessions=sessions, stored=stored)
