"""Whether a session goes on for its runner."""

from __future__ import annotations

from msgspec.structs import replace

from unpod.core.events import CallEnded
from unpod.core.state import SessionState
from unpod.core.subjects import Subjects
from unpod.errors import Fenced, LogError
from unpod.session.ending import Ending
from unpod.session.ownership import Ownership
from unpod.testing.broker import MemoryBroker
from unpod.testing.clock import VirtualClock
from unpod.testing.memory import MemoryLog

ENDED = SessionState(ended=CallEnded(reason="hangup"))


def an_ending(told: list[str]) -> Ending:
    log = MemoryLog(MemoryBroker())
    ownership = Ownership(log, log, VirtualClock(), Subjects(), "agent", "s1", "runner-1", epoch=1, until_seq=1)
    ending = Ending(ownership, lambda: told.append("woken"))
    ending.on_fenced = lambda: told.append("fenced")
    return ending


def test_the_first_reason_counts() -> None:
    ending = an_ending(told := list[str]())
    assert ending.reason_of(SessionState()) == "lost"
    assert ending.reason_of(ENDED) == "hangup"
    ending.finish("completed")
    ending.finish("error")
    assert (ending.reason, ending.reason_of(ENDED), told) == ("completed", "completed", ["woken", "woken"])


def test_a_session_that_another_runner_owns_is_let_go_of_once() -> None:
    ending = an_ending(told := list[str]())
    ending.fence()
    ending.fence()
    ending.lose(LogError("it is gone"))
    assert (ending.fenced, ending.abandoned, ending.reason, told) == (True, True, "cancelled", ["woken", "fenced"])


def test_a_session_without_a_log_ends_with_an_error() -> None:
    ending = an_ending(told := list[str]())
    ending.lose(LogError("it is gone"))
    ending.lose(Fenced("too late to matter"))
    assert (ending.fenced, ending.abandoned, ending.reason, told) == (False, False, "error", ["woken"])


def test_what_counts_as_failed() -> None:
    ending = an_ending([])
    assert not ending.has_failed(ENDED)
    assert ending.has_failed(replace(ENDED, failed=True))
    assert ending.has_failed(SessionState(ending="error"))
    ending.lose(LogError("it is gone"))
    assert ending.has_failed(ENDED)
