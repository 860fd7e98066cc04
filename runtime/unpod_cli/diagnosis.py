"""What a check of `unpod doctor` finds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

Status = Literal["ok", "warning", "wrong", "skipped"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `fix` says what mends it, "" where nothing has to be. It holds no secret."""

    name: str
    status: Status
    detail: str
    fix: str = ""

    def as_json(self) -> dict[str, str]:
        """Return it for programs."""
        return asdict(self)


def in_two(text: str) -> tuple[str, str]:
    """Return what an error says is wrong and what it says to do, which our errors write after the last colon."""
    what, colon, fix = text.rpartition(": ")
    return (what, fix) if colon else (text, "")
