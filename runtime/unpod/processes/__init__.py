"""Child processes that never outlive their parent, and the embedded nats-server as one of them."""

from __future__ import annotations

from unpod.processes.children import ChildProcess, spawn_child
from unpod.processes.embedded import EmbeddedOptions, EmbeddedServer

__all__ = ["ChildProcess", "EmbeddedOptions", "EmbeddedServer", "spawn_child"]
