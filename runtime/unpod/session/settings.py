"""What a developer can set for a session, beside what the decisions need."""

from __future__ import annotations

from typing import Final

from unpod.core.decision import Settings

TURN_HOOKS_S: Final = 10.0
"""How many seconds a call waits for the hooks of `call_start` and `user_turn`: the adapter needs what they prepare."""
HOOKS_S: Final = 1.0
_AWAITED: Final = frozenset({"call_start", "user_turn"})


def hook_wait_s(event: str, chosen: float | None) -> float:
    """Return how long a call waits for the hooks of an event: what a developer has chosen, for all events, counts."""
    if chosen is not None:
        return chosen
    return TURN_HOOKS_S if event in _AWAITED else HOOKS_S


class SessionSettings(Settings, frozen=True, kw_only=True):
    """Times in seconds.

    `hook_timeout_s` is how long the loop waits for the hooks of one event, None as `hook_wait_s` has it; `hook_grace_s`
    how long those that took longer still have once all else is done, and `end_timeout_s` how long the end of a call is
    waited for. Every `clock_check_s` the session's clock is compared with the log's.
    """

    hook_timeout_s: float | None = None
    hook_grace_s: float = 10.0
    clock_check_s: float = 300.0
    end_timeout_s: float = 60.0

    def hook_wait_s(self, event: str) -> float:
        """Return how long the loop waits for the hooks of an event."""
        return hook_wait_s(event, self.hook_timeout_s)
