"""What a test can make the other side do wrong: the switches, apart from what honest calls need. Pure."""

from typing import Literal, TypeAlias

import msgspec

HandshakeKind: TypeAlias = Literal["good", "silent", "stalled", "started_first"]


class CallFaults(msgspec.Struct, kw_only=True):
    """How one call misbehaves; the counters count down as they are used up."""

    refuse_dials: int = 0
    """So many dials are refused with 4003 first."""
    refuse_upgrades: int = 0
    """So many dials are answered with HTTP 503 first."""
    silent_handshakes: int = 0
    """So many hellos get no answer."""
    stalled_handshakes: int = 0
    """So many get `hello.ack` and nothing more."""
    started_first: int = 0
    """So many get `call.started` before `hello.ack`."""
    offers: tuple[str, ...] | None = None
    """The verbs that this call's worker negotiates, instead of the orchestrator's."""
    omit_assign_id: bool = False
    """`job.assign` comes without its `assign_id`."""
    hostile: bool = False
    """After the handshake come frames that break the wire in every way."""

    def next_handshake(self) -> HandshakeKind:
        """How the handshake at hand goes."""
        if self.silent_handshakes > 0:
            self.silent_handshakes -= 1
            return "silent"
        if self.stalled_handshakes > 0:
            self.stalled_handshakes -= 1
            return "stalled"
        if self.started_first > 0:
            self.started_first -= 1
            return "started_first"
        return "good"


KeyRefusal: TypeAlias = Literal["http_401", "http_403", "close_4001", "close_1008"]


class ControlFaults(msgspec.Struct, kw_only=True):
    """How the control sockets misbehave, from the next connection on."""

    refuse_key: KeyRefusal | None = None
    """Every key is refused in this way."""
    transport_ack: str | None = "dial_out"
    """What `registered` says; anything else is an orchestrator too old."""
    omit_heartbeat_interval: bool = False
    """`registered` leaves `heartbeat_interval_s` out: 30 s then."""
