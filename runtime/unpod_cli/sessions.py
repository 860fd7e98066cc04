"""What `unpod ps` and `unpod sessions` do: ask the client, show the answer."""

from __future__ import annotations

import asyncio
import getpass
import os
import sys
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal

import msgspec
from msgspec import Struct

from unpod.errors import ConfigurationError
from unpod.management import AsyncClient, MergeOutcome, SessionRecord, SessionsMerged
from unpod.management.sessions import Sessions
from unpod_cli.console import make_console
from unpod_cli.failure import Failure
from unpod_cli.layout import Cell, Columns, facts
from unpod_cli.loop import run
from unpod_cli.summary import summary

Verb = Callable[[Sessions, str | None], Awaitable[Struct]]

_HEAD: Final = ("session", "agent", "state", "age", "turns", "owner")
_CLEAR: Final = "\x1b[2J\x1b[H"
_MINUTE_S: Final = 60
_HOUR_S: Final = 3600


@dataclass(frozen=True, slots=True)
class Where:
    """Which fleet, and who acts there."""

    nats_url: str | None = None
    actor: str | None = None

    def client(self) -> AsyncClient:
        """Return a client.

        Raises:
            ConfigurationError: neither NATS nor an API key is configured.
        """
        try:
            return AsyncClient(nats_url=self.nats_url, actor=_user() if self.actor is None else self.actor)
        except ConfigurationError as error:
            if self.nats_url or any(os.environ.get(name, "").strip() for name in ("UNPOD_NATS_URL", "NATS_URL")):
                raise
            message = f"no fleet is configured: set UNPOD_NATS_URL, or pass --nats-url (over REST: {error})"
            raise ConfigurationError(message) from None


@dataclass(frozen=True, slots=True)
class Filter:
    """Which sessions."""

    status: str | None
    agent: str | None
    owner: str | None
    limit: int

    def query(self) -> dict[str, str | int]:
        """Return it as `Sessions.list` takes it."""
        wanted = {"status": self.status, "agent_id": self.agent}
        return {"limit": self.limit, **{name: value for name, value in wanted.items() if value is not None}}


def show_live(where: Where, wanted: Filter, *, every_s: float | None, as_json: bool) -> None:
    """Show the sessions once, or again every so many seconds until Ctrl-C."""

    async def look() -> None:
        async with where.client() as client:
            while True:
                found = await client.sessions.list(**wanted.query())
                found = [one for one in found if wanted.owner in (None, one.owner)]
                if every_s is not None and not as_json and sys.stdout.isatty():
                    sys.stdout.write(_CLEAR)
                _show(found, as_json=as_json, line=every_s is not None)
                if every_s is None:
                    return
                await asyncio.sleep(every_s)

    run(look)


def show_list(where: Where, wanted: Filter, *, as_json: bool) -> None:
    """Show sessions."""
    show_live(where, wanted, every_s=None, as_json=as_json)


def show_one(where: Where, session_id: str, *, as_json: bool) -> None:
    """Show one session with its transcript."""

    async def look() -> SessionRecord:
        async with where.client() as client:
            return await client.sessions.get(session_id)

    found = run(look)
    if as_json:
        _print_json(found)
        return
    console = make_console()
    console.print(
        facts(
            ("session", found.session_id),
            ("agent", found.agent_id or ""),
            ("state", state_of(found)),
            ("end", found.end_reason or ""),
            ("owner", found.owner or ""),
            ("bridge", found.bridge or ""),
            ("turns", str(found.turns or 0)),
            ("lasts", age(found.duration_s)),
        )
    )
    console.print()
    console.print(
        Columns(
            [(line.role, "[withheld]" if line.content is None else line.content) for line in found.transcript or ()]
        )
    )


def follow(where: Where, session_id: str, *, since: Literal["start", "now"], as_json: bool) -> None:
    """Show a session's events as they come."""

    async def look() -> None:
        console = make_console()
        started: float | None = None
        async with where.client() as client:
            async for event in client.sessions.tail(session_id, since=since):
                started = event.at if started is None else started
                if as_json:
                    _print_json(event, line=True)
                    continue
                cells: list[Cell] = [f"{event.at - started:.3f}", event.type, summary(event.body)]
                console.print(Columns([cells], widths=(8, 22), right=(0,)))
                sys.stdout.flush()

    run(look)


def apply(where: Where, verb: Verb, command_id: str | None, *, as_json: bool) -> None:
    """Send a control and return once it is applied.

    Raises:
        Failure: a merge has not worked for every session.
        UnpodError: it was not done.
    """

    async def send() -> Struct:
        async with where.client() as client:
            return await verb(client.sessions, command_id)

    done = run(send)
    if as_json:
        _print_json(done)
    else:
        sys.stderr.write(f"{_told(done)}\n")
    failed = [one for one in done.outcomes if one.error] if isinstance(done, SessionsMerged) else []
    if failed:
        raise Failure("; ".join(map(_why, failed)))


def state_of(found: SessionRecord) -> str:
    """Return what a session's call is like, in a word or two."""
    if found.status != "active":
        return found.status or ""
    if found.supervisor:
        return f"taken over by {found.supervisor}"
    return "paused" if found.paused else "active"


def age(seconds: float | None) -> str:
    """Return a duration as people read it."""
    whole = int(seconds or 0)
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S}:{whole % _MINUTE_S:02}"
    return f"{whole // _HOUR_S}:{whole % _HOUR_S // _MINUTE_S:02}:{whole % _MINUTE_S:02}"


def _show(found: Iterable[SessionRecord], *, as_json: bool, line: bool) -> None:
    rows = [*found]
    if as_json:
        _print_json([msgspec.structs.replace(row, transcript=None) for row in rows], line=line)
        return
    cells = [
        (row.session_id, row.agent_id or "", state_of(row), age(row.duration_s), str(row.turns or 0), row.owner or "")
        for row in rows
    ]
    # Ids are to be copied: a narrow terminal wraps a row, and nothing of it is cut off.
    make_console().print(Columns(cells, head=_HEAD, right=(3, 4)) if cells else "no sessions", soft_wrap=True)


def _print_json(value: object, *, line: bool = False) -> None:
    data = msgspec.json.encode(value)
    sys.stdout.write((data if line else msgspec.json.format(data)).decode() + "\n")
    sys.stdout.flush()


def _told(done: Struct) -> str:
    if isinstance(done, SessionsMerged):
        return ", ".join(f"{one.session_id} {one.status}" for one in done.outcomes)
    return "done"


def _why(outcome: MergeOutcome) -> str:
    return f"{outcome.session_id} is not merged: {outcome.error}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
