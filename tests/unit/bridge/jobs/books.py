"""A call's log, written by hand, as another bridge reads it."""

from __future__ import annotations

from tests.unit.bridge.wires import EPOCH

from unpod.core import codec, ids
from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.envelope import Envelope, to_headers
from unpod.core.subjects import Channel, Subjects
from unpod.ports import Message
from unpod_bridge.protocol.recovered_log import CallLog, Hearing
from unpod_bridge.protocol.recovery import Recovery
from unpod_bridge.wire.call_frames import OWN_VERBS, VERBS

SUBJECTS = Subjects()
CALL = SUBJECTS.call("agent", "s")


class Book:
    """A call's log, written by hand, in stream order."""

    def __init__(self, *, verbs: tuple[str, ...] = VERBS + OWN_VERBS, **metadata: object) -> None:
        self.messages: list[Message] = []
        self.index = 0
        self.owner_index = 0
        self.bridge(ev.HelloAcked(negotiated_verbs=verbs))
        self.bridge(ev.CallStarted(session_id="s", metadata=metadata))
        self.bridge(ev.OwnerChanged(epoch=EPOCH, runner="runner-1"))

    @property
    def seq(self) -> int:
        """The last record's place in the stream."""
        return len(self.messages)

    def put(self, channel: Channel, subject: str, body: object, identifier: str, index: int, epoch: int) -> None:
        envelope = Envelope(
            id=identifier,
            type=f"{channel}.{ev.tag_of(body)}",  # type: ignore[arg-type]
            source="test",
            session="s",
            time=1_000.0,
            epoch=epoch,
            index=index,
        )
        data = codec.encode(body)  # type: ignore[arg-type]
        self.messages.append(Message(subject, data, to_headers(envelope), seq=self.seq + 1))

    def bridge(self, body: ev.CallerEvent | ev.Receipt) -> None:
        self.index += 1
        identifier = ids.record_id("s", "bridge", self.index)
        if isinstance(body, (ev.CommandAcknowledged, ev.ReplySpoken, ev.OwnerChanged, ev.ControlAnswered)):
            self.put("ack", CALL.ack, body, identifier, self.index, 1)
        else:
            self.put("evt", CALL.evt(ev.tag_of(body)), body, identifier, self.index, 1)

    def acks(self, name: str, *outcomes: ev.CommandOutcome) -> None:
        for outcome in outcomes:
            self.bridge(ev.CommandAcknowledged(command=name, verb="x", outcome=outcome, owner_index=1))

    def owner(self, body: cmd.AnyCommand | ev.SessionEvent, name: str = "", *, epoch: int = EPOCH) -> None:
        self.owner_index += 1
        name = name or f"id-{self.owner_index}"
        if isinstance(body, cmd.Command):
            self.put("cmd", CALL.cmd, body, name, self.owner_index, epoch)
        else:
            self.put("run", CALL.run(ev.tag_of(body)), body, name, self.owner_index, epoch)

    def adopted(self, *, deaf_from: int = 0, clean: bool = False) -> Recovery:
        """What it says to a bridge; without `deaf_from`, the former one may have heard all of it."""
        log = CallLog(SUBJECTS, CALL, "s")
        for message in self.messages:
            log.take(message)
        return log.adopted(log.hearing(Hearing(deaf_from or self.seq + 1)), clean=clean)
