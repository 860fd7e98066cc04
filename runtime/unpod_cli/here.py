"""The checks of `unpod doctor` that need no NATS: settings, extras, the orchestrator."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from unpod.errors import ConfigurationError
from unpod.jetstream import stream_settings
from unpod.processes.embedded import find_binary
from unpod_bridge.config import CONTROL_PATH, Credential, credential, log_level, orchestrator_url, readable
from unpod_bridge.transport.sockets import DialError
from unpod_bridge.transport.websocket import WebSocketDialer
from unpod_cli.diagnosis import Finding, in_two

_EXTRAS: Final = (
    ("dev", ("aiohttp", "prompt_toolkit", "watchfiles"), "`unpod dev`, `unpod demo` and `unpod orchestrator`"),
    ("openai", ("openai",), "OpenAIAdapter"),
)
_KEY: Final = "export UNPOD_API_KEY with the key of your Unpod account"
_DIAL_S: Final = 6.0
_CHANGE_OF_MIND_S: Final = 0.3
"""How many seconds an orchestrator that has opened the socket gets to refuse the key on it."""
_REFUSED: Final = frozenset({4001, 1008})


async def look_here(found: Mapping[str, str], *, alone: bool) -> list[Finding]:
    """Look at this machine and at the orchestrator; `alone` is a runner that would start NATS and a bridge itself."""
    findings = [
        _setting("UNPOD_LOG_LEVEL", lambda: log_level(found)),
        _setting("UNPOD_STREAM_SIZE, UNPOD_STREAM_REPLICAS", lambda: stream_settings(found)),
        _server(alone=alone),
        *(_extra(*extra) for extra in _EXTRAS),
    ]
    if alone:
        findings.append(_data_dir(Path(found.get("UNPOD_DATA_DIR", ".unpod"))))
    findings.append(_key(found, alone=alone))
    findings.append(await _orchestrator(found))
    return findings


def _setting(name: str, read: Callable[[], object]) -> Finding:
    try:
        read()
    except ConfigurationError as error:
        return Finding(name, "wrong", *in_two(str(error)))
    return Finding(name, "ok", "can be read")


def _server(*, alone: bool) -> Finding:
    try:
        find_binary()
    except ConfigurationError as error:
        if alone:
            return Finding("nats-server", "wrong", *in_two(str(error)))
        return Finding("nats-server", "ok", "not installed here, and not needed: NATS runs elsewhere")
    return Finding("nats-server", "ok", "installed")


def _extra(name: str, modules: tuple[str, ...], use: str) -> Finding:
    missing = [module for module in modules if find_spec(module) is None]
    if not missing:
        return Finding(f"extra {name}", "ok", "installed")
    return Finding(
        f"extra {name}", "warning", f"{', '.join(missing)} not installed, for {use}", f'pip install "unpod[{name}]"'
    )


def _data_dir(path: Path) -> Finding:
    above = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
    if above.is_dir() and os.access(above, os.W_OK | os.X_OK):
        return Finding("UNPOD_DATA_DIR", "ok", "the embedded server can keep its data there")
    return Finding(
        "UNPOD_DATA_DIR", "wrong", f"{above} cannot be written", "set UNPOD_DATA_DIR to a directory of yours"
    )


def _key(found: Mapping[str, str], *, alone: bool) -> Finding:
    if "UNPOD_API_KEY" in found:
        return Finding("UNPOD_API_KEY", "ok", "set")
    if "UNPOD_PLATFORM_TOKEN" in found:
        try:
            credential(found)
        except ConfigurationError as error:
            return Finding("UNPOD_PLATFORM_TOKEN", "wrong", *in_two(str(error)))
        return Finding("UNPOD_PLATFORM_TOKEN", "ok", "set")
    if alone:
        return Finding("UNPOD_API_KEY", "wrong", "not set", _KEY)
    return Finding("UNPOD_API_KEY", "warning", "not set: runners of a fleet need none, bridges do", _KEY)


class _Listener:
    """Hears why a socket is closed."""

    def __init__(self) -> None:
        self.lost: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()

    def on_frame(self, data: bytes, *, binary: bool) -> None:
        """Nothing that it says matters here."""

    def on_pong(self, token: bytes) -> None:
        """It is not asked."""

    def on_lost(self, code: int | None, reason: str) -> None:
        """Note the close code."""
        del reason
        if not self.lost.done():
            self.lost.set_result(code)


async def _orchestrator(found: Mapping[str, str]) -> Finding:
    name = "orchestrator"
    try:
        url = orchestrator_url(found)
    except ConfigurationError as error:
        return Finding(name, "wrong", *in_two(str(error)))
    try:
        shown = credential(found)
    except ConfigurationError:
        return Finding(name, "skipped", f"{readable(url)}: without a key it is not asked")
    listener = _Listener()
    try:
        async with asyncio.timeout(_DIAL_S):
            socket = await WebSocketDialer().dial(url + CONTROL_PATH, listener, headers=shown.headers)
    except (DialError, TimeoutError) as error:
        if isinstance(error, DialError) and error.unauthorized:
            return _refuses(url, shown)
        status = f" (HTTP {error.status})" if isinstance(error, DialError) and error.status is not None else ""
        return Finding(
            name,
            "wrong",
            f"{readable(url)} does not open a socket for workers{status}",
            "check UNPOD_ORCHESTRATOR_URL or UNPOD_BASE_URL, and the way there (proxy, firewall, DNS)",
        )
    done, _ = await asyncio.wait({listener.lost}, timeout=_CHANGE_OF_MIND_S)
    if done:
        return (
            _refuses(url, shown)
            if listener.lost.result() in _REFUSED
            else Finding(name, "warning", f"{readable(url)} hung up")
        )
    socket.close(1000)
    await socket.wait_closed()
    return Finding(name, "ok", f"{readable(url)} takes the key")


def _refuses(url: str, shown: Credential) -> Finding:
    return Finding("orchestrator", "wrong", f"{readable(url)} refuses the key", f"check {shown.named}")
