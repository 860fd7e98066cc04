"""`unpod ps`, `unpod sessions` and the blocking client, at a call of real processes."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest
from tests.faults.process import ROOT
from tests.integration.talk import Talk, a_call

from unpod import Client, ControlRefused
from unpod.core import events as ev

pytestmark = pytest.mark.faults


async def unpod(talk: Talk, *arguments: str) -> tuple[int, str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("UNPOD_", "NATS_"))}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "unpod_cli",
        *arguments,
        env={**kept, "UNPOD_NATS_URL": talk.stack.server.url},
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(20):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_a_call_is_looked_at_and_supervised_from_the_command_line(tmp_path: Path) -> None:
    async with a_call(tmp_path) as talk:
        status, out, _ = await unpod(talk, "ps", "--json", "--agent", "agent")
        (row,) = json.loads(out)
        owner = await talk.owner()
        assert (status, row["session_id"], row["agent_id"], row["owner"]) == (0, talk.session, "agent", owner.id)
        status, out, _ = await unpod(talk, "ps", "--owner", "nobody")
        assert (status, out) == (0, "no sessions\n")
        assert await unpod(talk, "sessions", "takeover", talk.session, "--actor", "ann") == (0, "", "done\n")
        assert await unpod(talk, "sessions", "say", talk.session, "this is Ann") == (0, "", "done\n")
        await talk.call.heard("this is Ann")
        status, out, _ = await unpod(talk, "ps")
        assert status == 0
        assert out.splitlines()[0].split() == ["session", "agent", "state", "age", "turns", "owner"]
        assert "taken over by ann" in out
        status, _, err = await unpod(talk, "sessions", "takeover", talk.session, "--actor", "bob")
        assert (status, err) == (1, "Error: takeover was not done: another supervisor has the call already\n")
        assert (await unpod(talk, "sessions", "handback", talk.session))[0] == 0
        status, out, _ = await unpod(talk, "sessions", "end", talk.session, "--json")
        assert (status, json.loads(out)) == (0, {"session_id": talk.session, "state": "ending"})
        await talk.stack.closed([talk.session])
        status, _, err = await unpod(talk, "sessions", "say", talk.session, "hello?")
        assert status == 1
        assert "its call is over; say was not done" in err
        status, out, _ = await unpod(talk, "sessions", "tail", talk.session, "--json")
        types = [json.loads(line)["type"] for line in out.splitlines()]
        assert (status, types[-1]) == (0, "run.session.closed")
        assert "evt.call.ended" in types
        status, out, _ = await unpod(talk, "sessions", "show", talk.session)
        assert "this is Ann" in out
        status, out, _ = await unpod(talk, "sessions", "list", "--status", "ended", "--json")
        assert [row["session_id"] for row in json.loads(out)] == [talk.session]


async def test_a_session_that_never_was(tmp_path: Path) -> None:
    async with a_call(tmp_path) as talk:
        status, out, err = await unpod(talk, "sessions", "end", "nobody")
        assert (status, out) == (1, "")
        assert err.startswith("Error: there is no session 'nobody' in the log")


async def test_the_blocking_client(tmp_path: Path) -> None:
    def supervise(url: str, session: str) -> list[str]:
        heard: list[str] = []
        with Client(nats_url=url, actor="ann") as client:
            client.sessions.whisper(session, "be kind")
            client.sessions.pause(session)
            with pytest.raises(ControlRefused, match="nobody has taken the call over"):
                client.sessions.handback(session)
            client.sessions.resume(session)
            assert client.sessions.get(session).turns == 1
            for event in client.sessions.tail(session):
                if isinstance(event.body, ev.ControlPerformed):
                    heard.append(event.body.outcome)
                    if len(heard) == 4:
                        break
            client.sessions.end(session, command_id="end")
            client.sessions.end(session, command_id="end")
        return heard

    async with a_call(tmp_path) as talk:
        found = await asyncio.to_thread(supervise, talk.stack.server.url, talk.session)
        assert found == ["applied", "applied", "failed", "applied"]
        await talk.call.ended()
        await talk.stack.closed([talk.session])
