"""The rows of faults.md, each with its fault and its limit."""

from __future__ import annotations

from dataclasses import replace

from tests.faults.acts import hostile, nats, sockets, talk
from tests.faults.checks import Allow
from tests.faults.scene import Row
from tests.faults.stack import Setup

DROPS = Allow(drops=True)
ENDED = Allow(cut=True, unstored=True, reasons=frozenset({"error"}))
FULL = replace(ENDED, unfinished=True, tracebacks=("LogFull",))

ROWS: tuple[Row, ...] = (
    Row(number=8, name="the same job.assign twice", act=sockets.assigned_twice),
    Row(number=16, name="the call socket drops", act=sockets.call_sockets_drop, within_s=1.0, allow=DROPS),
    Row(number=17, name="the control socket drops", act=sockets.control_sockets_drop),
    Row(
        number=18,
        name="the worker stops reading, buffers full",
        act=sockets.buffers_are_full,
        within_s=10.0,
        allow=Allow(drops=True, shadow_s=4.0),
    ),
    Row(
        number=18,
        variant="quiet",
        name="the worker stops reading, half-open",
        act=sockets.half_open,
        within_s=10.0,
        allow=Allow(drops=True, shadow_s=4.0),
        slow=True,
    ),
    Row(number=19, name="the key is refused, the orchestrator is too old", act=sockets.the_key_is_refused),
    Row(number=20, name="kill -9 of NATS, restarted", act=nats.killed_and_restarted, within_s=2.0),
    Row(number=23, name="NATS away in mid-call", act=nats.away, within_s=2.0),
    Row(
        number=24,
        name="NATS away past the bound",
        act=nats.away_for_too_long,
        allow=ENDED,
    ),
    Row(
        number=25,
        name="the stream is full",
        act=nats.full,
        setup=Setup(max_mb=16),
        allow=FULL,
        closes=False,
    ),
    Row(
        number=26,
        name="clocks ten minutes apart",
        act=nats.clocks_apart,
        within_s=2.0,
        setup=Setup(
            module="tests.faults.skewed",
            agent_module="tests.faults.skewed",
            bridge_env={"UNPOD_FAULTS_SKEW_S": "-600", "UNPOD_FAULTS_MODULE": "unpod_bridge"},
            runner_env={"UNPOD_FAULTS_SKEW_S": "600", "UNPOD_FAULTS_MODULE": "tests.faults.agent"},
        ),
    ),
    Row(
        number=28,
        name="hooks that raise, hang, flood",
        act=talk.hooks_misbehave,
        within_s=5.0,
        allow=Allow(tracebacks=("this hook always raises",)),
        orders=frozenset(),
    ),
    Row(
        number=29,
        name="brains that raise, hang, say nothing, say 10 MB",
        act=talk.brains_misbehave,
        within_s=2.0,
        allow=Allow(cut=True, tracebacks=("the brain is broken",)),
        orders=frozenset(),
    ),
    Row(number=30, name="barge-in at every point", act=talk.barge_in, allow=Allow(cut=True), orders=frozenset()),
    Row(number=31, name="hostile frames", act=hostile.frames, within_s=2.0, allow=DROPS, orders=frozenset()),
    Row(number=32, name="hostile session ids", act=hostile.session_ids),
    Row(number=32, variant="agents", name="hostile agent ids", act=hostile.agent_ids),
    Row(number=33, name="forged headers", act=hostile.headers, within_s=2.0, allow=Allow(forged=True)),
    Row(
        number=42,
        variant="socket",
        name="recording paused, then the socket drops",
        act=talk.pause_then_drop,
        allow=DROPS,
        orders=frozenset(),
    ),
    Row(
        number=42,
        variant="nats",
        name="recording paused, then NATS is killed",
        act=talk.pause_then_kill_nats,
        orders=frozenset(),
    ),
)
