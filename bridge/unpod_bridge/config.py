"""Everything that a bridge reads from its environment, read once. A blank variable is an unset one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import SplitResult, urlsplit

from unpod.core.subjects import DEFAULT_PREFIX, Subjects
from unpod.errors import ConfigurationError, UnsafeIdentifier
from unpod.jetstream import NatsOptions, StreamSettings, nats_options, parse_urls, stream_settings
from unpod.ops import health_port
from unpod_bridge.transport.serving import Serving, serving
from unpod_bridge.workers.host_info import Description, describe

DEFAULT_ORCHESTRATOR: Final = "wss://api.unpod.ai"
CONTROL_PATH: Final = "/v1/internal/workers"
SYSTEM_URL: Final = "UNPOD_NATS_SYSTEM_URL"

_SCHEMES: Final = {"https": "wss", "wss": "wss", "http": "ws", "ws": "ws"}
_INSTEAD_OF_A_KEY: Final = "UNPOD_PLATFORM_TOKEN and UNPOD_ORG_HANDLE, or set UNPOD_API_KEY"
_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


@dataclass(frozen=True, slots=True)
class Credential:
    """As whom a bridge registers workers; `named` is what to look at where it is refused."""

    headers: Mapping[str, str] = field(repr=False)
    named: str = "UNPOD_API_KEY"


@dataclass(frozen=True, slots=True)
class BridgeConfig:
    """How one bridge runs; neither the credential nor what is secret about NATS is in its `repr`.

    `system` is a connection to NATS's system account, where deaths are told at once. With `serving`, workers dial in.
    """

    credential: Credential
    nats: NatsOptions = field(repr=False)
    system: NatsOptions | None = field(default=None, repr=False)
    orchestrator_url: str = DEFAULT_ORCHESTRATOR
    prefix: str = DEFAULT_PREFIX
    log_level: str = "INFO"
    where: Description = field(default_factory=Description)
    serving: Serving | None = None
    streams: StreamSettings = field(default_factory=StreamSettings)
    health_port: int | None = None

    @classmethod
    def from_env(
        cls,
        environment: Mapping[str, str] | None = None,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        nats_url: str | None = None,
        port: int | None = None,
    ) -> BridgeConfig:
        """Return the configuration; an argument that is given wins over its variable.

        Raises:
            ConfigurationError: something is missing or cannot be used; the text names its variable.
        """
        full = os.environ if environment is None else environment
        found = {name: value.strip() for name, value in full.items() if value.strip()}
        return cls(
            credential=credential(found, api_key),
            nats=_nats(found, _given(nats_url)),
            system=_system(found),
            orchestrator_url=orchestrator_url(found, base_url),
            prefix=_prefix(found),
            log_level=log_level(found),
            where=describe(found),
            serving=serving(
                found.get("UNPOD_RUNNER_URL", ""),
                found.get("UNPOD_AGENT_SECRET", ""),
                found.get("UNPOD_TRANSPORT", "").lower(),
            ),
            streams=stream_settings(found),
            health_port=health_port(found, port),
        )


def credential(found: Mapping[str, str], api_key: str | None = None) -> Credential:
    """Return the API key, or without one the platform token with its organisation.

    Raises:
        ConfigurationError: there is neither, or it cannot be sent.
    """
    if key := _given(api_key) or found.get("UNPOD_API_KEY", ""):
        return Credential({"Authorization": f"Bearer {_sendable('UNPOD_API_KEY', key)}"})
    token, org = found.get("UNPOD_PLATFORM_TOKEN", ""), found.get("UNPOD_ORG_HANDLE", "")
    if not token:
        raise ConfigurationError("UNPOD_API_KEY is not set: export the key of your Unpod account")
    if not org:
        raise ConfigurationError("UNPOD_ORG_HANDLE is not set: with UNPOD_PLATFORM_TOKEN, name its organisation")
    token, org = _sendable("UNPOD_PLATFORM_TOKEN", token), _sendable("UNPOD_ORG_HANDLE", org)
    return Credential({"Authorization": f"Token {token}", "Org-Handle": org}, _INSTEAD_OF_A_KEY)


def orchestrator_url(environment: Mapping[str, str], base_url: str | None = None) -> str:
    """Return the orchestrator's WebSocket base, without a slash at its end.

    The first that is set counts: `base_url`, `UNPOD_ORCHESTRATOR_URL`, the host of `UNPOD_BASE_URL`, the public one.
    Each may be a bare host or an https, http, wss or ws URL; http and ws give `ws://`, all else `wss://`.

    Raises:
        ConfigurationError: it is none of these.
    """
    for name, value in (
        ("base_url", base_url),
        ("UNPOD_ORCHESTRATOR_URL", environment.get("UNPOD_ORCHESTRATOR_URL")),
    ):
        if _given(value):
            scheme, parts = _split(name, _given(value))
            return f"{scheme}://{parts.netloc}{parts.path.rstrip('/')}"
    public = _given(environment.get("UNPOD_BASE_URL"))
    if public:
        scheme, parts = _split("UNPOD_BASE_URL", public)
        return f"{scheme}://{parts.netloc}"
    return DEFAULT_ORCHESTRATOR


def readable(url: str) -> str:
    """Return a URL as people may read it: without user, password and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def log_level(environment: Mapping[str, str]) -> str:
    """Return the level that `UNPOD_LOG_LEVEL` names, else INFO.

    Raises:
        ConfigurationError: it is no level.
    """
    level = _given(environment.get("UNPOD_LOG_LEVEL")).upper() or "INFO"
    if level not in _LEVELS:
        raise ConfigurationError(f"UNPOD_LOG_LEVEL is {level[:40]!r}: give one of {', '.join(_LEVELS).lower()}")
    return level


def _split(name: str, text: str) -> tuple[str, SplitResult]:
    complaint = ConfigurationError(f"{name} is no host and no https, http, wss or ws URL: give wss://host[:port]")
    try:
        parts = urlsplit(text if "://" in text else f"wss://{text}")
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise complaint from None
    scheme = _SCHEMES.get(parts.scheme.lower())
    if scheme is None or not usable or not text.isprintable() or " " in text:
        raise complaint
    return scheme, parts


def _sendable(name: str, value: str) -> str:
    if not (value.isascii() and value.isprintable()):
        raise ConfigurationError(f"{name} holds characters that no key has: copy it again")
    return value


def _nats(found: Mapping[str, str], argument: str) -> NatsOptions:
    options = nats_options(found, argument, no_echo=True)  # what this bridge has written it knows
    if options is None:
        raise ConfigurationError(
            "UNPOD_NATS_URL is not set: a bridge needs the NATS server that its runners use, say nats://localhost:4222"
        )
    return replace(options, name="unpod-bridge")


def _system(found: Mapping[str, str]) -> NatsOptions | None:
    text = found.get(SYSTEM_URL, "")
    if not text:
        return None
    return NatsOptions(urls=parse_urls(text), name="unpod-bridge-system", variable=SYSTEM_URL)


def _prefix(found: Mapping[str, str]) -> str:
    prefix = found.get("UNPOD_SUBJECT_PREFIX", DEFAULT_PREFIX)
    try:
        Subjects(prefix)
    except UnsafeIdentifier as error:
        raise ConfigurationError(f"UNPOD_SUBJECT_PREFIX: {error}") from None
    return prefix


def _given(text: str | None) -> str:
    return (text or "").strip()
