"""The control socket's state machine: what happens to it goes in, what is to be done about it comes out.

Pure: `now` is an argument (seconds, any steady clock), and so is chance. `control_link.py` is the shell: it dials,
feeds what it hears, and carries the effects out in their order.

::

    dial ──opened──> registering ──registered──> registered ──lost──> dial again, after `RedialControl.delay_s`
      └─unreachable─> dial again                     └─ 4001, 1008, HTTP 401 or 403, an old orchestrator ─> GiveUp

    job.assign ─> asking (FindRunner) ──taken──> calling (DialControl) ──ended──> forgotten
                    └─ refused, its deadline, a cancel, the socket lost ─> forgotten (Withdraw)

Whether there is room is for the runners to say: the place of a call that is still being dialled counts there. Here only
a capacity of 0 refuses, at once.
"""

from __future__ import annotations

import logging
from collections import Counter

from msgspec import UNSET

from unpod.core.codec import describe
from unpod.core.dispatch_messages import Refusal
from unpod.core.dispatch_messages import Registration as State
from unpod.errors import OrchestratorTooOld, RunnerAuthError
from unpod_bridge.wire.control_frames import (
    DEADLINE_MS,
    HEARTBEAT_S,
    MALFORMED,
    TRANSPORT,
    AssignFrame,
    CancelFrame,
    Capabilities,
    ControlFrame,
    Heartbeat,
    JobAck,
    Reason,
    Register,
    RegisteredFrame,
    UnknownFrame,
    decode,
    encode,
    is_excessive,
    said,
)
from unpod_bridge.wire.job import Job
from unpod_bridge.workers.effects import (
    Assigned,
    Cancel,
    CloseControl,
    DialControl,
    Effect,
    Extend,
    FindRunner,
    GiveUp,
    Identity,
    Log,
    RedialControl,
    Send,
    Withdraw,
)

FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 30.0
_STEPS = 5  # 1, 2, 4, 8, 16, then 30
EARLY_S = 0.2
"""How long before its deadline an assignment is refused: the answer has to arrive in time."""
REGISTER_S = 10.0
"""How long `registered` may take."""
_LONGEST_DEADLINE_S = 60.0
_LEAST_HEARTBEAT_S = 0.05
REFUSED_CODES = frozenset({4001, 1008})
REFUSED_STATUS = frozenset({401, 403})
_FINAL: frozenset[State] = frozenset({"refused", "too_old"})


def backoff_s(attempt: int, chance: float) -> float:
    """Return the pause before dial `attempt` (from 0): 1 s doubling to 30 s, half of it either way, 30 s at most.

    `chance` is a random number, 0 to 1.
    """
    base = min(FIRST_DELAY_S * 2.0 ** min(attempt, _STEPS), LONGEST_DELAY_S)
    return min(base * (0.5 + chance), LONGEST_DELAY_S)


class Registration:
    """One worker's control socket, over all its reconnects."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.state: State = "connecting"
        self.detail = ""
        self.registered_capacity: int | None = None
        self._capacity = 0
        self._closed_for: Reason = "at_capacity"
        self._draining = False
        self._open = False
        self._register_by = 0.0
        self._interval_s = HEARTBEAT_S
        self._heartbeat_at = 0.0
        self._attempt = 0
        self._asking: dict[str, Assigned] = {}
        self._calling: dict[str, bool] = {}  # whether the call is up
        self.refusals: Counter[Refusal] = Counter()
        """How many jobs were refused, and why really."""

    # ---------------------------------------------------------------------------------------------------------- state

    @property
    def capacity(self) -> int:
        """What there is room for now; `registered_capacity` is what the orchestrator was told."""
        return self._capacity

    @property
    def asking(self) -> int:
        """How many jobs wait for a runner."""
        return len(self._asking)

    @property
    def calls(self) -> int:
        """How many calls there are, those still being dialled among them."""
        return len(self._calling)

    @property
    def active(self) -> int:
        """How many calls are up."""
        return sum(self._calling.values())

    def set_capacity(self, capacity: int, closed_for: Reason = "at_capacity") -> None:
        """Take what the runners have room for in all; without any, jobs are refused for the reason `closed_for`."""
        self._capacity = capacity
        self._closed_for = closed_for

    def due(self) -> float | None:
        """Return when `tick` wants to be called, or None."""
        if not self._open:
            return None
        first = self._heartbeat_at if self.state == "registered" else self._register_by
        return min([first, *(asked.ack_by for asked in self._asking.values())])

    # --------------------------------------------------------------------------------------------------------- socket

    def opened(self, now: float) -> list[Effect]:
        """The socket is open."""
        self._open = True
        self.state = "connecting"
        self._register_by = now + REGISTER_S
        self.registered_capacity = self._capacity
        me = self.identity
        capabilities = Capabilities(
            max_concurrent=self._capacity,
            agent_id=me.agent_id,
            hostname=me.where.hostname,
            address=me.where.address,
            region=me.where.region,
            deployment=me.where.deployment,
            transport=UNSET if me.serving_url else TRANSPORT,
            serving_url=me.serving_url or UNSET,
        )
        return [Send(encode(Register(me.worker_id, me.pool, capabilities)))]

    def received(self, data: bytes, now: float, *, binary: bool = False) -> list[Effect]:
        """A frame has come."""
        if binary:
            return [Log(logging.WARNING, "ignored a binary control frame")]
        try:
            frame = decode(data)
        except MALFORMED as error:
            return [Log(logging.WARNING, f"ignored a malformed control frame: {describe(error)}")]
        if isinstance(frame, AssignFrame) and self.state == "registered":
            return self._assigned(frame, now, excessive=is_excessive(data))
        return self._handle(frame, now)

    def unreachable(self, problem: str, status: int | None, chance: float) -> list[Effect]:
        """A dial has failed, with an HTTP status where there was one."""
        if status in REFUSED_STATUS:
            return self._refused(f"HTTP {status}")
        self.state = "unreachable"
        self.detail = f"no registration at the orchestrator ({problem}): check UNPOD_ORCHESTRATOR_URL"
        delay_s = self._next_delay(chance)
        return [Log(logging.WARNING, f"{self.detail}; trying again in {delay_s:.1f} s"), RedialControl(delay_s)]

    def lost(self, code: int | None, chance: float) -> list[Effect]:
        """The socket has closed, with the code that the other side gave."""
        withdrawn = self._shut()
        if code in REFUSED_CODES:
            return [*withdrawn, *self._refused(f"close code {code}")]
        if self.state in _FINAL:
            return withdrawn
        self.state = "connecting"
        self.detail = f"the control socket to {self.identity.server} was lost"
        delay_s = self._next_delay(chance)
        text = f"{self.detail} ({'no close code' if code is None else code}); trying again in {delay_s:.1f} s"
        return [*withdrawn, Log(logging.WARNING, text), RedialControl(delay_s)]

    def closed(self) -> list[Effect]:
        """We have closed the socket ourselves, to register anew or for good."""
        if self.state not in _FINAL:
            self.state = "connecting"
        return self._shut()

    def tick(self, now: float) -> list[Effect]:
        """Do what time asks for; see `due`."""
        effects: list[Effect] = []
        for job_id in [job_id for job_id, asked in self._asking.items() if asked.ack_by <= now]:
            effects += [*self.refused(job_id, "at_capacity"), Withdraw(job_id)]
        if not self._open:
            return effects
        if self.state == "registered":
            if self._heartbeat_at <= now:
                effects.append(self._heartbeat(now))
        elif self._register_by <= now:
            self._register_by = now + REGISTER_S
            effects += [Log(logging.WARNING, f"{self.identity.server} did not answer our registration"), CloseControl()]
        return effects

    # ----------------------------------------------------------------------------------------------------------- jobs

    def taken(self, job_id: str) -> list[Effect]:
        """A runner holds a place for the job; without `DialControl` in the answer, it is no longer wanted."""
        asked = self._asking.pop(job_id, None)
        if asked is None:
            return []
        self._calling[job_id] = False
        return [self._ack(asked, None), DialControl(asked.job)]

    def refused(self, job_id: str, reason: Refusal) -> list[Effect]:
        """No runner takes the job."""
        asked = self._asking.pop(job_id, None)
        return [] if asked is None else [self._ack(asked, reason)]

    def elsewhere(self, job_id: str) -> list[Effect]:
        """The job's call lives at another bridge: it is accepted, and nothing is dialled."""
        asked = self._asking.pop(job_id, None)
        return [] if asked is None else [self._ack(asked, None)]

    def up(self, job_id: str) -> None:
        """The job's call has begun."""
        if job_id in self._calling:
            self._calling[job_id] = True

    def enter(self, job_id: str) -> None:
        """Another bridge's call goes on here."""
        self._calling[job_id] = True

    def ended(self, job_id: str) -> None:
        """The job's call is over, or never came about."""
        self._calling.pop(job_id, None)

    def drain(self) -> list[Effect]:
        """Take no more jobs; calls go on."""
        self._draining = True
        effects: list[Effect] = []
        for job_id in list(self._asking):
            effects += [*self.refused(job_id, "draining"), Withdraw(job_id)]
        return effects

    # ------------------------------------------------------------------------------------------------------ internals

    def _handle(self, frame: ControlFrame, now: float) -> list[Effect]:
        match frame:
            case RegisteredFrame():
                return self._registered(frame, now)
            case AssignFrame():
                return [Log(logging.WARNING, "ignored a job.assign before our registration was confirmed")]
            case CancelFrame():
                return self._cancelled(frame.job_id)
            case UnknownFrame():
                return [Log(logging.WARNING, f"ignored a control frame of unknown type {frame.type[:64]!r}")]

    def _registered(self, frame: RegisteredFrame, now: float) -> list[Effect]:
        if not self.identity.serving_url and frame.transport_ack != TRANSPORT:
            self.state = "too_old"
            self.detail = (
                f"the orchestrator at {self.identity.server} is too old for this bridge: "
                f"it does not confirm the transport {TRANSPORT!r}"
            )
            return [GiveUp(OrchestratorTooOld(self.detail)), CloseControl()]
        interval = frame.heartbeat_interval_s
        self._interval_s = max(interval, _LEAST_HEARTBEAT_S) if interval else HEARTBEAT_S
        self.state = "registered"
        self.detail = ""
        self._attempt = 0
        text = f"registered {self.identity.pool!r} at {self.identity.server}, capacity {self.registered_capacity}"
        return [Log(logging.INFO, text), self._heartbeat(now)]

    def _heartbeat(self, now: float) -> Send:
        self._heartbeat_at = now + self._interval_s
        worker_id = None if self.identity.serving_url else self.identity.worker_id
        return Send(encode(Heartbeat(self.active, worker_id)))

    def _assigned(self, frame: AssignFrame, now: float, *, excessive: bool) -> list[Effect]:
        assigned = _read(frame, now, self.identity)
        job_id = assigned.job.job_id
        if not job_id:
            return [Log(logging.WARNING, "ignored a job.assign with an empty job_id")]
        refusal = self._refusal(assigned.job)
        if refusal is not None:
            return [self._ack(assigned, refusal)]
        if excessive and job_id not in self._calling:
            text = "a job is refused: its metadata is too long, or nested too deeply, for a call to begin with"
            return [Log(logging.WARNING, text), self._ack(assigned, "metadata")]
        if job_id in self._calling:
            return [self._ack(assigned, None)]
        again = job_id in self._asking
        self._asking[job_id] = assigned
        return [Extend(assigned) if again else FindRunner(assigned)]

    def _refusal(self, job: Job) -> Refusal | None:
        """Return why a job is refused without asking anybody; one that we have is not."""
        if job.agent_id != self.identity.agent_id:
            return "agent_id_mismatch"
        if job.job_id in self._calling or job.job_id in self._asking:
            return None
        if self._draining:
            return "draining"
        return self._closed_for if self._capacity <= 0 else None

    def _cancelled(self, job_id: str) -> list[Effect]:
        if self._asking.pop(job_id, None) is not None:
            return [Withdraw(job_id)]
        if job_id in self._calling:
            return [Cancel(job_id)]
        return [Log(logging.DEBUG, "a job is called off that is not ours"), Cancel(job_id)]

    def _ack(self, asked: Assigned, refusal: Refusal | None) -> Send:
        job_id, assign_id = asked.job.job_id, asked.assign_id
        if refusal is None:
            return Send(encode(JobAck(job_id, assign_id, accepted=True)))
        self.refusals[refusal] += 1
        return Send(encode(JobAck(job_id, assign_id, accepted=False, reason=said(refusal))))

    def _refused(self, how: str) -> list[Effect]:
        self.state = "refused"
        me = self.identity
        self.detail = f"the orchestrator at {me.server} refused the credential ({how}): check {me.credential}"
        return [GiveUp(RunnerAuthError(self.detail))]

    def _shut(self) -> list[Effect]:
        # An answer on a later socket would come too late: the orchestrator assigns these again.
        self._open = False
        jobs, self._asking = list(self._asking), {}
        return [Withdraw(job_id) for job_id in jobs]

    def _next_delay(self, chance: float) -> float:
        delay_s = backoff_s(self._attempt, chance)
        self._attempt += 1
        return delay_s


def _read(frame: AssignFrame, now: float, me: Identity) -> Assigned:
    given = DEADLINE_MS if frame.deadline_ms is None else frame.deadline_ms
    patience = min(max(given / 1000, 0.0), _LONGEST_DEADLINE_S)
    early = min(EARLY_S, patience / 4)
    return Assigned(
        Job(
            job_id=frame.job_id,
            call_id=frame.call_id,
            agent_id=frame.agent_id,
            bridge_url=frame.bridge_url,
            call_token=frame.call_token,
            dev=me.dev,
            worker_id=me.worker_id,
        ),
        assign_id=frame.assign_id or "",
        ask_until=now + patience - early,
        ack_by=now + patience - early / 2,
    )
