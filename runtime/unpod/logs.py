"""Logging for those who ask for it: one handler on the `unpod` logger, and nothing secret in what it writes.

The library by itself writes nothing: the handler of its package is a `NullHandler`. A program that has set up logging
does not need this handler. It should know that unpod redacts the URLs that it logs in any case, and that all other
redaction is done by this handler alone.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable
from typing import TextIO
from urllib.parse import unquote_plus

from unpod.errors import ConfigurationError

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
_MARK = "unpod.enable_logging"

_HIDDEN = "***"
_SECRET_NAME = re.compile(r"token|signature|secret|nonce|passw|credential|jwt|key$|^sig$|^auth", re.IGNORECASE)
_USERINFO = re.compile(r"(?<=://)[^/?#]*@")
_URL = re.compile(r"(?<![a-z0-9])[a-z][a-z0-9+.-]{0,30}://[^\s\"'<>]+", re.IGNORECASE)

_VALUE = r"[^\s\"',;&})]+"
_IN_TEXT = (
    (re.compile(r"\b(bearer)\s+[\w.~+/=-]+", re.IGNORECASE), rf"\1 {_HIDDEN}"),
    (re.compile(rf"\b(authorization[\"']?\s*[:=]\s*[\"']?(?:\w+\s+)?){_VALUE}", re.IGNORECASE), rf"\1{_HIDDEN}"),
    (re.compile(r"\bsk[-_][\w-]{4,}"), f"sk-{_HIDDEN}"),
    # token=..., "api_key": "...", 'nonce': '...'; the bounds keep a long line from taking long
    (
        re.compile(
            r"(?<![\w-])([\w-]{0,64}(?:token|signature|secret|nonce|password|api[_-]?key)"
            rf"(?:=|[\"']\s*[:=]\s*)[\"']?){_VALUE}",
            re.IGNORECASE,
        ),
        rf"\1{_HIDDEN}",
    ),
)


def enable_logging(level: str | int = "INFO", stream: TextIO | None = None) -> None:
    """Write unpod's log from `level` on, to `stream` or standard error; called again, it changes these two.

    Raises:
        ConfigurationError: there is no such level.
    """
    wanted = level.strip().upper() if isinstance(level, str) else level
    if isinstance(wanted, str) and wanted not in _LEVELS:
        raise ConfigurationError(f"{level!r} is no log level; it is one of {', '.join(_LEVELS)}")
    logger = logging.getLogger("unpod")
    logger.setLevel(wanted)
    for handler in logger.handlers:
        if handler.get_name() == _MARK and isinstance(handler, logging.StreamHandler):
            handler.setStream(stream or sys.stderr)
            return
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.set_name(_MARK)
    handler.setFormatter(_RedactingFormatter(_FORMAT))
    logger.addHandler(handler)


def is_set_up() -> bool:
    """Return whether somebody reads unpod's log: a handler of the program's, or that of `enable_logging`."""
    loggers = (logging.getLogger("unpod"), logging.getLogger())
    return any(not isinstance(handler, logging.NullHandler) for logger in loggers for handler in logger.handlers)


def redact_url(url: object) -> str:
    """Return a URL with its user and password, tokens, signatures, keys and nonces hidden; it never raises."""
    try:
        text = url.decode("utf-8", "replace") if isinstance(url, bytes) else str(url)
        first, *rest = re.split(r"([?&;#])", _USERINFO.sub(f"{_HIDDEN}@", text))
        return first + _parameters(zip(rest[::2], rest[1::2], strict=True))
    except Exception:  # noqa: BLE001 - a log line must not fail for what it was given
        return "<unreadable url>"


def redact(text: str) -> str:
    """Return a text with its secrets hidden: those in URLs, in headers, after `token=` and the like."""
    text = _URL.sub(lambda found: redact_url(found.group()), text)
    for pattern, replacement in _IN_TEXT:
        text = pattern.sub(replacement, text)
    return text


def _parameters(pairs: Iterable[tuple[str, str]]) -> str:
    shown = ""
    hiding = False
    for separator, parameter in pairs:
        name, equals, _ = parameter.partition("=")
        if hiding and not equals and separator in ";?":
            continue  # no parameter, but the rest of a secret that has the separator in it
        hiding = bool(equals) and _SECRET_NAME.search(unquote_plus(name)) is not None
        shown += f"{separator}{name}={_HIDDEN}" if hiding else separator + parameter
    return shown


class _RedactingFormatter(logging.Formatter):
    """Redacts what is written as a whole, tracebacks included: a filter would not see those."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))
