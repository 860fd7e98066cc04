"""Where a session runs: what it needs of the outside, and as whom it writes."""

from __future__ import annotations

from dataclasses import dataclass

from unpod.core.subjects import Subjects
from unpod.ports import Bus, Clock, EventLog


@dataclass(frozen=True, slots=True)
class Ownership:
    """One owner of one session: `epoch` is the sequence of its placement, its history is the log up to `until_seq`."""

    log: EventLog
    bus: Bus
    clock: Clock
    subjects: Subjects
    agent_id: str
    session_id: str
    runner_id: str
    epoch: int
    until_seq: int
