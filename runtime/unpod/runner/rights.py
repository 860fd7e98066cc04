"""Which rights a runner needs at NATS, as subjects that stand for all of their kind."""

from __future__ import annotations

from unpod.core.subjects import Subjects
from unpod.jetstream.connection.rights import PROBE, Rights


def runner_rights(subjects: Subjects, stream: str, agent_id: str, agent_key: str, runner_id: str) -> Rights:
    """Return the rights of an agent's runner."""
    call, mine = subjects.call(agent_id, PROBE), subjects.runner(runner_id)
    return Rights(
        role=f"runner of agent {agent_key}",
        publish=(
            call.run("probe"),
            call.cmd,
            call.delta,
            subjects.bridge(PROBE),
            f"$JS.API.STREAM.INFO.{stream}",
            f"$JS.API.DIRECT.GET.{stream}",
        ),
        subscribe=(
            call.all,
            call.live,
            subjects.dispatch(agent_key),
            subjects.resume(agent_key),
            subjects.queued(agent_key),
            subjects.runners,
            subjects.bridges,
            mine,
            f"{mine}.ping",
            "$SRV.PING",
        ),
    )
