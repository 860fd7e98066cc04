"""Which rights a bridge needs at NATS, as subjects that stand for all of their kind."""

from __future__ import annotations

from unpod.core.subjects import Subjects
from unpod.jetstream import Topology
from unpod.jetstream.connection.rights import PROBE, Rights


def bridge_rights(subjects: Subjects, streams: Topology, bridge_id: str) -> Rights:
    """Return the rights of a bridge."""
    call, mine = subjects.call(PROBE, PROBE), subjects.bridge(bridge_id)
    jobs = streams.jobs.name
    return Rights(
        role="bridge",
        publish=(
            call.line,
            call.own,
            call.ack,
            call.evt("probe"),
            call.again,
            call.text,
            subjects.dispatch(PROBE),
            subjects.resume(PROBE),
            subjects.queued(PROBE),
            subjects.alive,
            subjects.runner(PROBE),
            f"{subjects.runner(PROBE)}.ping",
            f"{subjects.bridge(PROBE)}.ping",
            f"$KV.{streams.bucket}.{PROBE}",
            *(
                f"$JS.API.{verb}.{name}"
                for verb in ("STREAM.INFO", "DIRECT.GET")
                for name in (streams.calls.name, jobs)
            ),
        ),
        subscribe=(
            call.all,
            call.live,
            subjects.calls,
            subjects.runners,
            subjects.bridges,
            subjects.alive,
            subjects.probations,
            mine,
            f"{mine}.ping",
            f"$KV.{streams.bucket}.>",
            "$SRV.PING",
        ),
    )
