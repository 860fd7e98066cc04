"""Where a caller may be connected to: number targets are checked, human and agent targets are not. Pure."""

import re
from collections.abc import Collection
from typing import Final, Literal, TypeAlias

import msgspec

_E164: Final = re.compile(r"\+[1-9][0-9]{1,14}")

TransferMode: TypeAlias = Literal["cold", "warm"]


class TransferRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A transfer that was asked for; `refused` says why it was not carried out."""

    transfer_type: str
    target: str
    mode: TransferMode
    refused: str | None = None


def number_refusal(number: str, allowed: Collection[str] | None) -> str | None:
    """Why nobody is connected to `number`: not E.164, or not in `allowed` (None allows all); None if they are."""
    if not _E164.fullmatch(number):
        return "not an E.164 number"
    if allowed is not None and number not in allowed:
        return "not on the list of allowed numbers"
    return None
