"""A placed call, for whoever plays its caller: the shell around `SpeechWorker`, with its one timer."""

import asyncio
import datetime as dt
import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar

from unpod_orchestrator.calls.happening_stream import HappeningStream
from unpod_orchestrator.notifier import Notifier
from unpod_orchestrator.socket_link import SocketLink
from unpod_orchestrator.wire import outgoing
from unpod_orchestrator.wire.call_frames import RawFrame
from unpod_orchestrator.wire.frame_log import LoggedFrame
from unpod_orchestrator.wire.outgoing import CallState
from unpod_orchestrator.worker.conversation import HeardPrefix
from unpod_orchestrator.worker.happenings import AnyHappening, Ended, Role, TranscriptEntry, VerbOutcome
from unpod_orchestrator.worker.replies import WrittenReply
from unpod_orchestrator.worker.room import RecordingState
from unpod_orchestrator.worker.speech_worker import AbortLine, CloseLine, Phase, SpeechWorker, Transmit
from unpod_orchestrator.worker.transfers import TransferRecord

T = TypeVar("T")

PATIENCE_S: Final = 10.0
"""How long the waiting methods wait unless told otherwise, in real time."""

_PROGRESS_INTERVAL_S: Final = 0.1
_SHOWN_CHARS: Final = 60
_SHOWN_ID_CHARS: Final = 40


class CallOverError(Exception):
    """The call ended while something else was awaited of it; `outcome` says how."""

    def __init__(self, outcome: VerbOutcome, awaited: str) -> None:
        super().__init__(f"the call ended ({outcome}) before {awaited}")
        self.outcome = outcome


class LocalCall:
    """One call, from its placing to its outcome and beyond; what waits raises `TimeoutError` or `CallOverError`.

    The lists and the mapping are live: they grow, and are not to be changed. The longest of them forget their oldest.
    """

    def __init__(
        self, worker: SpeechWorker, *, agent_id: str, pool: str, on_over: "Callable[[LocalCall], None]"
    ) -> None:
        self._worker = worker
        self._on_over = on_over
        self._loop = asyncio.get_running_loop()
        self._link: SocketLink | None = None
        self._timer: asyncio.Handle | None = None
        self._timer_at = 0.0
        self._changed = Notifier()
        self._watchers: set[HappeningStream] = set()
        self._replies_taken = 0

        self.agent_id = agent_id
        self.pool = pool
        self.worker_id: str | None = None
        self.placed_at = dt.datetime.now(dt.UTC)
        self.ended_at: dt.datetime | None = None

        self.identity = worker.who
        self.session_id = worker.who.session_id
        self.job_id = worker.who.job_id
        self.call_id = worker.who.call_id
        self.bridge_key = secrets.token_hex(8)
        """Stands for the call in its bridge URL, which says nothing of the session or the job."""
        self.token = worker.pairing.token
        """The pairing's token: a secret."""
        self.options = worker.options
        self.faults = worker.faults
        """How this call misbehaves; may be changed at any time."""

        self.frames: Sequence[LoggedFrame] = worker.frames.frames
        """Every frame both ways, in order."""
        self.transcript: Sequence[TranscriptEntry] = worker.talk.transcript
        """What was heard, by whom it was said."""
        self.replies: Sequence[WrittenReply] = worker.talk.replies.completed
        """The complete replies, interrupted ones included."""
        self.violations: Sequence[str] = worker.violations
        """How the client broke the protocol."""
        self.dials: Sequence[tuple[float, int | None]] = worker.dials
        """Every dial: when (seconds since the placing), and the close code that refused it."""
        self.transfers: Sequence[TransferRecord] = worker.room.transfers
        """The transfers that were asked for, the refused ones included."""
        self.dispatched: Sequence[str] = worker.room.dispatched
        """The agents that were asked to join."""
        self.merged: Sequence[str] = worker.room.merged
        """The sessions that were merged into this one."""
        self.participants: Mapping[str, str] = worker.room.participants
        """Who takes part, by id: their kind."""

    def __repr__(self) -> str:
        return f"<LocalCall {self.session_id[:_SHOWN_ID_CHARS]!r} {self._worker.phase.value}>"

    # ---- where it stands

    @property
    def live(self) -> bool:
        """Whether the handshake is done and the line up."""
        return self._worker.phase is Phase.LIVE

    @property
    def over(self) -> bool:
        """Whether the call has ended."""
        return self._worker.phase is Phase.OVER

    @property
    def outcome(self) -> VerbOutcome | None:
        """How the call ended; None while it lives."""
        return self._worker.outcome

    @property
    def state(self) -> CallState:
        """What the call is doing, as last told to the client."""
        return self._worker.talk.state

    @property
    def turn_id(self) -> int:
        """The caller's last turn; 0 before the first."""
        return self._worker.talk.turn_id

    @property
    def ends_owed(self) -> int:
        """How many `agent.text.end` the client still owes."""
        return self._worker.talk.replies.owed

    @property
    def recording(self) -> RecordingState:
        """`off` where the metadata says `recording: false`."""
        return self._worker.room.recording

    @property
    def negotiated_verbs(self) -> tuple[str, ...]:
        """What the last handshake settled on."""
        return self._worker.negotiated_verbs

    # ---- the caller's part

    async def connected(self, timeout_s: float = PATIENCE_S) -> None:
        """Returns when `call.started` has been sent and the line is up."""
        await self._until(lambda: self.live or None, "the call was connected", timeout_s)

    async def user(
        self, text: str, *, language: str | None = None, extra: RawFrame | None = None, timeout_s: float = PATIENCE_S
    ) -> int:
        """The caller says `text`; returns the turn's id. Waits for a line that is down. `ValueError` over 1 MiB."""
        await self.connected(timeout_s)
        return self._do(lambda now: self._worker.caller_says(text, final=True, language=language, extra=extra, now=now))

    async def partial(self, text: str, *, language: str | None = None, timeout_s: float = PATIENCE_S) -> None:
        """The caller is saying `text`, and has not finished."""
        await self.connected(timeout_s)
        self._do(lambda now: self._worker.caller_says(text, final=False, language=language, extra=None, now=now))

    async def barge_in(
        self,
        text: str | None = None,
        *,
        language: str | None = None,
        heard_prefix: str | HeardPrefix | None = HeardPrefix.AUTOMATIC,
        timeout_s: float = PATIENCE_S,
    ) -> str | None:
        """The caller cuts in, and says `text` unless it is None; returns the `heard_prefix` that was sent."""
        await self.connected(timeout_s)
        heard = self._do(lambda now: self._worker.caller_interrupts(heard_prefix, now))
        if text is not None:
            await self.user(text, language=language, timeout_s=timeout_s)
        return heard

    async def reply(self, timeout_s: float = PATIENCE_S) -> str:
        """The next complete reply's text, skipping those that the caller cut off; one that nobody took yet counts."""
        return (await self._until(self._next_reply, "a complete reply", timeout_s)).text

    async def spoken(self, chars: int, timeout_s: float = PATIENCE_S) -> None:
        """Returns when so many characters have been heard from the agent since the caller's last final words."""
        await self._until(
            lambda: self._worker.talk.spoken_this_turn(self._loop.time()) >= chars or None,
            f"{chars} characters were spoken",
            timeout_s,
            due=lambda: self._worker.talk.when_spoken_this_turn(chars),
        )

    async def silence(self, timeout_s: float = PATIENCE_S) -> None:
        """Returns when nothing is being said, nothing waits to be, and no reply is owed."""
        await self._until(
            lambda: (self._worker.voice.silent and not self.ends_owed) or None, "the agent fell silent", timeout_s
        )

    async def heard(self, text: str, *, role: Role = "agent", timeout_s: float = PATIENCE_S) -> None:
        """Returns when something that contains `text` stands in the transcript under `role`."""
        await self.observed(
            lambda call: any(line.role == role and text in line.text for line in call.transcript),
            f"{role} says {text[:_SHOWN_CHARS]!r}",
            timeout_s=timeout_s,
        )

    async def observed(
        self, holds: "Callable[[LocalCall], bool]", awaited: str, *, timeout_s: float = PATIENCE_S
    ) -> None:
        """Returns when something about the call holds, looked at whenever the call changes."""
        await self._until(lambda: holds(self) or None, awaited, timeout_s)

    async def hang_up(self) -> None:
        """The caller hangs up: the socket is closed with 1000."""
        self._do(self._worker.hang_up)

    async def ended(self, timeout_s: float = PATIENCE_S) -> VerbOutcome:
        """The call's outcome, as soon as there is one."""
        return await self._until(lambda: self.outcome, "the call's end", timeout_s)

    def subscribe(self) -> HappeningStream:
        """What happens from now on, as an async iterator that ends with the call."""
        stream = HappeningStream(self._watchers.discard)
        if self.outcome is not None:
            stream.put(Ended(self.outcome))
        else:
            self._watchers.add(stream)
            self._reschedule()
        return stream

    # ---- the worker's part

    def send_metric(self) -> None:
        """Sends a `metric` frame now."""
        self._do(lambda _: self._worker.talk.metric())

    def send_error(self, severity: str, source: str = "stt", code: str = "simulated", message: str = "") -> None:
        """Sends an `error` frame."""
        self._do(lambda now: self._worker.send_event(outgoing.error(severity, source, code, message), now))

    def send_frame(self, frame: RawFrame) -> None:
        """Sends any frame as JSON, the way it stands."""
        self.send_raw(outgoing.encode(frame))

    def send_raw(self, payload: str | bytes, *, text: bool | None = None) -> None:
        """Sends any text (a text frame) or bytes (a binary one; as a text frame with `text=True`), valid or not."""
        as_text = isinstance(payload, str) if text is None else text
        self._do(lambda now: self._worker.send_raw(payload, text=as_text, now=now))

    def close(self, code: int) -> None:
        """Closes the socket with any code: 1000 and 1001 end the call, after another one it can be dialled again."""
        self._do(lambda now: self._worker.close_line(code, now))

    def drop(self, *, for_good: bool = False) -> None:
        """Cuts the TCP connection without a close frame; `for_good` ends the call and refuses redials with 4003."""
        self._do(lambda now: self._worker.drop(now, for_good=for_good))

    def pause_reading(self) -> None:
        """Stops reading the socket: half-open, until `resume_reading` or the end."""
        if self._link is not None:
            self._link.pause_reading()

    def resume_reading(self) -> None:
        """Reads on."""
        if self._link is not None:
            self._link.resume_reading()

    def end_when_spoken(self, detail: str) -> None:
        """Ends the call from outside, when what is being said is said."""
        self._do(lambda _: self._worker.end_when_spoken(detail))

    def transfer(self, transfer: TransferRecord, handoff_s: float) -> str:
        """Transfers the caller from outside; returns the new participant's id."""
        return self._do(lambda now: self._worker.transfer(transfer, handoff_s, now))

    def merge_into(self, primary: "LocalCall") -> list[str]:
        """Moves everybody but this call's agent to `primary` and ends this call; returns the ids that moved."""
        moved = [participant_id for participant_id in self.participants if participant_id != "agent"]
        room = primary._worker.room  # noqa: SLF001 -- another one of the same class
        room.merge(self.session_id)
        for _ in moved:
            room.add_participant("merged")
        self._do(lambda _: self._worker.over("transferred", "merged into another session"))
        return moved

    def remove_participant(self, participant_id: str) -> bool:
        """Somebody leaves; false where nobody of that id takes part."""
        return self._worker.room.remove_participant(participant_id)

    # ---- the orchestrator's part

    def dispatched_now(self) -> None:
        """The job is being offered to a client."""
        self._do(self._worker.dispatched)

    def cancel(self) -> None:
        """`job.cancel` has been sent: the client closes with 1000, or the worker after a grace."""
        self._do(self._worker.cancel)

    def refused(self, reason: str) -> None:
        """Nobody took the job."""
        self._do(lambda _: self._worker.over("failed", reason))

    def stop(self) -> None:
        """The orchestrator stops."""
        self._do(self._worker.hang_up)

    def dialled(self, token: str) -> int | None:
        """Somebody dials: None lets them in, and `serve` must follow at once; a close code refuses them."""
        return self._do(lambda now: self._worker.dialled(token, now))

    async def serve(self, link: SocketLink) -> None:
        """Talks to a client that was let in, until its socket ends."""
        self._link = link
        code: int | None = None
        try:
            code = await link.run(
                lambda data: self._from(link, lambda now: self._worker.received(data, now)),
                lambda what: self._from(link, lambda now: self._worker.received_nonsense(what, now)),
            )
        finally:
            self._from(link, lambda now: self._worker.line_lost(code, now))
            if self._link is link:
                self._link = None

    def _from(self, link: SocketLink, act: Callable[[float], None]) -> None:
        if self._link is link:
            self._do(act)

    def _do(self, act: Callable[[float], T]) -> T:
        try:
            return act(self._loop.time())
        finally:
            self._flush()

    def _flush(self) -> None:
        for effect in self._worker.take_effects():
            match effect:
                case Transmit(data, text):
                    if self._link is not None:
                        self._link.send(data, text=text)
                case CloseLine(code, reason):
                    self._let_go(partial(SocketLink.close, code=code, reason=reason))
                case AbortLine():
                    self._let_go(SocketLink.abort)
                case _:
                    self._publish(effect)
        self._reschedule()
        self._changed.notify()

    def _let_go(self, farewell: Callable[[SocketLink], None]) -> None:
        link, self._link = self._link, None
        if link is not None:
            farewell(link)

    def _publish(self, happening: AnyHappening) -> None:
        for watcher in tuple(self._watchers):
            watcher.put(happening)
        if isinstance(happening, Ended):
            self.ended_at = dt.datetime.now(dt.UTC)
            self._watchers.clear()
            self._on_over(self)

    def _reschedule(self) -> None:
        at = self._worker.next_wakeup()
        if at is not None and self._watchers and self._worker.voice.speaking:
            at = min(at, self._loop.time() + _PROGRESS_INTERVAL_S)
        if self._timer is not None:
            if at is not None and self._timer_at <= at:
                return  # it comes early, finds nothing, and is set again: cheaper than a new one for every frame
            self._timer.cancel()
        self._timer = None
        if at is not None:
            self._timer, self._timer_at = self._loop.call_at(at, self._on_timer), at

    def _on_timer(self) -> None:
        self._timer = None
        now = self._loop.time()
        self._worker.tick(now)
        if self._watchers and (progress := self._worker.talk.progress(now)):
            self._publish(progress)
        self._flush()

    def _next_reply(self) -> WrittenReply | None:
        replies = self._worker.talk.replies
        while self._replies_taken < replies.completed_total:
            oldest = replies.completed_total - len(replies.completed)
            self._replies_taken = max(self._replies_taken, oldest)
            reply = replies.completed[self._replies_taken - oldest]
            self._replies_taken += 1
            if not reply.interrupted:
                return reply
        return None

    async def _until(
        self,
        find: Callable[[], T | None],
        awaited: str,
        timeout_s: float,
        due: Callable[[], float | None] = lambda: None,
    ) -> T:
        deadline = self._loop.time() + timeout_s
        while True:
            found = find()
            if found is not None:
                return found
            if self.outcome is not None:
                raise CallOverError(self.outcome, awaited)
            now = self._loop.time()
            if now >= deadline:
                raise TimeoutError(f"waited {timeout_s:g} s for: {awaited} ({self._describe()})")
            at = due()
            await self._changed.wait((deadline if at is None else min(deadline, at)) - now)

    def _describe(self) -> str:
        return f"the call is {self._worker.phase.value}, {self.state}; {self.ends_owed} ends owed"
