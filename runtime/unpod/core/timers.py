"""A session's timers: they follow from its state and its settings, so that nobody has to set or cancel one."""

from __future__ import annotations

from typing import Final, Literal

from msgspec.structs import replace

from unpod.core.decision import Settings
from unpod.core.state import SessionState

Timer = Literal["metrics", "reply", "silence", "max_duration"]

UNCONFIRMED_S: Final = 20.0
"""How long a turn stays open whose reply may not have reached the worker: by then another bridge or owner has it."""


def due(state: SessionState, settings: Settings) -> float | None:
    """Return the time at which `decide` wants to hear `TimeReached`, or None."""
    moments = _moments(state, settings)
    return min(moments)[0] if moments else None


def reached(state: SessionState, settings: Settings, now: float) -> set[Timer]:
    """Return the timers whose time has come."""
    return {timer for at, timer in _moments(state, settings) if at <= now}


def silence_s(state: SessionState, settings: Settings) -> float:
    """Return the seconds of silence at which it is noticed next, 0.0 for never."""
    return (settings.silence_timeout_s or 0.0) * (state.silences + 1)


def restarted(state: SessionState, now: float, settings: Settings) -> SessionState:
    """Return the state with the timers that are overdue started afresh: nobody was there to hear them."""
    if settings.silence_timeout_s is not None and state.quiet_since + silence_s(state, settings) <= now:
        state = replace(state, quiet_since=now, silences=0)
    if settings.max_duration_s is not None and state.timed_from + settings.max_duration_s <= now:
        state = replace(state, timed_from=now)
    return state


def _moments(state: SessionState, settings: Settings) -> list[tuple[float, Timer]]:
    """Return the timers that run, each with its time; asked after each record, so it calls nothing."""
    if state.over or not state.started_at:
        return []
    found: list[tuple[float, Timer]] = []
    turn = state.turn
    phase = "ended" if turn is None else turn.phase
    if turn is not None and phase == "ended" and not state.speaking:
        wait_s = max(UNCONFIRMED_S, settings.metrics_wait_s) if state.awaits_receipt else settings.metrics_wait_s
        found.append((max(turn.ended_at, state.quiet_since) + wait_s, "metrics"))
    timed = turn is not None and phase not in ("opened", "ended") and not turn.bounded_tools
    if turn is not None and timed and settings.reply_timeout_s is not None:
        # A tool's own time-out rules while it runs; the adapter's begins anew with the result.
        worked_at = max(turn.asked_at, turn.last_delta_at, turn.tool_at, *turn.tools.values())
        found.append((worked_at + settings.reply_timeout_s, "reply"))
    owed = state.queue or phase != "ended"
    if settings.silence_timeout_s is not None and not (owed or state.speaking or state.supervision.held):
        found.append((state.quiet_since + settings.silence_timeout_s * (state.silences + 1), "silence"))
    if settings.max_duration_s is not None:
        found.append((state.timed_from + settings.max_duration_s, "max_duration"))
    return found
