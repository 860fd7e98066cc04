"""Server-sent events, as far as a reply needs them: event names and data. Pure: lines in, events out."""

from __future__ import annotations

from msgspec import Struct


class ServerEvent(Struct, frozen=True):
    """One event; `name` is `message` where the server gives none."""

    name: str
    data: str


class EventReader:
    """Puts events together from the lines of a stream (without their ends)."""

    def __init__(self) -> None:
        self._name = ""
        self._data: list[str] = []

    def line(self, line: str) -> ServerEvent | None:
        """Take a line, and return the event that it completes, if any."""
        if not line:
            return self.end()
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
        elif field == "event":
            self._name = value
        return None

    def end(self) -> ServerEvent | None:
        """Return the event that is under way, if any, and begin anew."""
        event = ServerEvent(self._name or "message", "\n".join(self._data)) if self._data else None
        self._name, self._data = "", []
        return event
