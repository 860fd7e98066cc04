"""The values of the control socket's state machine: who we are, what is assigned, what is to be done. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from unpod.errors import OrchestratorTooOld, RunnerAuthError
from unpod_bridge.wire.job import Job
from unpod_bridge.workers.host_info import Description


@dataclass(frozen=True, slots=True)
class Identity:
    """As whom a worker registers; `server` is the orchestrator's URL as people may read it.

    `serving_url` is where workers dial in, on the serve transport; "" where we dial out. `credential` names the
    variables to look at where it is refused.
    """

    agent_id: str
    worker_id: str
    dev: bool = False
    server: str = ""
    where: Description = field(default_factory=Description)
    serving_url: str = field(default="", repr=False)
    credential: str = "UNPOD_API_KEY"

    @property
    def pool(self) -> str:
        """The agent id, `@dev` appended for dev."""
        return f"{self.agent_id}@dev" if self.dev else self.agent_id


@dataclass(frozen=True, slots=True)
class Assigned:
    """A job that waits for our answer: a runner is looked for until `ask_until`."""

    job: Job
    assign_id: str
    ask_until: float
    ack_by: float


# ------------------------------------------------------------------------------------------------------------- effects


@dataclass(frozen=True, slots=True)
class Send:
    """Write a frame."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class FindRunner:
    """Ask the runners; answer with `taken` or `refused`."""

    assigned: Assigned


@dataclass(frozen=True, slots=True)
class Extend:
    """The job that a runner is being looked for has come again: its new form counts."""

    assigned: Assigned


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Look no further for a runner for this job; a place that was found is to be given back."""

    job_id: str


@dataclass(frozen=True, slots=True)
class DialControl:
    """The job is ours: begin its call."""

    job: Job


@dataclass(frozen=True, slots=True)
class Cancel:
    """End the call of this job, dialling or up, wherever it is."""

    job_id: str


@dataclass(frozen=True, slots=True)
class CloseControl:
    """Close the socket, with 1000, and take it for lost."""


@dataclass(frozen=True, slots=True)
class RedialControl:
    """Dial again after a pause."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Dial no more: a retry cannot help."""

    error: RunnerAuthError | OrchestratorTooOld


@dataclass(frozen=True, slots=True)
class Log:
    """Tell the people who run this."""

    level: int
    text: str


Effect = Send | FindRunner | Extend | Withdraw | DialControl | Cancel | CloseControl | RedialControl | GiveUp | Log
