"""`unpod streams init|check` and `unpod doctor`, as a user runs them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.pty_rig import Finished, environment, run
from tests.integration.runner_rig import AGENT, fleet, joined, running

from unpod.jetstream import connect
from unpod.jetstream.streams.api import call
from unpod.processes import EmbeddedOptions, EmbeddedServer
from unpod_orchestrator import LocalOrchestrator

KEY = "sk_local"
SMALL = ("--size", "64MiB")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    async with EmbeddedServer(EmbeddedOptions(tmp_path / "nats")) as running_server:
        yield running_server


async def at(url: str, *arguments: str, **variables: str) -> Finished:
    return await run(*arguments, env=environment(UNPOD_NATS_URL=url, **variables))


async def doctor(url: str, *arguments: str, **variables: str) -> tuple[int, dict[str, dict[str, str]]]:
    done = await at(url, "doctor", "--json", *arguments, **variables)
    assert url.partition("@")[0] not in done.out  # the password
    told: dict[str, Any] = json.loads(done.out)
    assert told["ok"] == (done.status == 0)
    return done.status, {each["name"]: each for each in told["checks"]}


# --- streams ----------------------------------------------------------------------------------------------------------


async def test_what_is_missing_is_made_once_and_never_changed(server: EmbeddedServer) -> None:
    done = await at(server.url, "streams", "check")
    assert (done.status, done.out.count("fix: unpod streams init")) == (1, 2)
    done = await at(server.url, "streams", "init", *SMALL, "--json")
    told = json.loads(done.out)
    assert (done.status, told["ok"], [each["created"] for each in told["streams"]]) == (0, True, [True] * 3)
    done = await at(server.url, "streams", "init", UNPOD_STREAM_SIZE="64MiB")
    assert (done.status, done.out.count("as it must be"), done.out.count("64 MiB, 1 replica")) == (0, 3, 2)
    done = await at(server.url, "streams", "init", "--size", "32MiB", "--json")
    told = json.loads(done.out)
    assert (done.status, [each["created"] for each in told["streams"]]) == (1, [False] * 3)
    (found,) = told["differences"]
    assert (found["stream"], found["setting"]) == ("UNPOD_CALLS", "max_bytes")
    assert found["fix"] == f"nats stream edit UNPOD_CALLS --max-bytes={32 * 1024 * 1024}"
    assert (await at(server.url, "streams", "check")).status == 0


async def test_a_small_server_says_how_to_ask_for_less(server: EmbeddedServer) -> None:
    done = await at(server.url, "streams", "init", "--size", "1TiB")
    assert (done.status, done.out) == (2, "")
    assert "(10047)" in done.err
    assert "UNPOD_STREAM_SIZE" in done.err
    assert "--size 512MiB" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [("--size", "huge"), ("--replicas", "2")])
async def test_a_wrong_option_is_named(server: EmbeddedServer, arguments: tuple[str, str]) -> None:
    done = await at(server.url, "streams", "init", *arguments)
    assert (done.status, done.out) == (2, "")
    assert arguments[0] in done.err


async def test_nobody_has_said_where_nats_is() -> None:
    done = await run("streams", "check")
    assert (done.status, done.out) == (2, "")
    assert "UNPOD_NATS_URL is not set" in done.err


# --- doctor -----------------------------------------------------------------------------------------------------------


async def test_a_fleet_that_is_well(tmp_path: Path) -> None:
    async with LocalOrchestrator() as orchestrator, fleet(tmp_path, orchestrator) as url, running(joined(url)):
        await orchestrator.wait_for_worker(AGENT)
        status, found = await doctor(url, "--agent", AGENT, UNPOD_API_KEY=KEY, UNPOD_ORCHESTRATOR_URL=orchestrator.url)
    assert (status, {name for name, each in found.items() if each["status"] == "wrong"}) == (0, set())
    for name in ("NATS", "JetStream", "stream UNPOD_CALLS", "orchestrator", "runners", "bridges", f"agent {AGENT}"):
        assert found[name]["status"] == "ok", found[name]


async def test_everything_that_is_wrong_is_found_at_once(server: EmbeddedServer) -> None:
    async with connect(server.connection()) as nats:
        wrong = {"name": "UNPOD_CALLS", "subjects": ["unpod.call.>"], "discard": "old", "max_bytes": 2**24}
        await call(nats, "STREAM.CREATE.UNPOD_CALLS", wrong)
    async with LocalOrchestrator(api_keys={"another"}) as orchestrator:
        status, found = await doctor(
            server.url,
            "--agent",
            AGENT,
            UNPOD_API_KEY=KEY,
            UNPOD_ORCHESTRATOR_URL=orchestrator.url,
            UNPOD_LOG_LEVEL="loud",
        )
    assert status == 1
    names = {name for name, each in found.items() if each["status"] == "wrong"}
    assert names == {
        "UNPOD_LOG_LEVEL",
        "orchestrator",
        "stream UNPOD_CALLS",
        "stream KV_UNPOD_JOBS",
        "runners",
        "bridges",
    }
    assert all(found[name]["fix"] for name in names)
    assert "UNPOD_API_KEY" in found["orchestrator"]["fix"]


@pytest.mark.parametrize(
    ("url", "said"),
    [("nats://127.0.0.1:1", "no NATS server answers"), ("http://x", "UNPOD_NATS_URL")],
)
async def test_nats_that_is_not_there(url: str, said: str) -> None:
    done = await at(url, "doctor", "--json")
    (found,) = [each for each in json.loads(done.out)["checks"] if each["name"] == "NATS"]
    assert (done.status, found["status"]) == (1, "wrong")
    assert said in found["detail"]


async def test_credentials_that_are_refused(server: EmbeddedServer) -> None:
    done = await at(f"nats://unpod:wrong@127.0.0.1:{server.port}", "doctor")
    assert done.status == 1
    assert "refuses these credentials" in " ".join(done.out.split())
    assert "wrong@" not in done.out


async def test_one_machine_alone(tmp_path: Path) -> None:
    done = await run("doctor", "--json", cwd=tmp_path, env=environment(UNPOD_ORCHESTRATOR_URL="ws://127.0.0.1:1"))
    found = {each["name"]: each for each in json.loads(done.out)["checks"]}
    assert (done.status, found["UNPOD_API_KEY"]["status"], found["NATS"]["status"]) == (1, "wrong", "skipped")
    assert found["UNPOD_DATA_DIR"]["status"] == "ok"
