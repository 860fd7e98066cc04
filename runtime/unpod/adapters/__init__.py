"""Adapters: the protocol that a dialog adapter fulfils, and the adapters that come with unpod."""

from importlib import import_module
from typing import TYPE_CHECKING

from unpod.adapters.adapter import AdapterView, check_adapter
from unpod.adapters.call_scope import CallScope, call_scope
from unpod.adapters.echo import EchoAdapter
from unpod.adapters.fallback import FallbackAdapter
from unpod.adapters.generator import GeneratorAdapter
from unpod.adapters.pieces import ChatMessage, LLMCall, Piece, ToolCall, ToolResult
from unpod.adapters.protocol import DialogAdapter, ReplyContext
from unpod.adapters.scripted import Pause, Rule, ScriptedAdapter
from unpod.adapters.shared import close_clients
from unpod.adapters.tools import Tool
from unpod.adapters.wrapping import DialogMachine

if TYPE_CHECKING:
    from unpod.adapters.anthropic import AnthropicAdapter
    from unpod.adapters.chat import ChatAdapter
    from unpod.adapters.http import HTTPAdapter
    from unpod.adapters.langchain import LangChainAdapter
    from unpod.adapters.mcp import MCPAdapter, MCPServer
    from unpod.adapters.metering import Price
    from unpod.adapters.openai import OpenAIAdapter
    from unpod.adapters.superdialog import SuperDialogAdapter

__all__ = [
    "AdapterView",
    "AnthropicAdapter",
    "CallScope",
    "ChatAdapter",
    "ChatMessage",
    "DialogAdapter",
    "DialogMachine",
    "EchoAdapter",
    "FallbackAdapter",
    "GeneratorAdapter",
    "HTTPAdapter",
    "LLMCall",
    "LangChainAdapter",
    "MCPAdapter",
    "MCPServer",
    "OpenAIAdapter",
    "Pause",
    "Piece",
    "Price",
    "ReplyContext",
    "Rule",
    "ScriptedAdapter",
    "SuperDialogAdapter",
    "Tool",
    "ToolCall",
    "ToolResult",
    "call_scope",
    "check_adapter",
    "close_clients",
]

# The vendors' packages are extras, and they, an HTTP client and a list of prices are slow to import, a quarter of what
# a runner takes to start: only for those who name the adapter.
_LATER = {
    "AnthropicAdapter": "unpod.adapters.anthropic",
    "ChatAdapter": "unpod.adapters.chat",
    "HTTPAdapter": "unpod.adapters.http",
    "LangChainAdapter": "unpod.adapters.langchain",
    "MCPAdapter": "unpod.adapters.mcp",
    "MCPServer": "unpod.adapters.mcp",
    "OpenAIAdapter": "unpod.adapters.openai",
    "Price": "unpod.adapters.metering",
    "SuperDialogAdapter": "unpod.adapters.superdialog",
}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(_LATER[name]), name)
    globals()[name] = found
    return found
