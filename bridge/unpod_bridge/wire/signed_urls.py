"""Who may dial in on the serve transport, and which call they bring. Pure: `now_ms` is an argument.

A worker that dials in signs its URL: `signature` is the base64 of HMAC-SHA256, under the agent's secret, over
`session_id|job_id|nonce|ts`. Without a secret anybody is let in, as the deployments that have none expect.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64encode
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qs, urlsplit

WINDOW_MS: Final = 30_000
"""How far a signed time may be off, either way; a nonce is remembered for as long."""
LONGEST_ID: Final = 512
_MAX_FIELDS: Final = 50


@dataclass(frozen=True, slots=True)
class DialInCaller:
    """What a dialled URL says of its call; both ids are "" where it does not."""

    session_id: str
    job_id: str

    @property
    def key(self) -> str:
        """What its later dials have in common, or ""."""
        return f"{len(self.session_id)}.{self.session_id}.{self.job_id}" if self.session_id or self.job_id else ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why somebody is not let in; nothing of what they sent is in it."""

    reason: str


@dataclass(slots=True)
class SignedUrls:
    """Checks dialled URLs under one secret, or under none (b"")."""

    secret: bytes = field(repr=False)
    _nonces: dict[str, int] = field(default_factory=dict, repr=False)

    def admit(self, target: str, now_ms: int) -> DialInCaller | Refusal:
        """Return which call a request's target names, or why its worker is refused."""
        try:
            fields = _fields(target)
        except ValueError:
            return Refusal("its query cannot be read")
        caller = _caller(fields)
        if max(len(caller.session_id), len(caller.job_id)) > LONGEST_ID:
            return Refusal("its ids are too long")
        refusal = self._check(fields, now_ms) if self.secret else None
        return caller if refusal is None else Refusal(refusal)

    def _check(self, fields: dict[str, str], now_ms: int) -> str | None:
        signed = [fields.get(name, "") for name in ("session_id", "job_id", "nonce", "ts")]
        if not all(signed) or "signature" not in fields:
            return "it is not signed: session_id, job_id, nonce, ts and signature are needed once each"
        expected = b64encode(hmac.digest(self.secret, "|".join(signed).encode("utf-8", "replace"), hashlib.sha256))
        # A `+` that was not escaped arrives as a space.
        given = fields["signature"].replace(" ", "+").encode("utf-8", "replace")
        if not hmac.compare_digest(given, expected):
            return "its signature is wrong: UNPOD_AGENT_SECRET must be the same on both sides"
        nonce, ts = signed[2], signed[3]
        if not (ts.isascii() and ts.isdigit() and abs(int(ts[:20]) - now_ms) <= WINDOW_MS):
            return f"its time is more than {WINDOW_MS // 1000} s off: check both clocks"
        self._forget(now_ms)
        if nonce in self._nonces:
            return "its nonce has been used before"
        self._nonces[nonce] = int(ts[:20])
        return None

    def _forget(self, now_ms: int) -> None:
        """Forget the nonces whose time is refused by now anyway."""
        old = [nonce for nonce, ts in self._nonces.items() if now_ms - ts > WINDOW_MS]
        for nonce in old:
            del self._nonces[nonce]


def key_of(target: str) -> str:
    """Return the key of the call that a target names, whoever has sent it; "" without one."""
    try:
        return _caller(_fields(target)).key
    except ValueError:
        return ""


def _fields(target: str) -> dict[str, str]:
    """Return what is given once; raises ValueError."""
    given = parse_qs(urlsplit(target).query, keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    return {name: values[0] for name, values in given.items() if len(values) == 1}


def _caller(fields: dict[str, str]) -> DialInCaller:
    return DialInCaller(fields.get("session_id", ""), fields.get("job_id", ""))
