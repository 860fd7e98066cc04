"""Imports nats-py without aiohttp, which it needs for WebSockets only: that saves two fifths of a process's start.

`parse_urls` takes no WebSocket URL. A program that gives such a URL to nats-py itself gets aiohttp after all: the
stand-in imports it at its first use.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Final

_LATER: Final = ("aiohttp", "multidict")


class _AtFirstUse(ModuleType):
    """Stands for a module that is imported when something of it is asked for."""

    def __getattr__(self, name: str) -> object:
        return getattr(import_module(self.__name__), name)


def _import_nats() -> None:
    stand_ins = {name: _AtFirstUse(name) for name in _LATER if name not in sys.modules}
    sys.modules.update(stand_ins)
    try:
        import_module("nats.aio.transport")
    finally:
        for name in stand_ins:
            del sys.modules[name]


_import_nats()
