"""Reads from environment variables where NATS is: the same ones for runners, bridges and clients."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from unpod.errors import ConfigurationError
from unpod.jetstream.connection.credentials import Credentials, load_context, parse_urls
from unpod.jetstream.connection.options import NatsOptions

NATS_VARIABLES: Final = ("UNPOD_NATS_URL", "NATS_URL", "NATS_CREDS", "NATS_CONTEXT", "UNPOD_NATS_INBOX_PREFIX")
_INBOX: Final = "UNPOD_NATS_INBOX_PREFIX"
_SUBJECT: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\Z")


def nats_options(found: Mapping[str, str], argument: str = "", *, no_echo: bool = False) -> NatsOptions | None:
    """Return how to connect, None where neither `argument` nor a variable says where.

    `found` holds no blank values.

    Raises:
        ConfigurationError: a value cannot be used; the text names its variable.
    """
    variable = "nats_url" if argument else "UNPOD_NATS_URL" if "UNPOD_NATS_URL" in found else "NATS_URL"
    text = argument or found.get("UNPOD_NATS_URL") or found.get("NATS_URL") or ""
    context = load_context(found["NATS_CONTEXT"], found) if "NATS_CONTEXT" in found else None
    if not text and context is None:
        return None
    credentials = context.credentials if context is not None else Credentials()
    if "NATS_CREDS" in found:
        credentials = Credentials(creds_file=found["NATS_CREDS"])
    return NatsOptions(
        urls=parse_urls(text) if text or context is None else context.urls,
        credentials=credentials,
        inbox_prefix=_inbox(found) or (context.inbox_prefix if context is not None else "") or "_INBOX",
        no_echo=no_echo,
        variable=variable if text else "NATS_CONTEXT",
    )


def _inbox(found: Mapping[str, str]) -> str:
    prefix = found.get(_INBOX, "")
    if prefix and not _SUBJECT.match(prefix):
        raise ConfigurationError(f"{_INBOX} is {prefix[:80]!r}: give a subject such as _INBOX_bridge")
    return prefix
