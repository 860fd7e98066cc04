"""nats-server processes with a configuration of the test's own, and the small things that the tests here share."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from tests.contract.places import until

from unpod.processes import spawn_child
from unpod.processes.embedded import find_binary

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from unpod.core.positions import Positions
    from unpod.ports import EventLog, Message
    from unpod.processes import ChildProcess

CMD = "unpod.call.a.s.cmd"
OWN = "unpod.call.a.s.own"


__all__ = ["CMD", "OWN", "RANDOM_PORT", "msg_id", "read", "server", "until"]


def msg_id(text: str) -> dict[str, str]:
    return {"Nats-Msg-Id": text}


async def read(
    log: EventLog, pattern: str = "unpod.call.*.s.>", *, until_seq: int = 0, positions: Positions | None = None
) -> list[Message]:
    return [message async for message in log.read(pattern, until_seq=until_seq, positions=positions)]


@asynccontextmanager
async def server(directory: Path, config: str, name: str = "n1") -> AsyncIterator[tuple[ChildProcess, str]]:
    """Run a nats-server with `config`; yields its process and its URL."""
    home = directory / name
    home.mkdir(parents=True)
    file = home / "nats.conf"
    file.write_text(
        f'server_name: {name}\nports_file_dir: "{home}"\nlog_file: "{home}/log"\n'
        f'jetstream {{ store_dir: "{home}/js", max_file_store: 512MB }}\n{config}'
    )
    child = await spawn_child([find_binary(), "-c", str(file)])
    try:
        await until(lambda: bool(_url(home)))
        yield child, _url(home)
    finally:
        await child.stop()


def _url(home: Path) -> str:
    for file in home.glob("*.ports"):
        try:
            return str(json.loads(file.read_text())["nats"][0])
        except (ValueError, KeyError):
            return ""
    return ""


RANDOM_PORT = "host: 127.0.0.1\nport: -1\n"
