"""Callbacks that are told of changes of a connection."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("unpod.nats")

T = TypeVar("T")


class Listeners(Generic[T]):
    """Calls its listeners in the order in which they were added; one that raises is logged and stops nothing."""

    __slots__ = ("_listeners",)

    def __init__(self) -> None:
        self._listeners: dict[object, Callable[[T], None]] = {}

    def add(self, listener: Callable[[T], None]) -> Callable[[], None]:
        """Add a listener; return what takes it away again."""
        key = object()
        self._listeners[key] = listener

        def remove() -> None:
            self._listeners.pop(key, None)

        return remove

    def tell(self, value: T) -> None:
        """Call all."""
        for listener in tuple(self._listeners.values()):
            try:
                listener(value)
            except Exception as error:  # noqa: BLE001 - it is called from nats-py's loops, which would end
                logger.log(logging.ERROR, "a listener failed: %s", type(error).__name__)
