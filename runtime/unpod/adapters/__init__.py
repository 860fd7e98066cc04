"""Brains: the protocol that a dialog adapter fulfils, and the adapters that come with unpod."""

from unpod.adapters.echo import EchoAdapter
from unpod.adapters.openai import OpenAIAdapter
from unpod.adapters.openai_clients import close_clients
from unpod.adapters.pieces import ChatMessage, LLMCall, Piece, ToolCall, ToolResult
from unpod.adapters.protocol import DialogAdapter
from unpod.adapters.scripted import Pause, Rule, ScriptedAdapter
from unpod.adapters.view import AdapterView, check_adapter

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
