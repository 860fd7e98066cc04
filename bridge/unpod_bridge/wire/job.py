"""A job, as the orchestrator has assigned it. Pure."""

from __future__ import annotations

from msgspec import Struct


class Job(Struct, frozen=True):
    """A call that is to be carried; a worker that has dialled in says only later which agent it is for.

    It is stored as it is, with the call's token, so that another bridge can go on with the call.
    """

    job_id: str
    call_id: str
    agent_id: str
    bridge_url: str
    call_token: str
    dev: bool = False
    worker_id: str = ""
    """The worker that it was assigned to."""

    def __repr__(self) -> str:
        return f"Job({self.job_id!r})"
