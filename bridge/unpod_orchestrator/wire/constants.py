"""The wire's constants: names of events and verbs, limits, close codes. Pure."""

from typing import Final

PROTOCOL_VERSION: Final = 2
MAX_FRAME_BYTES: Final = 1 << 20
"""A larger frame is a violation when it comes in, and a `ValueError` before it goes out."""

EVENTS: Final = ("user.text", "user.interrupted", "error", "metric", "turn.metrics", "state", "call.started")
"""What a worker may send during a call, and what a client's `hello` has to advertise."""

WIRE_VERBS: Final = (
    "agent.text.delta",
    "agent.text.end",
    "agent.say",
    "agent.transfer",
    "agent.end_call",
    "agent.dispatch",
    "agent.add_participant",
    "agent.remove_participant",
    "agent.merge",
)
"""The verbs of today's deployed workers."""

OWN_VERBS: Final = ("agent.interrupt", "agent.filler", "recording.pause", "recording.resume")
"""The verbs that are sent only where `hello.ack` negotiates them."""

ALL_VERBS: Final = WIRE_VERBS + OWN_VERBS

HANG_UP: Final = 1000
GOING_AWAY: Final = 1001
PROTOCOL_ERROR: Final = 1002
POLICY_VIOLATION: Final = 1008
TOO_BIG: Final = 1009
KEY_REFUSED: Final = 4001
PAIRING_REFUSED: Final = 4003
ALREADY_CONNECTED: Final = 4009

HANG_UP_CODES: Final = frozenset({HANG_UP, GOING_AWAY})
"""Close codes that end a call; every other one, and none at all, is a drop."""
