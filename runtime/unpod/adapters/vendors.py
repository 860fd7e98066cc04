"""What the vendors' clients have in common: how they fail, and that they may not be installed."""

from __future__ import annotations

import re
from typing import Final

from unpod.errors import AdapterError, ConfigurationError

_CODE: Final = re.compile(r"[a-z0-9_.-]{1,64}", re.IGNORECASE)
_AUTH: Final = (401, 403)
_RATE_LIMITED: Final = 429
_TIMEOUTS: Final = (408, 504)
_TRANSPORTS: Final = frozenset({"httpx", "httpx2", "httpcore", "httpcore2"})


def missing(adapter: str, package: str, extra: str) -> ConfigurationError:
    """Return the error of those who have not installed what an adapter needs."""
    return ConfigurationError(f"{adapter} needs the {package} package: pip install 'unpod[{extra}]'")


def http_error(provider: str, status: int, detail: object = None) -> AdapterError:
    """Return what a provider's refusal means; `code`: rate_limited, auth, timeout or provider_error.

    Its message is left out: it may quote the key or the prompt. `detail` is its error code, kept if it looks like one.
    """
    return AdapterError(f"{provider} answered HTTP {status}{_shown(detail)}", code=_meaning(status))


def broken_off(provider: str, detail: object = None) -> AdapterError:
    """Return the error of a provider that says in mid-reply that it cannot go on."""
    return AdapterError(f"{provider} broke the reply off{_shown(detail)}", code="provider_error")


def timed_out(provider: str) -> AdapterError:
    """Return the error of a provider that says nothing for too long."""
    return AdapterError(f"{provider} did not answer in time", code="timeout")


def disconnected(provider: str) -> AdapterError:
    """Return the error of a connection that could not be made, or was lost."""
    return AdapterError(f"the connection to {provider} failed or was lost", code="connection")


def transport_error(error: Exception, provider: str) -> AdapterError | None:
    """Return what an error of the HTTP library under a vendor's client means, None of any other.

    Clients pass some of them on as they are, above all in the middle of a stream.
    """
    kinds = [kind for kind in type(error).__mro__ if kind.__module__.partition(".")[0] in _TRANSPORTS]
    if not kinds:
        return None
    if any(kind.__name__ == "TimeoutException" for kind in kinds):
        return timed_out(provider)
    return disconnected(provider)


def _meaning(status: int) -> str:
    if status in _AUTH:
        return "auth"
    if status == _RATE_LIMITED:
        return "rate_limited"
    return "timeout" if status in _TIMEOUTS else "provider_error"


def _shown(detail: object) -> str:
    return f" ({detail})" if isinstance(detail, str) and _CODE.fullmatch(detail) else ""
