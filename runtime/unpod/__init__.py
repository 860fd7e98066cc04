"""An event-sourced runtime for voice agents: the call lives in a log, so the process that talks may die.

The public names. Each is loaded at its first use, so `import unpod` costs nothing that is not needed.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unpod.adapters import (
        ChatMessage,
        DialogAdapter,
        EchoAdapter,
        LLMCall,
        OpenAIAdapter,
        ScriptedAdapter,
        ToolCall,
        ToolResult,
    )
    from unpod.core.metrics import CallMetrics
    from unpod.errors import (
        AdapterError,
        APIError,
        ConfigurationError,
        ControlRefused,
        ControlUnanswered,
        OrchestratorTooOld,
        RunnerAuthError,
        SessionClosed,
        SessionUnknown,
        UnknownEvent,
        UnpodError,
        UnsupportedControl,
    )
    from unpod.logs import enable_logging
    from unpod.management import AsyncClient, Client
    from unpod.management.auth import Auth, BearerAuth, JWTAuth, TokenAuth
    from unpod.runner.context import CallContext
    from unpod.runner.runner import AgentRunner
    from unpod.runner.stats import RunnerStats
    from unpod.session.outcomes import CommandHandle, Outcome
    from unpod.session.session import MetricsTracker, Session

__all__ = [
    "APIError",
    "AdapterError",
    "AgentRunner",
    "AsyncClient",
    "Auth",
    "BearerAuth",
    "CallContext",
    "CallMetrics",
    "ChatMessage",
    "Client",
    "CommandHandle",
    "ConfigurationError",
    "ControlRefused",
    "ControlUnanswered",
    "DialogAdapter",
    "EchoAdapter",
    "JWTAuth",
    "LLMCall",
    "MetricsTracker",
    "OpenAIAdapter",
    "OrchestratorTooOld",
    "Outcome",
    "RunnerAuthError",
    "RunnerStats",
    "ScriptedAdapter",
    "Session",
    "SessionClosed",
    "SessionUnknown",
    "TokenAuth",
    "ToolCall",
    "ToolResult",
    "UnknownEvent",
    "UnpodError",
    "UnsupportedControl",
    "enable_logging",
]

_HOMES = {
    "unpod.adapters": (
        "ChatMessage",
        "DialogAdapter",
        "EchoAdapter",
        "LLMCall",
        "OpenAIAdapter",
        "ScriptedAdapter",
        "ToolCall",
        "ToolResult",
    ),
    "unpod.core.metrics": ("CallMetrics",),
    "unpod.errors": (
        "APIError",
        "AdapterError",
        "ConfigurationError",
        "ControlRefused",
        "ControlUnanswered",
        "OrchestratorTooOld",
        "RunnerAuthError",
        "SessionClosed",
        "SessionUnknown",
        "UnknownEvent",
        "UnpodError",
        "UnsupportedControl",
    ),
    "unpod.logs": ("enable_logging",),
    "unpod.management": ("AsyncClient", "Client"),
    "unpod.management.auth": ("Auth", "BearerAuth", "JWTAuth", "TokenAuth"),
    "unpod.runner.context": ("CallContext",),
    "unpod.runner.runner": ("AgentRunner",),
    "unpod.runner.stats": ("RunnerStats",),
    "unpod.session.outcomes": ("CommandHandle", "Outcome"),
    "unpod.session.session": ("MetricsTracker", "Session"),
}
logging.getLogger(__name__).addHandler(logging.NullHandler())  # a library prints nothing that nobody asked for

_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
