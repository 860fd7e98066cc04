"""URLs that carry a secret: with it for the wire, without it for people. Pure."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit


def with_token(url: str, token: str) -> str:
    """Return `url` with `token=` added to whatever query it has."""
    scheme, host, path, query, _ = urlsplit(url)
    added = f"token={quote(token, safe='')}"
    return urlunsplit((scheme, host, path, f"{query}&{added}" if query else added, ""))


_WORDS: Final = r"token|key|secret|signature|password|auth|credential|nonce|\bsig\b"
_SECRET: Final = re.compile(_WORDS, re.IGNORECASE)
_SECRET_IN_PATH: Final = re.compile(rf"((?:{_WORDS})[\w-]*=)[^/&;]*", re.IGNORECASE)


def redact_url(url: str) -> str:
    """Return a URL for people: host and parameters stay, what may be a secret does not. Never raises."""
    try:
        scheme, netloc, path, query, _ = urlsplit(url)
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=50)
        shown = urlencode([(name, "***" if _SECRET.search(name) else value) for name, value in pairs], safe="*")
        path_shown = _SECRET_IN_PATH.sub(r"\1***", path)
        host = netloc.rpartition("@")[2]
        return urlunsplit((scheme, f"***@{host}" if "@" in netloc else netloc, path_shown, shown, ""))[:500]
    except ValueError:
        return "an unreadable URL"


def is_local(url: str) -> bool:
    """Whether a URL names this machine, which no proxy can reach."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return False
    return host in ("localhost", "::1") or host.startswith("127.")
