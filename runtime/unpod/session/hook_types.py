"""What the hooks of each event are called with, for type checkers; `hooks.EVENTS` has the same for people.

A hook may be sync or async. Each type variable stands for the function itself, which a decorator returns as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeVar, Unpack

from unpod.core.own_hooks import ModelCallFields, TurnFields
from unpod.session.frame_view import FrameView

TextEvent = Literal["user_turn", "user_partial", "agent_turn", "call_end"]
BareEvent = Literal["call_start", "interruption"]
ToolEvent = Literal["tool_call", "tool_result"]
FrameEvent = Literal["metric", "state"]


class OnModelCall(Protocol):
    """A hook of `llm_call`."""

    def __call__(self, **fields: Unpack[ModelCallFields]) -> object:
        """Take note of a model call."""


class OnTurn(Protocol):
    """A hook of `turn_complete`."""

    def __call__(self, **fields: Unpack[TurnFields]) -> object:
        """Take note of a turn."""


BareHook = TypeVar("BareHook", bound=Callable[[], object])
TextHook = TypeVar("TextHook", bound=Callable[[str], object])
ToolHook = TypeVar("ToolHook", bound=Callable[[str, Any, str], object])
SilenceHook = TypeVar("SilenceHook", bound=Callable[[float], object])
FrameHook = TypeVar("FrameHook", bound=Callable[[FrameView], object])
ErrorHook = TypeVar("ErrorHook", bound=Callable[[str, str, str, str], object])
ModelCallHook = TypeVar("ModelCallHook", bound=OnModelCall)
TurnHook = TypeVar("TurnHook", bound=OnTurn)
