"""What a developer can set for a session, beside what the decisions need."""

from __future__ import annotations

from unpod.core.decision import Settings


class SessionSettings(Settings, frozen=True, kw_only=True):
    """Times in seconds.

    `hook_timeout_s` is how long the loop waits for the hooks of one event, `hook_grace_s` how long those that took
    longer still have once all else is done, and `end_timeout_s` how long the end of a call is waited for.
    """

    hook_timeout_s: float = 1.0
    hook_grace_s: float = 10.0
    end_timeout_s: float = 60.0
