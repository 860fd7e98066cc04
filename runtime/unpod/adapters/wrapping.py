"""What becomes a brain by being assigned: objects that are none, and that unpod has an adapter for.

Nobody's package is imported to find out: an object of a vendor's class exists only where its package is.
"""

from __future__ import annotations

import inspect
from importlib import import_module

_LANGCHAIN = ("unpod.adapters.langchain", "LangChainAdapter")
_VENDORS = {
    "superdialog": ("unpod.adapters.superdialog", "SuperDialogAdapter"),
    "langchain_core.runnables": _LANGCHAIN,
}


def wrapped(found: object) -> object:
    """Return the adapter for what is no brain itself but can be made one, else `found`.

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
