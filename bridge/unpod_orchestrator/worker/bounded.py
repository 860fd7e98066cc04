"""Lists that a call keeps for whoever looks at it later, and that no client can make grow for ever. Pure."""

from typing import TypeVar

T = TypeVar("T")


def keep(items: list[T], item: T, most: int) -> None:
    """Appends an item, and forgets the oldest beyond `most`."""
    items.append(item)
    if len(items) > most:
        del items[0]
