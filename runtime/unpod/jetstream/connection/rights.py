"""Finds out at the start what a NATS user may do: NATS reports a denial late, and not to the code that it concerns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from unpod.errors import ConfigurationError
from unpod.jetstream.connection.options import PermissionDenied

if TYPE_CHECKING:
    from unpod.jetstream.connection.connection import Nats
    from unpod.ports import Message

PROBE: Final = "rights-probe"
"""The session and the process whose subjects are tried: nobody has that name."""
_UNSTORED: Final = {"Nats-Expected-Stream": PROBE}
"""Headers that keep a message from being stored: they name a stream that does not exist."""
_ANSWER_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Rights:
    """What a role must be able to do: one subject of each kind stands for all of them."""

    role: str
    publish: Sequence[str]
    subscribe: Sequence[str]


async def check_rights(nats: Nats, rights: Rights) -> None:
    """Make sure of all that a role needs. What is tried is stored nowhere, and nobody listens to it.

    Raises:
        ConfigurationError: something is denied; the text names all of it.
        LogUnavailable: no answer.
    """
    denied: list[PermissionDenied] = []
    stop = nats.on_denied(denied.append)
    try:
        for subject in rights.publish:
            nats.send(subject, b"", _UNSTORED)
        await nats.flush(timeout_s=_ANSWER_S)
        lacking = [f"publish on {each.subject}" for each in denied if each.kind == "publish"]
    finally:
        stop()
    for subject in rights.subscribe:
        try:
            subscription = await nats.subscribe(subject, _ignore)
        except PermissionDenied:
            lacking.append(f"subscribe to {subject}")
        else:
            await subscription.close()
    if lacking:
        raise ConfigurationError(
            f"this NATS user lacks rights of the role {rights.role}: it may not {', nor '.join(lacking)}; "
            "grant them (compose/nats/roles.conf has them all), or connect as another user"
        )


def _ignore(_message: Message) -> None:
    """What comes on a subject that is only tried is not for us."""
