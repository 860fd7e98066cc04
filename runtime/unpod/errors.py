"""Every error that unpod raises on purpose.

::

    UnpodError
    ├── ConfigurationError        a value or a variable is missing or wrong; the text says which and what to do
    ├── RunnerAuthError           the orchestrator refused the key (also a ConnectionError)
    ├── OrchestratorTooOld        the orchestrator does not speak our transport (also a ConnectionError)
    ├── RunnerBroken              what a runner cannot do without has stopped; starting it again helps
    ├── UnknownEvent              `on()` of an event that does not exist (also a ValueError)
    ├── UnsupportedControl        the other side of this call cannot do what was asked; nothing was sent
    ├── SessionClosed             the call is over; nothing was sent
    ├── SessionUnknown            there is no session of this id in the log (also a LookupError)
    ├── ControlRefused            a control from outside was not done: `reason` says why
    ├── ControlUnanswered         nobody has said what became of a control; the same `command_id` may be sent again
    ├── StepFailed                a journaled step raised, now or in the process that ran it
    ├── AdapterError              the adapter failed, and says how
    ├── APIError                  a request to the management API or the orchestrator failed: `status`, `reason`
    ├── ProtocolViolation         a frame, record or request breaks the protocol; `whose` says on which side
    │   └── UnsafeIdentifier      an id that cannot be made a NATS subject token
    └── LogError                  the event log
        ├── LogUnavailable        no answer: whether the record is stored is unknown; the same id may be tried again
        ├── LogFull               the stream is at its bound (`discard: new`)
        ├── RecordTooLarge        payload and headers are over the server's limit; nothing was sent
        ├── Fenced                a newer owner or line exists; the writer must stop
        └── NoResponders          nobody listens on the subject of a request

No text of an error ever holds a key, a token or what was said on a call.
"""

from __future__ import annotations

from typing import Literal


class UnpodError(Exception):
    """The root of every error that unpod raises on purpose."""


class ConfigurationError(UnpodError):
    """A setting is missing or wrong; the text names it and says what to do."""


class RunnerAuthError(UnpodError, ConnectionError):
    """The orchestrator refused the key or token (HTTP 401 or 403, close code 4001 or 1008); a retry cannot help."""


class OrchestratorTooOld(UnpodError, ConnectionError):  # noqa: N818 - the name says what is wrong
    """The orchestrator did not acknowledge the `dial_out` transport; a retry cannot help."""


class RunnerBroken(UnpodError):  # noqa: N818 - a state
    """What a runner cannot do without has stopped by itself; starting it again helps."""


class UnknownEvent(UnpodError, ValueError):  # noqa: N818 - a fact
    """`on()` was asked for an event that does not exist; the text lists those there are."""


class UnsupportedControl(UnpodError):  # noqa: N818 - a refusal, and the name users know
    """The other side of this call cannot do what was asked; nothing was sent.

    `verb` is the wire verb that is missing, `reason` a sentence for people.
    """

    def __init__(self, verb: str, reason: str) -> None:
        super().__init__(f"{verb}: {reason}")
        self.verb = verb
        self.reason = reason


class SessionClosed(UnpodError):  # noqa: N818 - a state
    """The call is over, so the verb could not be sent."""


class SessionUnknown(UnpodError, LookupError):  # noqa: N818 - a fact
    """The log has no session of this id; nothing was sent."""


class ControlRefused(UnpodError):  # noqa: N818 - a refusal
    """A control from outside was not done.

    `outcome` is `refused` where it was not tried, `failed` where it was; `reason` is a sentence for people.
    """

    def __init__(self, verb: str, reason: str, *, outcome: Literal["refused", "failed"] = "refused") -> None:
        super().__init__(f"{verb} was {outcome if outcome == 'refused' else 'not done'}: {reason}")
        self.verb = verb
        self.reason = reason
        self.outcome = outcome


class ControlUnanswered(UnpodError):  # noqa: N818 - a state
    """Nobody has said in time what became of a control.

    It is not done after its deadline. `accepted`: the bridge has admitted it. Sending it again with the same
    `command_id` does nothing twice, and tells what became of it.
    """

    def __init__(self, verb: str, command_id: str, *, accepted: bool) -> None:
        done = "was accepted, and not known to be done" if accepted else "was not answered by a bridge"
        super().__init__(f"{verb} {done} in time; ask again with command_id={command_id!r}")
        self.verb = verb
        self.command_id = command_id
        self.accepted = accepted


class StepFailed(UnpodError):  # noqa: N818 - a fact
    """A journaled step raised; `error_type` is the name of its exception. A takeover raises the same again."""

    def __init__(self, name: str, error_type: str, error: str) -> None:
        super().__init__(f"step {name!r} failed: {error_type}: {error}")
        self.name = name
        self.error_type = error_type
        self.error = error


class AdapterError(UnpodError):
    """The dialog adapter failed; `code` goes into the `error` hook.

    `retry_after_s` is after how many seconds a provider may be asked again, where it has said so.
    """

    def __init__(self, message: str, *, code: str = "adapter_error", retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_s = retry_after_s


class APIError(UnpodError):
    """A request to the management API or the orchestrator's REST failed.

    `status` is the HTTP status, None where no answer came (whether the request was carried out is then unknown);
    `reason` is the body's own; `request_id` finds the request in the server's logs.
    """

    def __init__(self, reason: str, *, status: int | None = None, request_id: str = "") -> None:
        said = "no answer" if status is None else f"HTTP {status}"
        super().__init__(f"{said}: {reason} (request {request_id})")
        self.status = status
        self.reason = reason
        self.request_id = request_id


class ProtocolViolation(UnpodError):  # noqa: N818 - as in h11: a fact about one side
    """A frame, record or request breaks the protocol.

    `whose` is `"remote"` where the other side is at fault and `"local"` where we are.
    """

    def __init__(self, message: str, *, whose: Literal["remote", "local"] = "remote") -> None:
        super().__init__(message)
        self.whose = whose


class UnsafeIdentifier(ProtocolViolation):
    """An id is empty, or cannot be made a subject token that no other id shares."""


class LogError(UnpodError):
    """The event log could not do what was asked."""


class LogUnavailable(LogError):  # noqa: N818 - a state
    """The log did not answer in time: whether the record is stored is unknown; trying the same id again is safe."""


class LogFull(LogError):  # noqa: N818 - a state
    """The stream is at its bound and takes no more records (`discard: new`)."""


class RecordTooLarge(LogError):  # noqa: N818 - a state
    """Payload and headers together are over the server's limit; nothing was sent."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"a record of {size} bytes is over the limit of {limit} bytes")
        self.size = size
        self.limit = limit


class Fenced(LogError):  # noqa: N818 - a state
    """The fence's subject has another epoch than this writer's, mostly a newer one: it must stop.

    `absent`: the subject has no record at all. Nobody else is the owner then: somebody has deleted the record.
    """

    def __init__(self, text: str, *, absent: bool = False) -> None:
        super().__init__(text)
        self.absent = absent


class NoResponders(LogError):  # noqa: N818 - the NATS term
    """Nobody listens on the subject of a request."""
