"""Connections to OpenAI-compatible endpoints, shared by all calls of a process, and what their errors mean.

A connection pool for each call would pay a TLS handshake in the first turn of each; so adapters with the same settings
share one.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from unpod.errors import AdapterError, ConfigurationError

if TYPE_CHECKING:
    import openai

_Settings = tuple[str | None, str | None, float]
_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[_Settings, openai.AsyncOpenAI]] = WeakKeyDictionary()

_CONNECT_S = 5.0
_CODE = re.compile(r"[a-z0-9_.-]{1,64}", re.IGNORECASE)
_AUTH = (401, 403)
_RATE_LIMITED = 429
_TIMEOUTS = (408, 504)


def shared_client(api_key: str | None, base_url: str | None, timeout_s: float) -> openai.AsyncOpenAI:
    """Return the running event loop's client for these settings, made when it is first asked for.

    Raises:
        ConfigurationError: the package or the key is missing.
    """
    try:
        import openai  # noqa: PLC0415 - comes with an extra
    except ImportError:
        msg = 'OpenAIAdapter needs the openai package: pip install "unpod[openai]"'
        raise ConfigurationError(msg) from None
    clients = _clients.setdefault(asyncio.get_running_loop(), {})
    settings = (api_key, base_url, timeout_s)
    if settings not in clients:
        timeout = openai.Timeout(timeout_s, connect=min(_CONNECT_S, timeout_s))
        try:
            # No retries: a caller waits, and a provider may ask for a minute. The call goes on after an error.
            clients[settings] = openai.AsyncOpenAI(api_key=api_key, base_url=base_url, timeout=timeout, max_retries=0)
        except openai.OpenAIError:
            msg = "OpenAIAdapter has no API key: set OPENAI_API_KEY, or pass api_key= (any, for a server without keys)"
            raise ConfigurationError(msg) from None
    return clients[settings]


async def close_clients() -> None:
    """Close the running event loop's shared connections; the next adapter opens new ones."""
    for client in _clients.pop(asyncio.get_running_loop(), {}).values():
        await client.close()


def adapter_error(error: openai.OpenAIError, provider: str) -> AdapterError:
    """Return what a provider's error means; `code`: rate_limited, auth, timeout, connection or provider_error.

    The provider's message is left out: it may quote the key or the prompt. Its error code is kept.
    """
    import openai  # noqa: PLC0415 - see above

    if isinstance(error, openai.APITimeoutError):
        return AdapterError(f"{provider} did not answer in time", code="timeout")
    if isinstance(error, openai.APIConnectionError):
        return AdapterError(f"the connection to {provider} failed or was lost", code="connection")
    if isinstance(error, openai.APIStatusError):
        detail = _detail(error)
        return AdapterError(f"{provider} answered HTTP {error.status_code}{detail}", code=_meaning(error.status_code))
    if isinstance(error, openai.APIError):
        return AdapterError(f"{provider} broke the reply off{_detail(error)}", code="provider_error")
    return AdapterError(f"{provider}: {type(error).__name__}", code="provider_error")


def _meaning(status: int) -> str:
    if status in _AUTH:
        return "auth"
    if status == _RATE_LIMITED:
        return "rate_limited"
    return "timeout" if status in _TIMEOUTS else "provider_error"


def _detail(error: openai.APIError) -> str:
    code = error.code or error.type
    return f" ({code})" if isinstance(code, str) and _CODE.fullmatch(code) else ""
