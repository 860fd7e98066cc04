"""Not recorded means not recorded: what of a fact or command may be stored while the recording is paused.

The full record travels on the session's live subject; what is stored says that something was withheld, and nothing of
it.
"""

from __future__ import annotations

import re

from msgspec import Struct
from msgspec.structs import replace

from unpod.core import commands as cmd
from unpod.core import events as ev

_STRIP: dict[type[object], dict[str, object]] = {
    ev.UserText: {"text": "", "extra": None, "language": None},
    ev.UserInterrupted: {"heard_prefix": None},
    ev.FrameUnknown: {"frame": None},
    ev.FrameRejected: {"head": ""},
    ev.TurnCompleted: {"user_text": None, "agent_text": None, "heard_text": None},
    ev.LLMCalled: {"prompt_messages": None, "response_json": None},
    ev.ToolCalled: {"arguments": None},
    ev.ToolReturned: {"result": None},
    ev.StepCompleted: {"value": None, "error": None},
    ev.OwnerChanged: {"text": None, "earlier": ()},
    cmd.Say: {"text": None},
    cmd.SetFiller: {"text": None},
}
_SCRUB: dict[type[object], dict[str, object]] = {
    ev.WorkerError: {"message": ""},
    ev.AdapterFailed: {"error": ""},
    ev.HookFailed: {"error": ""},
    ev.EntrypointFailed: {"error": ""},
    cmd.Transfer: {"announcement": None},
}

_LANGUAGE = re.compile(r"[A-Za-z0-9_-]{1,35}\Z")


def withhold(body: Struct) -> Struct:
    """Return what may be stored of `body`: itself where it carries no text that anybody said."""
    if isinstance(body, ev.WorkerFact) and (body.flaws or body.as_sent):
        body = replace(body, flaws=(), as_sent="")
    fields = _STRIP.get(type(body))
    if isinstance(body, ev.UserText) and _LANGUAGE.match(body.language_tag or ""):
        fields = {**_STRIP[ev.UserText], "language": body.language_tag}
    if fields is not None:
        return replace(body, withheld=True, **fields)
    scrubbed = _SCRUB.get(type(body))
    return body if scrubbed is None else replace(body, **scrubbed)
