"""What operators look at: NATS micro services, and health over HTTP. Runners and bridges both have them."""

from __future__ import annotations

from unpod.ops.health import HealthServer, health_port
from unpod.ops.log_health import LogHealth
from unpod.ops.micro import Endpoint, MicroService

__all__ = ["Endpoint", "HealthServer", "LogHealth", "MicroService", "health_port"]
