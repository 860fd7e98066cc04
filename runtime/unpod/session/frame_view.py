"""A frame of the speech worker as hooks see it: every field that came, known to unpod or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from unpod.core.codec import MALFORMED


class FrameView(Mapping[str, object]):
    """A read-only frame: `event["ttfa_ms"]`, `event.get("ttfa_ms")` or `event.ttfa_ms`.

    A field that the worker did not send is None as an attribute, and missing as an item.
    """

    __slots__ = ("_fields",)
    _fields: dict[str, object]

    def __init__(self, fields: Mapping[str, object]) -> None:
        object.__setattr__(self, "_fields", dict(fields))

    @classmethod
    def of(cls, body: msgspec.Struct, data: bytes) -> FrameView:
        """Return the view of a record: its payload as it came, else what is typed of it.

        The typed fields of a payload may be sound while another one cannot be read (a number of 5,000 digits).
        """
        if data:
            try:
                return cls(msgspec.json.decode(data, type=dict[str, object]))
            except MALFORMED:
                pass
        return cls({name: getattr(body, name) for name in body.__struct_fields__})

    def model_dump(self) -> dict[str, object]:
        """Return the fields as a dict of its own, as the pydantic models of the Unpod SDK do."""
        return dict(self._fields)

    def __getitem__(self, name: str) -> object:
        return self._fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __getattr__(self, name: str) -> object:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._fields.get(name)

    def __setattr__(self, name: str, value: object) -> None:
        msg = "a frame is read-only"
        raise AttributeError(msg)

    def __repr__(self) -> str:
        return f"FrameView({self._fields!r})"
