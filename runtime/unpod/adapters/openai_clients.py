"""Clients of OpenAI-compatible endpoints, and what their errors mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from unpod.adapters.shared import shared
from unpod.adapters.vendors import broken_off, disconnected, http_error, missing, timed_out
from unpod.errors import AdapterError, ConfigurationError

if TYPE_CHECKING:
    import openai

_CONNECT_S: Final = 5.0


def shared_client(user: object, api_key: str | None, base_url: str | None, timeout_s: float) -> openai.AsyncOpenAI:
    """Return the running event loop's client for these settings, made when it is first asked for.

    Raises:
        ConfigurationError: the package or the key is missing.
    """
    try:
        import openai  # noqa: PLC0415 - comes with an extra
    except ImportError:
        raise missing("OpenAIAdapter", "openai", "openai") from None

    def make() -> openai.AsyncOpenAI:
        timeout = openai.Timeout(timeout_s, connect=min(_CONNECT_S, timeout_s))
        try:
            # No retries: a caller waits, and a provider may ask for a minute. The call goes on after an error.
            return openai.AsyncOpenAI(
                api_key=api_key,
                base_url=base_url,
                timeout=timeout,
                max_retries=0,
                # What the caller says goes to no other host than the one that was named.
                http_client=openai.DefaultAsyncHttpx2Client(follow_redirects=False, timeout=timeout),
            )
        except openai.OpenAIError:
            msg = "OpenAIAdapter has no API key: set OPENAI_API_KEY, or pass api_key= (any, for a server without keys)"
            raise ConfigurationError(msg) from None

    return shared(user, openai.AsyncOpenAI, (api_key, base_url, timeout_s), make)


def adapter_error(error: openai.OpenAIError, provider: str) -> AdapterError:
    """Return what a provider's error means; `code`: rate_limited, overloaded, auth, timeout, … (`vendors`)."""
    import openai  # noqa: PLC0415 - see above

    if isinstance(error, openai.APITimeoutError):
        return timed_out(provider)
    if isinstance(error, openai.APIConnectionError):
        return disconnected(provider)
    if isinstance(error, openai.APIStatusError):
        return http_error(provider, error.status_code, error.code or error.type, error.response.headers)
    if isinstance(error, openai.APIError):
        return broken_off(provider, error.code, error.type)
    return AdapterError(f"{provider}: {type(error).__name__}", code="provider_error")
