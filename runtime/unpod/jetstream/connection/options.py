"""How to connect, and what a refused right is called."""

from __future__ import annotations

from dataclasses import dataclass, field

from unpod.errors import LogError
from unpod.jetstream.connection.credentials import Credentials, without_secrets


class PermissionDenied(LogError):  # noqa: N818 - the NATS term
    """NATS refused to publish or to subscribe: this connection's user has no right to the subject."""

    def __init__(self, kind: str, subject: str) -> None:
        verb = "publish on" if kind == "publish" else "subscribe to"
        super().__init__(f"this NATS user may not {verb} {subject!r}: grant it, or connect as another user")
        self.kind = kind
        self.subject = subject


@dataclass(frozen=True, slots=True)
class NatsOptions:
    """How to connect; times in seconds."""

    urls: tuple[str, ...] = field(repr=False)  # a URL may hold a password
    name: str = "unpod"
    credentials: Credentials = field(default_factory=Credentials)
    inbox_prefix: str = "_INBOX"
    no_echo: bool = False
    connect_timeout_s: float = 5.0
    ping_interval_s: float = 1.0
    variable: str = "UNPOD_NATS_URL"

    def readable(self) -> str:
        """Return the servers without what is secret in their URLs."""
        return ", ".join(without_secrets(url) for url in self.urls)
