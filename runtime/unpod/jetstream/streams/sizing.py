"""How large the streams are and how many replicas they have, as configured."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from unpod.errors import ConfigurationError
from unpod.jetstream.streams.topology import DEFAULT_BYTES, MIB, Topology, topology

SIZE: Final = "UNPOD_STREAM_SIZE"
REPLICAS: Final = "UNPOD_STREAM_REPLICAS"
SMALLEST: Final = 16 * MIB
_SIZE: Final = re.compile(r"(\d{1,15})\s*([KMGT]?)(?:i?B)?\Z", re.IGNORECASE)
_POWERS: Final = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_REPLICAS: Final = ("1", "3", "5")


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """What is configured for new streams; None where nothing is: the default counts."""

    max_bytes: int | None = None
    replicas: int | None = None

    def topology(self, prefix: str) -> Topology:
        """Return the streams of a subject prefix."""
        return topology(prefix, max_bytes=self.max_bytes or DEFAULT_BYTES, replicas=self.replicas or 1)


def stream_settings(found: Mapping[str, str]) -> StreamSettings:
    """Return what `UNPOD_STREAM_SIZE` and `UNPOD_STREAM_REPLICAS` say; no value in `found` is blank.

    Raises:
        ConfigurationError: a value cannot be used; the text names its variable.
    """
    size, replicas = found.get(SIZE), found.get(REPLICAS)
    if replicas is not None and replicas not in _REPLICAS:
        raise ConfigurationError(f"{REPLICAS} is {replicas[:40]!r}: give 1, 3 or 5")
    return StreamSettings(
        max_bytes=None if size is None else parse_size(size, SIZE),
        replicas=None if replicas is None else int(replicas),
    )


def parse_size(text: str, name: str) -> int:
    """Return a size in bytes: `512MiB`, `8G` or plain bytes; all units are powers of 1,024.

    Raises:
        ConfigurationError: it is none, or too small for a log; the text begins with `name`.
    """
    found = _SIZE.match(text.strip())
    if found is None:
        raise ConfigurationError(f"{name} is {text[:40]!r}: give a size such as 512MiB or 8GiB")
    size = int(found[1]) << 10 * _POWERS[found[2].upper()]
    if size < SMALLEST:
        raise ConfigurationError(f"{name} is {text[:40]!r}: a log needs {readable_size(SMALLEST)} at least")
    return size


def readable_size(size: int) -> str:
    """Return a size in the largest unit that it is a whole number of."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        scale = 1 << 10 * _POWERS[unit[0]]
        if size and size % scale == 0:
            return f"{size // scale} {unit}"
    return f"{size} bytes"
