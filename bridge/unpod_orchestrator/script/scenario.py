"""A whole call from a script, and whether it went as the script says."""

from collections.abc import Sequence
from typing import Protocol

from unpod_orchestrator.calls.call import CallOverError, LocalCall
from unpod_orchestrator.control.job_offers import CallRefused
from unpod_orchestrator.faults import CallFaults
from unpod_orchestrator.script.steps import AnyStep, ExpectationFailed
from unpod_orchestrator.wire.call_frames import RawFrame


class PlacesCalls(Protocol):
    """Whoever places a script's call: `LocalOrchestrator`."""

    async def place_call(
        self,
        agent_id: str,
        *,
        metadata: RawFrame | None = None,
        session_id: str | None = None,
        pool: str | None = None,
        faults: CallFaults | None = None,
    ) -> LocalCall:
        """Returns the call when a worker has taken it; `CallRefused` when none does."""
        ...


class ScenarioResult:
    """Whether the call went as the script says; `call` is None where nobody took it."""

    def __init__(self, name: str, call: LocalCall | None, failures: list[str]) -> None:
        self.name = name
        self.call = call
        self.failures = failures

    @property
    def ok(self) -> bool:
        """Whether there was no failure."""
        return not self.failures

    def __repr__(self) -> str:
        return f"<ScenarioResult {self.name!r} {'ok' if self.ok else 'failed'}>"

    def __str__(self) -> str:
        return (
            f"{self.name}: ok" if self.ok else "\n".join([f"{self.name}: failed", *map("  {}".format, self.failures)])
        )


class Scenario:
    """A named script. The first step that fails ends it: what comes after it means nothing then."""

    def __init__(self, name: str, steps: Sequence[AnyStep], *, metadata: RawFrame | None = None) -> None:
        self.name = name
        self.steps = tuple(steps)
        self.metadata = metadata

    async def play(
        self,
        orchestrator: PlacesCalls,
        agent_id: str,
        *,
        pool: str | None = None,
        faults: CallFaults | None = None,
    ) -> ScenarioResult:
        """Places the call and plays the script; the caller hangs up at its end. What the agent does never raises."""
        try:
            call = await orchestrator.place_call(agent_id, metadata=self.metadata, pool=pool, faults=faults)
        except CallRefused as refused:
            return ScenarioResult(self.name, None, [str(refused)])
        return await self.play_on(call)

    async def play_on(self, call: LocalCall) -> ScenarioResult:
        """Plays the script on a call that has been placed already."""
        failures: list[str] = []
        try:
            for number, step in enumerate(self.steps, 1):
                failure = await _played(step, call)
                if failure is not None:
                    failures.append(f"step {number}, {type(step).__name__}: {failure}")
                    break
        finally:
            if not call.over:
                await call.hang_up()
        failures.extend(f"protocol: {violation}" for violation in call.violations)
        return ScenarioResult(self.name, call, failures)


async def _played(step: AnyStep, call: LocalCall) -> str | None:
    try:
        await step.play(call)
    except (ExpectationFailed, CallOverError, TimeoutError, ValueError) as error:
        return str(error)
    return None
