"""Headers of a message as they came: a text that is read line by line only where somebody asks for one of them.

Of a record's headers all are asked for at once, by `from_headers`, which reads those of ours with one expression.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping


class HeaderText(Mapping[str, str]):
    """The headers of a block's text, without its first line and its end.

    Of a repeated name the last counts; what is no header is left out.
    """

    __slots__ = ("_found", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self._found: dict[str, str] | None = None

    def _all(self) -> dict[str, str]:
        if self._found is None:
            self._found = _read(self.text)
        return self._found

    def __getitem__(self, name: str) -> str:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __repr__(self) -> str:
        return repr(self._all())


class MadeHeaders(HeaderText):
    """Headers of our own making, in as many `lines`; one of them, the first, gives the `msg_id`.

    Whoever sends them checks that no value has added a line.
    """

    __slots__ = ("lines", "msg_id")

    def __init__(self, text: str, lines: int, msg_id: str) -> None:
        self.text = text
        self._found = None
        self.lines = lines
        self.msg_id = msg_id


def msg_id_of(headers: Mapping[str, str]) -> str:
    """Return the `Nats-Msg-Id` of headers, "" for none."""
    return headers.msg_id if isinstance(headers, MadeHeaders) else headers.get("Nats-Msg-Id", "")


def _read(text: str) -> dict[str, str]:
    lines = text.split("\r\n")
    try:
        return dict([line.split(": ", 1) for line in lines])  # a pair each, or ValueError
    except ValueError:
        return _read_loosely(lines)


def _read_loosely(lines: list[str]) -> dict[str, str]:
    """Read what others may write: "Key:value" is allowed, and rare."""
    headers: dict[str, str] = {}
    for line in lines:
        key, colon, value = line.partition(": ")
        if not colon:
            key, colon, value = line.partition(":")
        if colon:
            headers[key] = value
    return headers
