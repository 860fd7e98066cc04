"""What the owner writes: facts and commands of one session, in order, fenced by its epoch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Protocol

from unpod.core import codec
from unpod.core.commands import AnyCommand, Command
from unpod.core.envelope import OVERHEAD, Envelope, source, to_headers
from unpod.core.events import SessionEvent, StepCompleted, tag_of
from unpod.core.ids import record_id
from unpod.core.live import LIVE_SUBJECT, Delta
from unpod.core.subjects import Channel
from unpod.core.withhold import withhold
from unpod.errors import LogError, RecordTooLarge
from unpod.failpoints import reached
from unpod.ports import Fence, Message
from unpod.session.ownership import Ownership
from unpod.session.stored_positions import StoredPositions

logger = logging.getLogger("unpod.session")

OnFailure = Callable[[LogError], None]


class OnProgress(Protocol):
    """What is told of progress: whether it is `spoken`, so that the tail shows it at once."""

    def __call__(self, *, spoken: bool) -> None:
        """Take note of it."""


class Outbox:
    """One session's outgoing side: `append` stores, `delta` sends speech on its way."""

    def __init__(self, ownership: Ownership, *, on_failure: OnFailure) -> None:
        subjects = ownership.subjects.call(ownership.agent_id, ownership.session_id)
        self._bus = ownership.bus
        self._subjects = subjects
        self._all_subjects = ownership.subjects
        self._session = ownership.session_id
        self._epoch = ownership.epoch
        self._source = source("runner", ownership.runner_id)
        self._receipts = StoredPositions()
        self._writer = ownership.log.writer(
            fence=Fence(subjects.own, ownership.epoch), on_failure=on_failure, on_stored=self._receipts.add
        )
        self._on_failure = on_failure
        self.index = 0
        """The index of the newest record, known before that is sent; may be asked for from any thread."""
        self.last_command = 0
        """The index of the newest command."""
        self._closed = False
        self._settled = 0
        self.written = 0
        """Roughly how many bytes it has written into the log."""
        self.on_progress: OnProgress | None = None
        """Told once that more is settled than in the past, or that the session speaks."""

    @property
    def backlog(self) -> int:
        """How many records wait for the log."""
        return self._writer.backlog

    def begin(self, index: int, settled: int = 0) -> None:
        """Go on after the owner record `index` of the log, with all settled up to a record of the bridge."""
        self.index, self._settled = index, settled
        self._receipts.begin(index)

    def stored(self, after: int) -> tuple[int, list[int]] | None:
        """Return where the records behind an index stand (`StoredPositions.stored`); may be called from any thread."""
        return self._receipts.stored(after)

    def forget(self, until: int) -> None:
        """The bridge knows where the records up to an index stand."""
        self._receipts.forget(until)

    def append(
        self,
        body: SessionEvent | AnyCommand,
        *,
        now: float,
        cause: str,
        seen: int,
        settled: tuple[int, int],
        hidden: bool,
        handler: str = "",
        command_id: str = "",
    ) -> codec.Record:
        """Queue a fact or a command for the log and return its record, whole, for the fold.

        While the recording is paused, or where the body says so, only its withheld form is stored; the whole one goes
        to the session's live subject. A fact of the session's own whose texts are too long for a record is stored
        without them. `now` is the log's time, `settled` as `Watermark.say` has it.

        Raises:
            RecordTooLarge: it was not queued, and the next record takes its place.
        """
        index = self.index + 1
        is_command = isinstance(body, Command)
        channel: Channel = "cmd" if is_command else "run"
        tag = tag_of(body)
        envelope = Envelope(
            id=command_id if is_command else record_id(self._session, "owner", index),
            type=f"{channel}.{tag}",
            source=self._source,
            session=self._session,
            time=now,
            epoch=self._epoch,
            index=index,
            seen=seen,
            settled=settled[0],
            settled_own=settled[1],
            cause=cause,
            handler=handler,
        )
        subject = self._subjects.cmd if is_command else self._subjects.run(tag)
        headers = to_headers(envelope)
        # Set before it is sent: who is told this index may rely on it that no later record was sent.
        self.index = index
        try:
            self._store(subject, body, headers, hidden=hidden or getattr(body, "withheld", False))
        except RecordTooLarge as error:
            if is_command or isinstance(body, StepCompleted):
                self.index = index - 1
                raise
            logger.warning("session %s: the texts of %s are not kept: %s", self._session, tag, error)
            self._store(subject, body, headers, hidden=True)
        if is_command:
            self.last_command = index
        if self.on_progress is not None and settled[0] > self._settled:
            self._progress(spoken=False)
        return codec.Record(channel, envelope, body)

    def _store(
        self, subject: str, body: SessionEvent | AnyCommand, headers: Mapping[str, str], *, hidden: bool
    ) -> None:
        data = codec.encode(body)
        try:
            if hidden:
                self._live(self._subjects.text, data, {**headers, LIVE_SUBJECT: subject})
                data = codec.encode(withhold(body))
            self.written += OVERHEAD + len(data)
            self._writer.put(subject, data, headers)
            reached("journal.published")
        except RecordTooLarge:
            raise
        except LogError as error:
            if not self._closed:
                self._on_failure(error)

    def withhold_waiting(self) -> None:
        """Take the texts out of what waits for the log: from now on none may be stored."""
        self._writer.amend(self._withheld)

    def _withheld(self, message: Message) -> bytes:
        record = codec.read(self._all_subjects, message.subject, message.headers, message.data)
        kept = withhold(record.body)
        if kept == record.body:
            return message.data
        self._live(self._subjects.text, message.data, {**to_headers(record.envelope), LIVE_SUBJECT: message.subject})
        return codec.encode(kept)

    def delta(self, turn: int, part: int, n: int, text: str) -> Delta:
        """Send one piece of a reply and return it, to be kept until the bridge has it."""
        delta = Delta(self._epoch, turn, part, n, self.last_command, text)
        self._live(self._subjects.delta, codec.encode(delta), None)
        if self.on_progress is not None:
            self._progress(spoken=True)
        return delta

    def _progress(self, *, spoken: bool) -> None:
        told, self.on_progress = self.on_progress, None
        if told is not None:
            told(spoken=spoken)

    def resend(self, delta: Delta) -> None:
        """Send a piece again."""
        self._live(self._subjects.delta, codec.encode(delta), None)

    def _live(self, subject: str, data: bytes, headers: Mapping[str, str] | None) -> None:
        try:
            self._bus.send(subject, data, headers)
        except LogError:
            # The bridge sees the gap in the numbers and asks again once we are connected.
            return

    async def flush(self) -> None:
        """Return once all is stored.

        Raises:
            LogError: the writer has stopped before that.
        """
        await self._writer.flush()

    async def close(self) -> None:
        """Stop writing; what is appended after that is dropped."""
        self._closed = True
        await self._writer.close()
