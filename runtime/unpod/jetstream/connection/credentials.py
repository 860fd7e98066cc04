"""Whom to connect as: credentials files and nats CLI contexts. Reads files, never the environment."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

import msgspec

from unpod.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

_JWT: Final = re.compile(rb"^-+ *BEGIN NATS USER JWT *-+\s+([\w.-]+)\s", re.MULTILINE)
_SEED: Final = re.compile(rb"^(?:-+ *BEGIN USER NKEY SEED *-+\s+)?S[A-Z2-7]{57}$", re.MULTILINE)


def jwt_of(creds: bytes) -> bytes:
    """Return the JWT in a credentials file, b"" where there is none."""
    found = _JWT.search(creds)
    return found[1] if found is not None else b""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a connection shows to the server; nothing of it is ever in its `repr`."""

    creds_file: str = ""
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    nkey_file: str = ""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""

    def tls(self) -> ssl.SSLContext | None:
        """Return the TLS settings that these files ask for, or None where they ask for none.

        Raises:
            ConfigurationError: a file cannot be read.
        """
        if not (self.ca_file or self.cert_file):
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca_file or None)
            if self.cert_file:
                context.load_cert_chain(self.cert_file, self.key_file or None)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(f"the TLS files for NATS cannot be read: {error}") from error
        return context

    def check(self) -> None:
        """Make sure that what is named can be used.

        Raises:
            ConfigurationError: a file cannot be read, or is not what it is named as.
        """
        if self.creds_file:
            content = _read("NATS_CREDS", self.creds_file)
            if not (jwt_of(content) and _SEED.search(content)):
                raise ConfigurationError(f"NATS_CREDS: {self.creds_file} is not a credentials file (a JWT and a seed)")
        if self.nkey_file and not _SEED.fullmatch(_read("the context's nkey", self.nkey_file).strip()):
            raise ConfigurationError(f"the context's nkey: {self.nkey_file} is not an nkey's seed")


def _read(variable: str, name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except FileNotFoundError:
        raise ConfigurationError(f"{variable} names a file that does not exist: {name}") from None
    except OSError as error:
        raise ConfigurationError(f"{variable}: {name} cannot be read: {error.strerror}") from error


class _ContextFile(msgspec.Struct):
    """The file of a nats CLI context; fields that we do not use are ignored."""

    url: str = ""
    creds: str = ""
    user: str = ""
    password: str = ""
    token: str = ""
    nkey: str = ""
    ca: str = ""
    cert: str = ""
    key: str = ""
    inbox_prefix: str = ""


@dataclass(frozen=True, slots=True)
class Context:
    """What a nats CLI context says."""

    urls: tuple[str, ...]
    credentials: Credentials
    inbox_prefix: str = ""


def load_context(name: str, environment: Mapping[str, str]) -> Context:
    """Return the nats CLI context `name` (or the path of its JSON file).

    `environment` tells where contexts are kept (`XDG_CONFIG_HOME`, else `HOME`/.config, then `nats/context/NAME.json`).

    Raises:
        ConfigurationError: there is no such context, or its file cannot be read.
    """
    path = Path(name)
    if not path.is_absolute():
        config = environment.get("XDG_CONFIG_HOME") or f"{environment.get('HOME', '')}/.config"
        path = Path(config) / "nats" / "context" / f"{name}.json"
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_ContextFile)
    except OSError:
        raise ConfigurationError(f"NATS_CONTEXT names a context whose file cannot be read: {path}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise ConfigurationError(f"NATS_CONTEXT: {path} is not the JSON of a nats CLI context") from None
    home = environment.get("HOME", "")
    creds = Credentials(
        creds_file=_at_home(found.creds, home),
        user=found.user,
        password=found.password,
        # The nats CLI keeps a token as the user without a password.
        token=found.token or (found.user if found.user and not found.password else ""),
        nkey_file=_at_home(found.nkey, home),
        ca_file=_at_home(found.ca, home),
        cert_file=_at_home(found.cert, home),
        key_file=_at_home(found.key, home),
    )
    return Context(parse_urls(found.url), creds, found.inbox_prefix)


def _at_home(path: str, home: str) -> str:
    return f"{home}{path[1:]}" if path.startswith("~/") else path


def parse_urls(text: str) -> tuple[str, ...]:
    """Return the servers of a comma-separated list.

    Raises:
        ConfigurationError: none, or one that is no `nats://` or `tls://` URL.
    """
    urls = tuple(part.strip() for part in text.split(",") if part.strip())
    if not urls:
        raise ConfigurationError("UNPOD_NATS_URL is empty: give nats://host:4222, several with commas between them")
    return tuple(_checked(url) for url in urls)


def _checked(url: str) -> str:
    full = url if "://" in url else f"nats://{url}"
    try:
        parts = urlsplit(full)
        usable = parts.scheme in {"nats", "tls"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigurationError(f"UNPOD_NATS_URL: {without_secrets(full)} is not nats://host:port or tls://host:port")
    return full


def take_secrets(urls: tuple[str, ...]) -> tuple[tuple[str, ...], Credentials]:
    """Return the URLs without user and password, and what these were.

    In a URL, nats-py would use them for that one server, and not for the other nodes of its cluster.
    """
    found = Credentials()
    for url in urls:
        parts = urlsplit(url)
        if parts.username is not None and parts.password is None:
            found = Credentials(token=unquote(parts.username))
        elif parts.username is not None:
            found = Credentials(user=unquote(parts.username), password=unquote(parts.password or ""))
    return tuple(without_secrets(url) for url in urls), found


def without_secrets(url: str) -> str:
    """Return the URL without user, password and token."""
    scheme, _, rest = url.rpartition("://")
    return f"{scheme or 'nats'}://{rest.rpartition('@')[2]}"
