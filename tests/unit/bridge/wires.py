"""A call protocol and a clock by hand: what goes in is said in one line, what comes out can be asked for."""

from __future__ import annotations

import json

from msgspec import Struct

from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.live import Delta
from unpod_bridge.protocol import outputs as do
from unpod_bridge.protocol.call_protocol import CallProtocol
from unpod_bridge.protocol.outputs import Output, Owned
from unpod_bridge.protocol.state import ProtocolSettings
from unpod_bridge.wire.call_frames import OWN_VERBS, VERBS, read_frame

EPOCH = 7


class Wire:
    """One protocol, fed by hand."""

    def __init__(self, settings: ProtocolSettings | None = None) -> None:
        self.protocol = CallProtocol(settings)
        self.now = 1_000.0
        self.out: list[Output] = []
        self.index = 0

    def feed(self, outputs: list[Output]) -> list[Output]:
        self.out += outputs
        return outputs

    # --- the worker

    def start(self) -> list[Output]:
        return self.feed(self.protocol.start(self.now))

    def opened(self) -> list[Output]:
        return self.feed(self.protocol.on_open(self.now))

    def refused(self, status: int | None = None) -> list[Output]:
        return self.feed(self.protocol.on_dial_failed(status, self.now))

    def raw(self, data: bytes) -> list[Output]:
        return self.feed(self.protocol.on_frame(read_frame(data), self.now))

    def says(self, event: str, /, **fields: object) -> list[Output]:
        return self.raw(json.dumps({"event": event, **fields}).encode())

    def lost(self, code: int | None = None, reason: str = "") -> list[Output]:
        return self.feed(self.protocol.on_lost(code, reason, self.now))

    def pong(self) -> list[Output]:
        token = next(output.token for output in reversed(self.out) if isinstance(output, do.Ping))
        return self.feed(self.protocol.on_pong(token, self.now))

    def acks(self, *verbs: str) -> list[Output]:
        return self.says("hello.ack", negotiated_verbs=list(verbs or VERBS + OWN_VERBS))

    def greets(self, *verbs: str, session: str = "s", metadata: dict[str, object] | None = None) -> list[Output]:
        return self.acks(*verbs) + self.says("call.started", session_id=session, metadata=metadata or {})

    def up(self, *verbs: str, **metadata: object) -> Wire:
        """Bring the call up, and forget how."""
        self.start()
        self.opened()
        self.greets(*verbs, metadata=metadata)
        self.protocol.owner.appoint(EPOCH, self.now)
        self.feed(self.protocol.begin(self.now))
        self.out.clear()
        return self

    def back(self, *verbs: str) -> list[Output]:
        """After a drop: the dial succeeds, and the worker greets again."""
        return self.opened() + self.greets(*verbs)

    # --- the owner

    def does(
        self, command: cmd.AnyCommand | None, *, index: int = 0, epoch: int = EPOCH, name: str = ""
    ) -> list[Output]:
        self.index = index or self.index + 1
        owned = Owned(epoch, self.index, name or f"id-{self.index}", command)
        return self.feed(self.protocol.on_owned(owned, self.now))

    def speaks(
        self, turn: int, n: int, text: str, *, after: int | None = None, part: int = 0, epoch: int = EPOCH
    ) -> list[Output]:
        delta = Delta(epoch, turn, part, n, self.index if after is None else after, text)
        return self.feed(self.protocol.on_delta(delta, self.now))

    def ends(self, turn: int, deltas: int, *, part: int = 0, reason: cmd.ReplyEndReason = "done") -> list[Output]:
        return self.does(cmd.EndReply(turn=turn, part=part, deltas=deltas, reason=reason))

    def flush(self) -> list[Output]:
        return self.feed(self.protocol.flush(self.now))

    # --- log and time

    def stored(self) -> list[Output]:
        """The log has every claim that was put."""
        found: list[Output] = []
        for output in tuple(self.out):
            if isinstance(output, do.Store) and output.notify:
                found += self.feed(self.protocol.stored(output.notify, self.now))
        return found

    def passes(self, seconds: float) -> list[Output]:
        """Time passes, with a tick whenever one is due."""
        until, found = self.now + seconds, list[Output]()
        while (deadline := self.protocol.deadline) is not None and deadline <= until:
            self.now = max(self.now, deadline)
            found += self.feed(self.protocol.tick(self.now))
        self.now = until
        return found


def written(outputs: list[Output]) -> list[dict[str, object]]:
    return [json.loads(output.data) for output in outputs if isinstance(output, do.Write)]


def verbs(outputs: list[Output]) -> list[object]:
    return [frame["event"] for frame in written(outputs)]


def spoken(outputs: list[Output]) -> list[object]:
    """Deltas as their texts, ends as None."""
    return [frame.get("text") for frame in written(outputs) if str(frame["event"]).startswith("agent.text.")]


def facts(outputs: list[Output], kind: type[Struct] = Struct) -> list[Struct]:
    return [output.body for output in outputs if isinstance(output, do.Store) and isinstance(output.body, kind)]


def outcomes(outputs: list[Output]) -> list[tuple[str, str]]:
    return [(fact.verb, fact.outcome) for fact in facts(outputs) if isinstance(fact, ev.CommandAcknowledged)]


def kinds(outputs: list[Output]) -> list[str]:
    return [type(output).__name__ for output in outputs]
