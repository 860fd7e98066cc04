"""What an entrypoint is given."""

from __future__ import annotations

from dataclasses import dataclass

from unpod.session.session import Session


@dataclass(frozen=True)
class CallContext:
    """One call.

    `agent_id` is who answers, `runner_id` the agent id of the runner that took the call; `user_number` is "" where
    unknown; `data` is what the dispatcher sent along; `room` names the media room.
    """

    call_id: str
    session_id: str
    agent_id: str
    runner_id: str
    direction: str
    user_number: str
    instructions: str | None
    data: dict[str, object]
    room: dict[str, object]
    session: Session

    def __repr__(self) -> str:
        return f"<CallContext {self.session_id} of {self.agent_id}, {self.direction}>"
