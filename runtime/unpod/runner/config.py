"""Everything that a runner reads from its environment, read once, when it starts. A blank variable is an unset one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from unpod.core.subjects import DEFAULT_PREFIX, Subjects
from unpod.dot_env import environment as process_environment
from unpod.errors import ConfigurationError, UnsafeIdentifier
from unpod.jetstream.connection.environment import NATS_VARIABLES, nats_options
from unpod.jetstream.connection.options import NatsOptions
from unpod.jetstream.streams.sizing import StreamSettings, stream_settings
from unpod.ops.health import VARIABLE as HEALTH_PORT
from unpod.ops.health import health_port

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_DATA_DIR = ".unpod"


@dataclass(frozen=True, slots=True)
class RunnerConfig:
    """How one runner runs.

    `nats` is the fleet's NATS, or None where the runner starts a server and a bridge of its own. `bridge_environment`
    is what that bridge gets, the API key or platform token included; only the address of NATS is added later.
    """

    nats: NatsOptions | None = field(repr=False)
    prefix: str = DEFAULT_PREFIX
    data_dir: Path = Path(_DATA_DIR)
    log_level: str = ""
    streams: StreamSettings = field(default_factory=StreamSettings)
    health_port: int | None = None
    bridge_environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    def connection(self, name: str) -> NatsOptions:
        """Return how to connect to the fleet's NATS, as `name`.

        Raises:
            ConfigurationError: there is no fleet.
        """
        if self.nats is None:
            raise ConfigurationError("UNPOD_NATS_URL is not set")
        return replace(self.nats, name=name)


def read_config(
    *,
    api_key: str | None = None,
    platform_token: str | None = None,
    org_handle: str | None = None,
    base_url: str | None = None,
    nats_url: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    port: int | None = None,
    transport: str | None = None,
    serving_url: str | None = None,
    agent_secret: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> RunnerConfig:
    """Return the configuration; an argument that is given wins over its variable.

    Raises:
        ConfigurationError: something is missing or cannot be used; nothing has been started.
    """
    full = process_environment() if environment is None else environment
    found = {name: value.strip() for name, value in full.items() if value.strip()}
    prefix = found.get("UNPOD_SUBJECT_PREFIX", DEFAULT_PREFIX)
    try:
        Subjects(prefix)
    except UnsafeIdentifier as error:
        raise ConfigurationError(f"UNPOD_SUBJECT_PREFIX: {error}") from None
    nats = nats_options(found, (nats_url or "").strip(), no_echo=True)
    if (platform_token or "").strip():  # an argument wins over the variable of the other kind, too
        found.pop("UNPOD_API_KEY", None)
        full = {name: value for name, value in full.items() if name != "UNPOD_API_KEY"}
    key = (api_key or "").strip() or found.get("UNPOD_API_KEY", "")
    token = (platform_token or "").strip() or found.get("UNPOD_PLATFORM_TOKEN", "")
    org = (org_handle or "").strip() or found.get("UNPOD_ORG_HANDLE", "")
    if nats is None and not (key or token):
        raise ConfigurationError(
            "UNPOD_API_KEY is not set: export the key of your Unpod account, or pass AgentRunner(api_key=...)"
        )
    if nats is None and not (key or org):
        raise ConfigurationError(
            "UNPOD_ORG_HANDLE is not set: with a platform token, export its organisation, or pass "
            "AgentRunner(org_handle=...)"
        )
    for_bridge = {
        "UNPOD_API_KEY": key,
        "UNPOD_PLATFORM_TOKEN": token,
        "UNPOD_ORG_HANDLE": org,
        "UNPOD_ORCHESTRATOR_URL": base_url,
        "UNPOD_TRANSPORT": transport,
        "UNPOD_RUNNER_URL": serving_url,
        "UNPOD_AGENT_SECRET": agent_secret,
    }
    return RunnerConfig(
        nats=nats,
        prefix=prefix,
        data_dir=Path(data_dir if data_dir is not None else found.get("UNPOD_DATA_DIR", _DATA_DIR)),
        log_level=_log_level(found),
        streams=stream_settings(found),
        health_port=health_port(found, port),
        bridge_environment=_bridge_environment(full, for_bridge) if nats is None else {},
    )


def _log_level(found: Mapping[str, str]) -> str:
    level = found.get("UNPOD_LOG_LEVEL", "").upper()
    if level and level not in _LEVELS:
        raise ConfigurationError(f"UNPOD_LOG_LEVEL is {level[:40]!r}: give one of {', '.join(_LEVELS).lower()}")
    return level


def _bridge_environment(full: Mapping[str, str], given: Mapping[str, str | None]) -> dict[str, str]:
    ours = {*NATS_VARIABLES, HEALTH_PORT}
    environment = {name: value for name, value in full.items() if name not in ours}
    return environment | {name: value.strip() for name, value in given.items() if value and value.strip()}
