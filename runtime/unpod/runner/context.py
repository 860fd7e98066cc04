"""What an entrypoint is given."""

from __future__ import annotations

from dataclasses import dataclass, field

from unpod.session.session import Session


@dataclass(frozen=True, kw_only=True)
class CallContext:
    """One call.

    `agent_id` is who answers, `runner_id` the agent id of the runner that took the call; `user_number` is "" where
    unknown; `data` is what the dispatcher sent along; `room` names the media room.

    A test that makes one needs `call_id` and `session` alone; `session_id` is the `call_id` then.
    """

    call_id: str
    session_id: str = ""
    agent_id: str = ""
    runner_id: str = ""
    direction: str = "inbound"
    user_number: str = ""
    instructions: str | None = None
    data: dict[str, object] = field(default_factory=dict)
    room: dict[str, object] = field(default_factory=dict)
    session: Session

    def __post_init__(self) -> None:
        if not self.session_id:
            object.__setattr__(self, "session_id", self.call_id)

    def __repr__(self) -> str:
        return f"<CallContext {self.session_id} of {self.agent_id}, {self.direction}>"
