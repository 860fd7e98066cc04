"""The rows of faults.md, each with its fault and its limit."""

from __future__ import annotations

from tests.faults.acts import nats, sockets
from tests.faults.checks import Allow
from tests.faults.scene import Row
from tests.faults.stack import Setup

DROPS = Allow(drops=True)

ROWS: tuple[Row, ...] = (
    Row(number=8, name="the same job.assign twice", act=sockets.assigned_twice),
    Row(number=16, name="the call socket drops", act=sockets.call_sockets_drop, within_s=1.0, allow=DROPS),
    Row(number=17, name="the control socket drops", act=sockets.control_sockets_drop),
    Row(
        number=18,
        name="the worker stops reading",
        act=sockets.the_worker_stops_reading,
        within_s=10.0,
        allow=Allow(drops=True, shadow_s=4.0),
    ),
    Row(number=19, name="the key is refused, the orchestrator is too old", act=sockets.the_key_is_refused),
    Row(number=20, name="kill -9 of NATS, restarted", act=nats.killed_and_restarted, within_s=2.0),
    Row(number=23, name="NATS away in mid-call", act=nats.away, within_s=2.0),
    Row(
        number=24,
        name="NATS away past the bound",
        act=nats.away_for_too_long,
        allow=Allow(drops=True, shadow_s=60.0, cut=True, reasons=frozenset({"error"})),
    ),
    Row(
        number=25,
        name="the stream is full",
        act=nats.full,
        setup=Setup(max_mb=16),
        allow=Allow(drops=True, shadow_s=60.0, cut=True, reasons=frozenset({"error"})),
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
)
