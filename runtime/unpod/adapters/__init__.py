"""Brains: the protocol that a dialog adapter fulfils, and the adapters that come with unpod."""

from importlib import import_module
from typing import TYPE_CHECKING

from unpod.adapters.echo import EchoAdapter
from unpod.adapters.pieces import ChatMessage, LLMCall, Piece, ToolCall, ToolResult
from unpod.adapters.protocol import DialogAdapter
from unpod.adapters.scripted import Pause, Rule, ScriptedAdapter
from unpod.adapters.view import AdapterView, check_adapter

if TYPE_CHECKING:
    from unpod.adapters.openai import OpenAIAdapter
    from unpod.adapters.openai_clients import close_clients

__all__ = [
    "AdapterView",
    "ChatMessage",
    "DialogAdapter",
    "EchoAdapter",
    "LLMCall",
    "OpenAIAdapter",
    "Pause",
    "Piece",
    "Rule",
    "ScriptedAdapter",
    "ToolCall",
    "ToolResult",
    "check_adapter",
    "close_clients",
]

# The vendors' packages are extras, and slow to import: only for those who name the adapter.
_VENDORS = {"OpenAIAdapter": "unpod.adapters.openai", "close_clients": "unpod.adapters.openai_clients"}


def __getattr__(name: str) -> object:
    if name not in _VENDORS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(_VENDORS[name]), name)
    globals()[name] = found
    return found
