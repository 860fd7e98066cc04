"""Where the management API is, and who asks: arguments first, then the environment, then the hosted service."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import httpx2

from unpod.errors import ConfigurationError
from unpod.management.auth import Auth, BearerAuth, TokenAuth

_HOSTED = "https://api.unpod.ai/platform"
_PLATFORM = "/platform"
_ORCHESTRATOR = "/orchestrator"
_SCHEMES = {"https": "https", "wss": "https", "http": "http", "ws": "http"}
_HEADER_VALUE = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True)
class RestSettings:
    """The two base URLs, without a slash at the end, and the headers that say who asks."""

    base_url: str
    orchestrator_base_url: str
    headers: Mapping[str, str] = field(repr=False)


def resolve(
    api_key: str | None,
    base_url: str | None,
    orchestrator_base_url: str | None,
    environ: Mapping[str, str],
    auth: Auth | None = None,
) -> RestSettings:
    """Return the settings for a client; `auth` counts before everything that names a credential.

    Raises:
        ConfigurationError: there is no credential, or a value cannot be used; the text names the variable.
    """
    base = _given(base_url, environ, "UNPOD_SERVICE_BASE_URL") or _derived(environ) or _HOSTED
    orchestrator = _given(orchestrator_base_url, environ, "UNPOD_ORCHESTRATOR_BASE_URL")
    if not orchestrator:
        orchestrator = base.removesuffix(_PLATFORM) + _ORCHESTRATOR if base.endswith(_PLATFORM) else base
    return RestSettings(base, orchestrator, _given_headers(auth) if auth is not None else _credential(api_key, environ))


def _given(argument: str | None, environ: Mapping[str, str], variable: str) -> str:
    url = ((argument or "").strip() or environ.get(variable, "").strip()).rstrip("/")
    if url and not _host_of(url):
        raise ConfigurationError(f"the base URL in {variable} (or its argument) is not an http or https URL")
    return url


def _derived(environ: Mapping[str, str]) -> str:
    """Return the management base on the host of `UNPOD_BASE_URL`, which has any of five forms; "" where it is unset."""
    value = environ.get("UNPOD_BASE_URL", "").strip()
    if not value:
        return ""
    scheme, separator, rest = value.rpartition("://") if "://" in value else ("https", "://", value)
    plain = _SCHEMES.get(scheme.lower(), "")
    host = _host_of(f"{plain}{separator}{rest}")
    if not host:
        raise ConfigurationError("UNPOD_BASE_URL is neither a host name nor an https, http, wss or ws URL")
    return f"{plain}://{host}{_PLATFORM}"


def _host_of(url: str) -> str:
    """Return host and port of an http or https URL; "" where it is none, or one with a user and password."""
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL:
        return ""
    usable = parsed.scheme in {"http", "https"} and parsed.host and "%" not in parsed.host and not parsed.userinfo
    return parsed.netloc.decode("ascii") if usable else ""


def _given_headers(auth: Auth) -> dict[str, str]:
    headers = auth.headers()
    for name, value in headers.items():
        for word in value.split(" "):
            _sendable(word, f"{name} of auth=")
    return headers


def _credential(api_key: str | None, environ: Mapping[str, str]) -> dict[str, str]:
    token = environ.get("UNPOD_PLATFORM_TOKEN", "").strip()
    if token:
        org = environ.get("UNPOD_ORG_HANDLE", "").strip()
        return TokenAuth(
            _sendable(token, "UNPOD_PLATFORM_TOKEN"), _sendable(org, "UNPOD_ORG_HANDLE") if org else None
        ).headers()
    key = (api_key or "").strip() or environ.get("UNPOD_API_KEY", "").strip()
    if not key:
        raise ConfigurationError("there is no API key: set UNPOD_API_KEY, or pass api_key=")
    return BearerAuth(_sendable(key, "UNPOD_API_KEY")).headers()


def _sendable(value: str, variable: str) -> str:
    if not _HEADER_VALUE.fullmatch(value):
        raise ConfigurationError(f"{variable} (or its argument) has a character in it that no HTTP header can carry")
    return value
