"""What becomes a brain by being assigned: objects that are none, and that unpod has an adapter for.

Nobody's package is imported to find out: an object of a vendor's class exists only where its package is.
"""

from __future__ import annotations

import inspect
from importlib import import_module

_VENDORS = {
    "superdialog": ("unpod.adapters.superdialog", "SuperDialogAdapter"),
    "langchain_core.runnables": ("unpod.adapters.langchain", "LangChainAdapter"),
}


def wrapped(found: object) -> object:
    """Return the adapter for an async generator function, a superdialog agent or a LangChain Runnable, else `found`.

    An object that is an adapter itself is left as it is, whatever it is derived from.
    """
    if inspect.isasyncgenfunction(found):
        from unpod.adapters.generator import GeneratorAdapter  # noqa: PLC0415 - only for those who use it

        return GeneratorAdapter(found)
    if inspect.isclass(found) or all(callable(getattr(found, name, None)) for name in ("stream", "turn", "assist")):
        return found
    for kind in type(found).__mro__:
        for package, (module, name) in _VENDORS.items():
            if kind.__module__ == package or kind.__module__.startswith(f"{package}."):
                return getattr(import_module(module), name)(found)
    return found
