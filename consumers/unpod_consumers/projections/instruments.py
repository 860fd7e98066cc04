"""The instruments, as data: names, units and buckets as others rely on them."""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

Kind = Literal["counter", "gauge", "histogram"]

_TURN: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.5, 10.0)
_CALL: Final = (5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0)
_WAIT: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_OPERATION: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKENS: Final = tuple(float(4**power) for power in range(14))


class Instrument(Struct, frozen=True):
    """One instrument; the upper bounds of its buckets are inclusive, and in its unit."""

    name: str
    kind: Kind
    unit: str
    description: str
    buckets: tuple[float, ...] = ()


E2E = Instrument("unpod.turn.e2e_latency", "histogram", "s", "From the caller's last word to the first audio", _TURN)
STT = Instrument("unpod.turn.stt_latency", "histogram", "s", "Time that speech recognition took in a turn", _TURN)
TTFT = Instrument("unpod.turn.llm_ttft", "histogram", "s", "Time to the model's first token in a turn", _TURN)
TTFB = Instrument("unpod.turn.tts_ttfb", "histogram", "s", "Time to the first byte of synthesised speech", _TURN)
COMMAND = Instrument("unpod.command.latency", "histogram", "s", "From a command to the receipt of its writing", _WAIT)
WAIT = Instrument("unpod.dispatch.wait", "histogram", "s", "How long a call waited for its runner", _WAIT)
REPLAY = Instrument(
    "unpod.replay.duration", "histogram", "s", "How long a new runner took to go through a call's past", _WAIT
)
DURATION = Instrument("unpod.call.duration", "histogram", "s", "How long calls took", _CALL)
CALLS = Instrument("unpod.calls", "counter", "{call}", "Calls that have ended")
ACTIVE = Instrument("unpod.calls.active", "gauge", "{call}", "Calls in progress")
FLAWED = Instrument(
    "unpod.worker.flawed_frames",
    "counter",
    "{frame}",
    "Frames of speech workers that could be read in part, or not at all",
)
INTERRUPTIONS = Instrument("unpod.turn.interruptions", "counter", "{turn}", "Turns in which the caller cut in")
TAKEOVERS = Instrument("unpod.takeovers", "counter", "{takeover}", "Runners that took a call over")
OPERATION = Instrument(
    "gen_ai.client.operation.duration", "histogram", "s", "How long calls of the model took", _OPERATION
)
TOKENS = Instrument("gen_ai.client.token.usage", "histogram", "{token}", "Tokens of each call of the model", _TOKENS)
COST = Instrument("unpod.model.cost", "counter", "USD", "What calls of the model have cost")
CAPACITY = Instrument("unpod.runner.capacity", "gauge", "{call}", "Calls that a runner takes at once")
IN_FLIGHT = Instrument("unpod.runner.in_flight", "gauge", "{call}", "Calls that a runner has")
DRAINING = Instrument("unpod.runner.draining", "gauge", "1", "1 where a runner drains, else 0")
QUEUED = Instrument("unpod.runner.queued", "gauge", "{call}", "Calls that wait at the bridges for a runner")
LOG_ROOM = Instrument(
    "unpod.log.room", "gauge", "1", "What is free of the log, or left of the share of it that an agent may fill: 1 to 0"
)
LAG = Instrument("unpod.consumer.lag", "gauge", "{record}", "Records in the log that the consumer has not taken yet")
PARKED = Instrument("unpod.consumer.parked", "counter", "{record}", "Records that the consumer could not take")
CORRECTED = Instrument(
    "unpod.consumer.corrected",
    "counter",
    "{record}",
    "What was counted otherwise than it says, since that cannot be",
)

DERIVED: Final = (
    E2E,
    STT,
    TTFT,
    TTFB,
    COMMAND,
    WAIT,
    REPLAY,
    DURATION,
    CALLS,
    ACTIVE,
    FLAWED,
    INTERRUPTIONS,
    TAKEOVERS,
    OPERATION,
    TOKENS,
    COST,
    PARKED,
    CORRECTED,
)
"""What stands in a checkpoint; the lag is the process's own."""

JOBS_ROOM = Instrument("unpod.jobs.room", "gauge", "1", "What is free of the bridges' job store: 1 to 0")
LOG_BEHIND = Instrument("unpod.log.behind", "gauge", "{node}", "Nodes of the log that do not keep up")
REFUSED = Instrument("unpod.jobs.refused", "counter", "{job}", "Jobs that bridges have refused")
FLEET: Final = (CAPACITY, IN_FLIGHT, DRAINING, QUEUED, LOG_ROOM, JOBS_ROOM, LOG_BEHIND, REFUSED)
"""What the fleet says of itself; it is in no log."""

BY_NAME: Final = {instrument.name: instrument for instrument in DERIVED}
