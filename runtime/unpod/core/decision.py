"""The words of a decision: what can have happened, and what can be decided. `decide.py` has the rules."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from unpod.core import events as ev
from unpod.core.codec import Record
from unpod.core.commands import AnyCommand
from unpod.core.ephemeral_events import LocalEvent
from unpod.core.events import SessionEvent

# --- what can happen, beside the bridge's records ---------------------------------------------------------------------


class TurnHooksReturned(Struct, frozen=True):
    """The `user_turn` hooks of a turn have returned."""

    turn: int
    has_adapter: bool


class AdapterSpoke(Struct, frozen=True):
    """The adapter has yielded a piece of the reply."""

    turn: int
    text: str


class AdapterFinished(Struct, frozen=True):
    """The adapter has nothing more to say on this turn; `complete`: nor on this call."""

    turn: int
    complete: bool = False


class AdapterRaised(Struct, frozen=True):
    """The adapter raised."""

    turn: int
    code: str
    error: str


class AdapterReported(Struct, frozen=True):
    """The adapter has called a model or a tool, or a tool has returned."""

    fact: ev.LLMCalled | ev.ToolCalled | ev.ToolReturned


class TimeReached(Struct, frozen=True):
    """A moment that `due` named has come."""


class Verb(Struct, frozen=True):
    """The developer's code asks for a command."""

    command: AnyCommand


class EntrypointReturned(Struct, frozen=True):
    """The developer's entrypoint has returned, or raised `error`."""

    error: str | None = None


Given = (
    Record
    | TurnHooksReturned
    | AdapterSpoke
    | AdapterFinished
    | AdapterRaised
    | AdapterReported
    | TimeReached
    | Verb
    | EntrypointReturned
)


# --- what can be decided ----------------------------------------------------------------------------------------------


class Append(Struct, frozen=True):
    """Store a fact or a command; `cause` is what its id is derived from (the input's id where empty)."""

    body: SessionEvent | AnyCommand
    cause: str = ""


class FireHooks(Struct, frozen=True):
    """Run the hooks of an event, in order of registration.

    `own`: they tell of what the session itself did, and the nearest `Append` before this step is the record of it. Else
    they tell of the bridge's record that was decided on.
    """

    event: str
    args: tuple[object, ...] = ()
    kwargs: dict[str, object] = {}
    turn: int = 0
    own: bool = False


class AskAdapter(Struct, frozen=True):
    """Give a turn's text to the adapter."""

    turn: int
    text: str
    language: str | None
    said: str = ""
    """What was spoken of the reply already: the adapter is to go on from there."""


class StopAdapter(Struct, frozen=True):
    """Cancel its stream at the provider; with `mark`, tell it that the caller heard `heard` (None: unknown)."""

    turn: int
    mark: bool = False
    heard: str | None = None


class MarkInterrupted(Struct, frozen=True):
    """Tell the adapter, whose stream is over, that the caller heard `heard` and no more."""

    heard: str


class Nudge(Struct, frozen=True):
    """Tell the adapter that the caller cut in between turns, nobody knows where."""

    note: str


class SendDelta(Struct, frozen=True):
    """Send the `n`-th piece (from 1) of a reply on its way."""

    turn: int
    part: int
    n: int
    text: str


class Finish(Struct, frozen=True):
    """Let `run()` return."""

    reason: str


Effect = FireHooks | AskAdapter | StopAdapter | MarkInterrupted | Nudge | SendDelta | Finish
Step = Append | LocalEvent | Effect


class Decision(Struct, frozen=True):
    """Steps, to be carried out in order."""

    steps: tuple[Step, ...] = ()


RESUME_APOLOGY = "Sorry, I was cut off for a moment. Could you say that again?"
ADAPTER_APOLOGY = "Sorry, something went wrong. Could you say that again?"


class Settings(Struct, frozen=True, kw_only=True):
    """What a developer can set for a session. Times in seconds; None switches a timer off.

    `on_adapter_error` is the phrase with which the reply of an adapter that has failed is ended, or `end`: the call is
    ended with `error`. None, or "": neither.
    """

    agent_id: str = ""
    silence_timeout_s: float | None = 10.0
    metrics_wait_s: float = 1.0
    max_duration_s: float | None = None
    reply_timeout_s: float | None = 30.0
    max_reply_chars: int = 20_000
    on_resume: Literal["continue", "apologise", "repeat"] = "continue"
    resume_apology: str = RESUME_APOLOGY
    on_adapter_error: str | None = ADAPTER_APOLOGY
    interruption_note: str = "The caller cut in on your last reply; it is not known how much of it they heard."

    @property
    def adapter_apology(self) -> str:
        """What the caller hears where the adapter has failed, "" for nothing."""
        return "" if self.on_adapter_error == "end" else self.on_adapter_error or ""


NOTHING = Decision()
