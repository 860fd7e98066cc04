"""Logging, for programs that have set up none: the library itself never adds a handler."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Final

from unpod.errors import ConfigurationError

if TYPE_CHECKING:
    from typing import TextIO

    StreamHandler = logging.StreamHandler[TextIO]
else:
    StreamHandler = logging.StreamHandler  # generic only in its stubs

_FORMAT: Final = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


class _Handler(StreamHandler):
    """Ours, so that a second call finds it."""


def enable_logging(level: int | str = "INFO") -> None:
    """Write the log of unpod to stderr, from `level` on; called again, it only changes the level.

    Raises:
        ConfigurationError: there is no such level.
    """
    number = _number(level)
    root = logging.getLogger("unpod")
    if not any(isinstance(handler, _Handler) for handler in root.handlers):
        handler = _Handler(sys.stderr)
        handler.setFormatter(logging.Formatter(_FORMAT))
        root.addHandler(handler)
        root.propagate = False  # a program that sets the root logger up as well would print each line twice
    root.setLevel(number)


def _number(level: int | str) -> int:
    if isinstance(level, int) and not isinstance(level, bool):
        return level
    text = str(level).strip().upper()
    if text.isdecimal():
        return int(text)
    if text not in _LEVELS:
        raise ConfigurationError(f"log level {level!r} (UNPOD_LOG_LEVEL): give one of {', '.join(_LEVELS)}")
    return int(logging.getLevelNamesMapping()[text])
