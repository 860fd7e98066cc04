"""Where workers dial in, on the serve transport: what the environment says of it. Pure."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from unpod.errors import ConfigurationError

DEFAULT_PORT: Final = 8765
TRANSPORTS: Final = ("dial_out", "serve")
_SCHEMES: Final = ("ws", "wss", "http", "https")


@dataclass(frozen=True, slots=True)
class Serving:
    """The URL as it is registered, where to listen (`host` None: on all interfaces), and the agent's secret."""

    url: str = field(repr=False)
    host: str | None
    port: int
    secret: str = field(default="", repr=False)


def serving(url: str, secret: str, transport: str = "") -> Serving | None:
    """Return where to listen; None where calls are dialled out.

    Workers dial in with `transport` `serve`, or with both a URL and a secret where no transport is named: a URL alone
    asks for nothing, since a host may have one anyway. A literal IP is bound as it is; a name stands for all
    interfaces, since it may be a proxy's.

    Raises:
        ConfigurationError: the URL cannot be used, or is missing; there is no such transport.
    """
    if transport not in {"", *TRANSPORTS}:
        raise ConfigurationError(f"UNPOD_TRANSPORT is {transport[:40]!r}: give one of {', '.join(TRANSPORTS)}")
    if transport == "dial_out":
        return None
    if not url:
        if secret or transport:
            name = "UNPOD_AGENT_SECRET" if secret else "UNPOD_TRANSPORT"
            raise ConfigurationError(
                f"{name} is set, and UNPOD_RUNNER_URL is not: set the URL under which workers dial in, or unset {name}"
            )
        return None
    complaint = ConfigurationError("UNPOD_RUNNER_URL is no ws, wss, http or https URL: give ws://host[:port]")
    try:
        parts = urlsplit(url if "://" in url else f"ws://{url}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise complaint from None
    if parts.scheme.lower() not in _SCHEMES or not host or port == 0 or not url.isprintable() or " " in url:
        raise complaint
    if not (secret or transport):
        return None
    return Serving(url, _bound(host), DEFAULT_PORT if port is None else port, secret)


def _bound(host: str) -> str | None:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return None
