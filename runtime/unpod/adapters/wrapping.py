"""Makes an adapter of an assigned object that is none, where unpod has one for its kind.

Nobody's package is imported to find out: an object of a vendor's class exists only where its package is.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, Callable
from importlib import import_module
from typing import Any, Protocol, TypeAlias

from unpod.adapters.protocol import DialogAdapter

_LANGCHAIN = ("unpod.adapters.langchain", "LangChainAdapter")
_VENDORS = {
    "superdialog": ("unpod.adapters.superdialog", "SuperDialogAdapter"),
    "langchain_core.runnables": _LANGCHAIN,
}


class StreamsChunks(Protocol):
    """A LangChain Runnable, or an object that streams like one."""

    def astream(self, given: Any, /, *args: Any, **kwargs: Any) -> AsyncIterable[Any]:  # noqa: ANN401
        """Yield the chunks of an answer."""
        ...


class SuperDialogAgent(Protocol):
    """A superdialog agent."""

    def turn(self, text: str, /, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Answer a text."""

    def assist(self, text: str, /, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Take a note."""

    def load_chat_ctx(self, items: Any, /, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Take up a conversation."""


DialogMachine: TypeAlias = DialogAdapter | Callable[..., AsyncIterable[Any]] | StreamsChunks | SuperDialogAgent
"""What `session.dialog_machine` takes; the function is an async generator, as of `GeneratorAdapter`."""


def wrapped(found: object) -> object:
    """Return an adapter for an object that is none but can be made one, else `found`.

    That is an async generator function, a superdialog agent, a LangChain Runnable, or another object with `astream`.
    An object that is an adapter itself is left as it is, whatever it is derived from.
    """
    if inspect.isasyncgenfunction(found):
        from unpod.adapters.generator import GeneratorAdapter  # noqa: PLC0415 - only for those who use it

        return GeneratorAdapter(found)
    if inspect.isclass(found) or all(callable(getattr(found, name, None)) for name in ("stream", "turn", "assist")):
        return found
    for kind in type(found).__mro__:
        for package, adapter in _VENDORS.items():
            if kind.__module__ == package or kind.__module__.startswith(f"{package}."):
                return _made(adapter, found)
    if callable(getattr(found, "astream", None)):
        return _made(_LANGCHAIN, found)
    return found


def _made(adapter: tuple[str, str], found: object) -> object:
    module, name = adapter
    return getattr(import_module(module), name)(found)
