"""Where this process runs, as the orchestrator is told: host, address, region, cloud or local.

It never fails: what cannot be found out is None, and an override that makes no sense is ignored, with a warning.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

logger = logging.getLogger("unpod.bridge")

REGIONS: Final = (
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "GOOGLE_CLOUD_REGION",
    "CLOUD_RUN_REGION",
    "FUNCTION_REGION",
    "FLY_REGION",
    "RAILWAY_REPLICA_REGION",
    "RAILWAY_REGION",
    "REGION",
)
"""Where platforms say in which region a process runs; the first that is set counts."""

CLOUDS: Final = (
    "KUBERNETES_SERVICE_HOST",
    "ECS_CONTAINER_METADATA_URI_V4",
    "ECS_CONTAINER_METADATA_URI",
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_EXECUTION_ENV",
    "K_SERVICE",  # Cloud Run
    "CLOUD_RUN_JOB",
    "GAE_SERVICE",
    "GAE_ENV",
    "FLY_APP_NAME",
    "FLY_MACHINE_ID",
    "RAILWAY_ENVIRONMENT",
    "RAILWAY_ENVIRONMENT_ID",
    "RAILWAY_SERVICE_ID",
    "RENDER",
    "DYNO",  # Heroku
    "WEBSITE_INSTANCE_ID",  # Azure App Service
    "CONTAINER_APP_NAME",  # Azure Container Apps
    "MODAL_TASK_ID",
    "CEREBRIUM_DEPLOYMENT_ID",
    "BASETEN_DEPLOYMENT_ID",
)
"""Variables that only a platform sets."""

_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?\Z")
_REGION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,63}\Z")
_ELSEWHERE: Final = ("192.0.2.1", 9)  # TEST-NET: a UDP socket "connected" to it sends nothing, but has a source address


@dataclass(frozen=True, slots=True)
class Description:
    """Where a worker runs."""

    hostname: str | None = None
    address: str | None = None
    region: str | None = None
    deployment: Literal["cloud", "local"] = "local"


def describe(
    environment: Mapping[str, str],
    *,
    hostname: Callable[[], str | None] | None = None,
    address: Callable[[], str | None] | None = None,
) -> Description:
    """Return where this process runs; `hostname` and `address` find out what no variable says."""
    return Description(
        hostname=_override(environment, "HOSTNAME", _HOST.match) or _checked((hostname or host_name)(), _HOST.match),
        address=_override(environment, "ADDRESS", _reachable) or _checked((address or source_address)(), _reachable),
        region=_override(environment, "REGION", _REGION.match) or _region(environment),
        deployment=_deployment(environment),
    )


def host_name() -> str | None:
    """Return this machine's name, or None."""
    try:
        return socket.gethostname()
    except OSError:
        return None


def source_address() -> str | None:
    """Return the address from which this machine talks to others, or None; nothing is sent."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(_ELSEWHERE)
            return str(probe.getsockname()[0])
    except OSError:
        return None


def _deployment(environment: Mapping[str, str]) -> Literal["cloud", "local"]:
    wanted = _override(environment, "DEPLOYMENT", lambda text: text.lower() in {"cloud", "local"})
    if wanted is not None:
        return "cloud" if wanted.lower() == "cloud" else "local"
    return "cloud" if any(environment.get(name, "").strip() for name in CLOUDS) else "local"


def _region(environment: Mapping[str, str]) -> str | None:
    found = (_checked(environment.get(name, "").strip(), _REGION.match) for name in REGIONS)
    return next((region for region in found if region), None)


def _override(environment: Mapping[str, str], name: str, valid: Callable[[str], object]) -> str | None:
    text = environment.get(f"UNPOD_WORKER_{name}", "").strip()
    if not text:
        return None
    if valid(text):
        return text
    logger.warning("UNPOD_WORKER_%s makes no sense and is ignored", name)
    return None


def _checked(text: str | None, valid: Callable[[str], object]) -> str | None:
    return text if text and valid(text) else None


def _reachable(text: str) -> bool:
    """Return whether a text is an IP address or a host's name."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return _HOST.match(text) is not None
    return True
