"""Texts as whole characters: half of one, as JSON's escapes can give it, can neither be spoken nor sent back."""

from __future__ import annotations


class Characters:
    """Joins texts to whole characters: half of one, as escapes in JSON can give it, waits for its other half."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = ""

    def take(self, text: str) -> str:
        """Return what of all texts so far is whole and was not returned before."""
        if not self._held and text.isascii():
            return text
        text = self._held + text
        self._held = text[-1] if text and "\ud800" <= text[-1] <= "\udbff" else ""
        return whole(text.removesuffix(self._held))

    def end(self) -> str:
        """Return what has waited in vain: a replacement character, or nothing."""
        held, self._held = self._held, ""
        return whole(held)


def whole(text: str) -> str:
    """Return a text whose halves of characters are joined; a half without the other becomes U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
