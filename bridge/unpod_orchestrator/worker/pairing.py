"""Who may join a call's line: the pairing of a job's token with its one socket. Pure."""

import hmac

from unpod_orchestrator.wire.constants import ALREADY_CONNECTED, PAIRING_REFUSED


class Pairing:
    """Opens at dispatch for `window_s`; once the call has begun it holds as long as the call lives."""

    def __init__(self, token: str, window_s: float) -> None:
        self.token = token
        self._window_s = window_s
        self._expires_at = 0.0
        self._established = False
        self._void = False

    @property
    def expires_at(self) -> float:
        """When nobody may dial any more, unless the call has begun by then."""
        return self._expires_at

    def open(self, now: float) -> None:
        """The job is dispatched, or dispatched again: the window starts."""
        self._expires_at = now + self._window_s

    def establish(self) -> None:
        """The call has begun: the pairing outlives its window and its sockets."""
        self._established = True

    def void(self) -> None:
        """Nobody may dial any more."""
        self._void = True

    def refusal(self, token: str, now: float, *, live: bool) -> int | None:
        """The close code for whoever dials with `token`; None lets them in. Constant time in the token."""
        right = hmac.compare_digest(token.encode("utf-8", "surrogatepass"), self.token.encode())
        expired = not self._established and now >= self._expires_at
        if not right or self._void or expired:
            return PAIRING_REFUSED
        return ALREADY_CONNECTED if live else None
