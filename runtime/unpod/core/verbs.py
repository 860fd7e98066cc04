"""The verbs of the speech worker's protocol, by name, and which of them a call has."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

SPEECH_VERBS: Final = ("agent.text.delta", "agent.text.end", "agent.say", "agent.end_call")
"""What every worker can do: without it there is no call."""

VERBS: Final = (
    *SPEECH_VERBS,
    "agent.transfer",
    "agent.dispatch",
    "agent.add_participant",
    "agent.remove_participant",
    "agent.merge",
)

OWN_VERBS: Final = ("agent.interrupt", "agent.filler", "recording.pause", "recording.resume")
"""Unpod's own: sent only where the worker negotiates them."""

_KNOWN: Final = frozenset(VERBS + OWN_VERBS)


def negotiated(names: Collection[str]) -> frozenset[str]:
    """Return the verbs that may be sent, given the `negotiated_verbs` of a `hello.ack`; none named means `VERBS`."""
    return _KNOWN.intersection(names).union(SPEECH_VERBS) if names else frozenset(VERBS)
