"""Keys: who may register, and who may use REST. Comparisons take the same time whatever the key is."""

import hmac
from collections.abc import Iterable

from aiohttp import web


class KeyRing:
    """The API keys, and the platform's tokens with their organisation; shows none of them."""

    def __init__(
        self, api_keys: Iterable[str], platform_tokens: Iterable[str] = (), org_handle: str | None = None
    ) -> None:
        self._api_keys = tuple(key.encode() for key in api_keys)
        self._platform_tokens = tuple(token.encode() for token in platform_tokens)
        self._org_handle = org_handle

    def __repr__(self) -> str:
        return "<KeyRing>"

    def admits_worker(self, request: web.Request) -> bool:
        """`admits_rest`, and a token must name an organisation."""
        with_token = request.headers.get("Authorization", "").lower().startswith("token ")
        return self.admits_rest(request) and bool(not with_token or request.headers.get("Org-Handle"))

    def admits_rest(self, request: web.Request) -> bool:
        """Whether it carries `Bearer <api key>`, or `Token <platform token>` with the right `Org-Handle`, if any."""
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return _among(key, self._api_keys)
        right_org = self._org_handle is None or request.headers.get("Org-Handle") == self._org_handle
        return scheme.lower() == "token" and _among(key, self._platform_tokens) and right_org


def _among(key: str, known: tuple[bytes, ...]) -> bool:
    given = key.strip().encode("utf-8", "surrogateescape")
    # Every comparison is made: how many keys there are is no secret, which of them fits is.
    fitting = [hmac.compare_digest(given, candidate) for candidate in known]
    return any(fitting)
