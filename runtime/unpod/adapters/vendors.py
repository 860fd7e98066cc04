"""What the vendors' clients have in common: how they fail, and that they may not be installed."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeVar, cast

from unpod.errors import AdapterError, ConfigurationError

C = TypeVar("C")

MAX_WAIT_S: Final = 2.0
"""How long a reply waits in all for a provider that says when it may be asked again."""

may_wait: Final[ContextVar[bool]] = ContextVar("unpod_may_wait", default=True)
"""False where another adapter can be asked meanwhile: then a reply does not wait for its provider."""

_CODE: Final = re.compile(r"[a-z0-9_.-]{1,64}", re.IGNORECASE)
_MEANINGS: Final[dict[object, str]] = {
    **dict.fromkeys((401, 403, "authentication_error", "permission_error", "invalid_api_key"), "auth"),
    **dict.fromkeys((429, "rate_limit_error", "rate_limit_exceeded", "too_many_requests"), "rate_limited"),
    **dict.fromkeys((503, 529, "overloaded_error", "overloaded", "server_overloaded"), "overloaded"),
    **dict.fromkeys((408, 504, "timeout_error", "timeout"), "timeout"),
    **dict.fromkeys(("content_filter", "content_policy_violation"), "content_filter"),
}
_TRANSPORTS: Final = frozenset({"httpx", "httpx2", "httpcore", "httpcore2"})


def missing(adapter: str, package: str, extra: str) -> ConfigurationError:
    """Return the error for a package that an adapter needs and that is not installed."""
    return ConfigurationError(f"{adapter} needs the {package} package: pip install 'unpod[{extra}]'")


def named(adapter: str, brain: str | C | None, model: str | None, client: C | None) -> tuple[str, C | None]:
    """Return a model's name and a client, whichever of them was given first.

    Raises:
        ConfigurationError: nobody says which model.
    """
    if isinstance(brain, str):
        return brain, client
    if model is None:
        raise ConfigurationError(f'{adapter} needs the name of a model: {adapter}("...") or model="..."')
    return model, client if brain is None else brain


def http_error(
    provider: str, status: int, detail: object = None, headers: Mapping[str, str] | None = None
) -> AdapterError:
    """Return what a provider's refusal means; `code`: rate_limited, overloaded, auth, timeout or provider_error.

    Its message is left out: it may quote the key or the prompt. `detail` is its error code, kept if it looks like one;
    `headers` may say when it can be asked again.
    """
    return AdapterError(
        f"{provider} answered HTTP {status}{_shown(detail)}",
        code=_meaning(status, detail),
        retry_after_s=retry_after(headers or {}),
    )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return after how many seconds a provider may be asked again: `retry-after-ms`, else seconds or a date."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        with suppress(ValueError):
            seconds = float(headers.get(name, "")) * unit
            if math.isfinite(seconds) and seconds >= 0:
                return seconds
    with suppress(ValueError, TypeError, OverflowError):
        return max(0.0, parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - time.time())
    return None


def undisturbed(client: C, patched: Callable[[C], object]) -> C:
    """Return a vendor's client like `client`, on the same connections, that neither retries nor follows redirects.

    A caller waits, and what they say goes to no other host than the one that was named. A client that is none of the
    vendor's, or in which `patched` (what makes the requests) was replaced, as tracing libraries do, is used as it is.
    """
    copied: Callable[..., Any] | None = getattr(client, "with_options", None)
    if copied is None or "create" in vars(patched(client)):
        return client
    copy = copied(max_retries=0)
    post = copy.post

    def post_here(path: str, *, options: Mapping[str, Any] | None = None, **given: object) -> Any:  # noqa: ANN401
        return post(path, options={**(options or {}), "follow_redirects": False}, **given)

    copy.post = post_here
    return cast("C", copy)


def broken_off(provider: str, *details: object) -> AdapterError:
    """Return the error of a provider that says in mid-reply that it cannot go on; `details` are its own error codes."""
    shown = next((text for detail in details if (text := _shown(detail))), "")
    return AdapterError(f"{provider} broke the reply off{shown}", code=_meaning(*details))


def filtered(provider: str) -> AdapterError:
    """Return the error of a provider whose filter has kept a reply back, or cut it off."""
    return AdapterError(f"{provider} has kept the reply back: its content filter", code="content_filter")


def unfinished(provider: str, reason: str) -> AdapterError:
    """Return the error of a model that was stopped before it said anything, as by its limit of tokens."""
    return AdapterError(f"{provider} stopped before anything was said{_shown(reason)}", code="provider_error")


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


def _meaning(*details: object) -> str:
    found = (_MEANINGS.get(int(d) if isinstance(d, str) and d.isdecimal() else d) for d in details if _is_code(d))
    return next((meaning for meaning in found if meaning), "provider_error")


def _is_code(detail: object) -> bool:
    return isinstance(detail, int | str) and not isinstance(detail, bool)


def _shown(detail: object) -> str:
    if isinstance(detail, int) and _is_code(detail):
        return f" ({detail})"
    return f" ({detail})" if isinstance(detail, str) and _CODE.fullmatch(detail) else ""
