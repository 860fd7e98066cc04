"""compose/nats, run by a real server: each role does its work, and nothing else. Rows 34 and 35 of the faults."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.faults.process import Process, eventually, start
from tests.faults.stack import SUBJECTS
from tests.integration.consumers.process import consuming
from tests.integration.consumers.span_collector import Spans, over_http
from tests.integration.jetstream.servers import RANDOM_PORT, server
from tests.integration.pty_rig import environment, run
from tests.pages import ROOT

from unpod.core import codec
from unpod.core import events as ev
from unpod.core.dispatch_messages import RunnerAnnounced, encode
from unpod.core.envelope import Letterhead, from_headers
from unpod.core.ids import message_id, record_id
from unpod.errors import ConfigurationError
from unpod.jetstream import Credentials, Nats, NatsOptions, PermissionDenied, connect, open_log, topology
from unpod.jetstream.streams.api import call
from unpod.jetstream.streams.topology import MIB, ensure, info
from unpod.ports import Message
from unpod_orchestrator import LocalCall, LocalOrchestrator

CONFIGS = ROOT / "compose" / "nats"
PASSWORD = "secret"
KEY = "sk_local"
AGENT = "agent"
"""Whose runner tests.faults.agent is."""
OURS = SUBJECTS.call(AGENT, "s1")
THEIRS = SUBJECTS.call("agent-b", "s1")
SMALL = topology(max_bytes=64 * MIB)


class Place:
    """A server with one of the shipped configurations."""

    def __init__(self, url: str) -> None:
        self.address = url.removeprefix("nats://")

    def options(self, user: str, inbox: str) -> NatsOptions:
        credentials = Credentials(user=user, password=PASSWORD)
        return NatsOptions((f"nats://{self.address}",), credentials=credentials, inbox_prefix=inbox)

    def variables(self, user: str, inbox: str) -> dict[str, str]:
        return {"UNPOD_NATS_URL": f"nats://{user}:{PASSWORD}@{self.address}", "UNPOD_NATS_INBOX_PREFIX": inbox}


@asynccontextmanager
async def place(directory: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    """Run a server with a shipped file, for the agent of the tests, its passwords in the environment."""
    text = (CONFIGS / name).read_text().replace("max_file: 10GB", "max_file: 200MB")
    before, block, after = text.rpartition("      {\n        # UNPOD_NATS_INBOX_PREFIX=_INBOX.runner.my-agent\n")
    if block:  # another agent, as the file says
        block, end, after = (block + after).partition("      {\n        # UNPOD_NATS_INBOX_PREFIX=_INBOX.bridge\n")
        before, after = before + block.replace("my-agent", "agent-b"), block.replace("my-agent", AGENT) + end + after
    text = before + after
    for variable in ("RUNNER", "BRIDGE", "OPERATOR", "SETUP", "CONSUMER", "SYSTEM"):
        for account in ("", "A_", "B_"):
            monkeypatch.setenv(f"{account}{variable}_PASSWORD", PASSWORD)
    (directory / name).write_text(text)
    async with server(directory, f'{RANDOM_PORT}include "../{name}"\n') as (_, url):
        yield Place(url)


@pytest.fixture
async def roles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    async with place(tmp_path, "roles.conf", monkeypatch) as made:
        yield made


@pytest.fixture
async def receipts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    async with place(tmp_path, "accounts.conf", monkeypatch) as made:
        yield made


async def make_streams(variables: Mapping[str, str]) -> None:
    done = await run("streams", "init", "--size", "64MiB", env=environment(**variables))
    assert done.status == 0, done.err


async def denied(nats: Nats, subject: str, reply: str = "") -> bool:
    """Whether the server refuses a publish, which it says only to whoever listens for it."""
    found: list[PermissionDenied] = []
    stop = nats.on_denied(found.append)
    nats.send(subject, b"{}", {"Nats-Msg-Id": subject}, reply=reply)
    await nats.flush(timeout_s=5)
    stop()
    return bool(found)


async def stored(nats: Nats) -> int:
    found = await info(nats, SMALL.calls.name)
    assert found is not None
    return int(found["state"]["messages"])


async def streams_of(roles: Place) -> None:
    async with connect(roles.options("setup", "_INBOX.setup")) as setup:
        await ensure(setup, SMALL.calls, SMALL.jobs)


async def until_stored(nats: Nats, count: int) -> None:
    async def there() -> bool:
        return await stored(nats) == count

    await eventually(there, f"{count} records are stored")


class Scene(NamedTuple):
    """A call, and who carries it."""

    call: LocalCall
    bridge: Process
    runner: Process

    async def turn(self, number: int) -> None:
        await self.call.user(f"call 1 turn {number}: say")
        assert f"c1t{number}w8" in await self.call.reply()


async def nothing(_: Scene) -> None:
    """Harm nobody."""


async def a_call_is_answered(
    directory: Path,
    orchestrator: LocalOrchestrator,
    bridge_at: Mapping[str, str],
    runner_at: Mapping[str, str],
    operator_at: Mapping[str, str],
    meanwhile: Callable[[Scene], Awaitable[None]] = nothing,
) -> None:
    bridge = await start(
        "bridge",
        "unpod_bridge",
        directory / "bridge.log",
        {**bridge_at, "UNPOD_API_KEY": KEY, "UNPOD_ORCHESTRATOR_URL": orchestrator.url, "UNPOD_LOG_LEVEL": "INFO"},
    )
    notes = {"UNPOD_FAULTS_NOTES": str(directory / "notes"), "UNPOD_LOG_LEVEL": "INFO"}
    runner = await start("runner", "tests.faults.agent", directory / "runner.log", {**runner_at, **notes})
    try:
        await runner.said("ready: agent")
        placed = await orchestrator.place_call(AGENT)
        await placed.connected()
        await placed.user("call 1 turn 1: say")
        assert "c1t1w8" in await placed.reply()
        await meanwhile(Scene(placed, bridge, runner))
        await an_operator_ends_it(placed.session_id, environment(**operator_at))
        await bridge.said("call ended")
        for process in (runner, bridge):
            process.terminate()
        assert await runner.exited() == 0
        assert await bridge.exited() == 0
        assert "may not" not in runner.text + bridge.text
    finally:
        for process in (runner, bridge):
            if process.alive:
                await process.kill()


async def an_operator_ends_it(session: str, env: dict[str, str]) -> None:
    there, *others = await asyncio.gather(
        run("ps", "--json", env=env),
        run("sessions", "say", session, "Hello.", env=env),
        run("sessions", "show", session, env=env),
    )
    assert session in there.out, there.err
    for done in (*others, await run("sessions", "end", session, env=env)):
        assert done.status == 0, done.err


# ---------------------------------------------------------------------------------------------------- one account


async def consumers_work(roles: Place) -> None:
    """Run the consumers in their role: both come to the end of the log."""
    received = Spans()

    async def whole_trace() -> bool:
        return "conversation" in {span.name for span in received.all()}

    variables = roles.variables("consumer", "_INBOX.consumer")
    url = variables.pop("UNPOD_NATS_URL")
    with over_http(received) as endpoint:
        variables["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] = f"{endpoint}/v1/traces"
        async with consuming(url, "metrics", **variables) as metrics, consuming(url, "traces", **variables) as traces:
            await metrics.until("unpod_consumer_lag", 0)
            await traces.until("unpod_consumer_lag", 0)
            await eventually(whole_trace, "the trace of the call")  # a lag of 0 may be from before it has read anything
            for one in (metrics, traces):
                one.process.terminate()
                assert await one.process.wait() == 0


async def test_every_role_does_its_work(roles: Place, tmp_path: Path) -> None:
    await make_streams(roles.variables("setup", "_INBOX.setup"))
    async with LocalOrchestrator(speed=100) as orchestrator:
        bridge = roles.variables("bridge", "_INBOX.bridge")
        bridge["UNPOD_NATS_SYSTEM_URL"] = f"nats://system:{PASSWORD}@{roles.address}"
        await a_call_is_answered(
            tmp_path,
            orchestrator,
            bridge,
            roles.variables(f"runner-{AGENT}", f"_INBOX.runner.{AGENT}"),
            roles.variables("operator", "_INBOX.operator"),
        )
    await consumers_work(roles)
    done = await run("doctor", "--json", env=environment(**roles.variables("operator", "_INBOX.operator")))
    found = {each["name"]: each["status"] for each in json.loads(done.out)["checks"]}
    assert {found[name] for name in ("NATS", "JetStream", "stream UNPOD_CALLS", "stream KV_UNPOD_JOBS")} == {"ok"}


async def test_row_34_a_runner_reaches_only_its_own_agent(roles: Place) -> None:
    async with (
        connect(roles.options("operator", "_INBOX.operator")) as operator,
        connect(roles.options(f"runner-{AGENT}", f"_INBOX.runner.{AGENT}")) as runner,
    ):
        await streams_of(roles)
        assert not await denied(runner, OURS.cmd)
        before = 1
        await until_stored(operator, before)
        for subject in (THEIRS.cmd, THEIRS.run("turn.completed"), THEIRS.delta):
            assert await denied(runner, subject), subject  # commands and speaks for another agent
        for subject in (
            OURS.own,
            OURS.line,
            OURS.ack,
            OURS.evt("user.text"),
            OURS.ctl,
            THEIRS.own,
            THEIRS.ack,
            THEIRS.ctl,
        ):
            assert await denied(runner, subject), (
                subject
            )  # claims, acknowledges, pretends to be a caller or an operator
        for subject in (
            "$KV.UNPOD_JOBS.x",
            "$JS.API.DIRECT.GET.KV_UNPOD_JOBS",
            "$JS.API.STREAM.PURGE.UNPOD_CALLS",
            "$JS.API.STREAM.DELETE.UNPOD_CALLS",
            "$JS.API.STREAM.UPDATE.UNPOD_CALLS",
            "$JS.API.CONSUMER.CREATE.UNPOD_CALLS.x",
            "unpod.dispatch.agent-b",
            "unpod.runner.somebody",
        ):
            assert await denied(runner, subject), subject
        for subject in (
            THEIRS.all,
            THEIRS.live,
            "unpod.call.>",
            "unpod.dispatch.agent-b",
            "_INBOX.>",
            "$KV.UNPOD_JOBS.>",
        ):
            with pytest.raises(PermissionDenied):
                await runner.subscribe(subject, lambda _: None)
        heard: list[Message] = []
        with pytest.raises(PermissionDenied):  # and of what it may hear, nothing is left
            await runner.subscribe_all({OURS.live: heard.append, THEIRS.live: heard.append})
        await operator.publish(OURS.delta, b"")
        await operator.flush(timeout_s=5)
        await runner.flush(timeout_s=5)
        assert heard == []
        assert await stored(operator) == before


async def test_a_runner_that_uses_up_the_ids_of_anothers_call_makes_nothing_of_it_vanish(roles: Place) -> None:
    """In one account deduplication is common to all agents, and ids can be derived by whoever knows the session."""
    async with (
        connect(roles.options("operator", "_INBOX.operator")) as operator,
        connect(roles.options("bridge", "_INBOX.bridge")) as bridge,
        connect(roles.options(f"runner-{AGENT}", f"_INBOX.runner.{AGENT}")) as runner,
    ):
        await streams_of(roles)
        for index in range(1, 40):
            runner.send(OURS.run("taken"), b"{}", {"Nats-Msg-Id": message_id(record_id("s1", "bridge", index), 0)})
        await runner.flush(timeout_s=5)
        await until_stored(operator, 39)
        log = await open_log(bridge, SMALL.calls)
        writer = log.writer()
        head = Letterhead("s1", "bridge", "/unpod/bridge/b", 0)
        for index in range(1, 40):
            writer.put(THEIRS.ack, b"{}", head.headers("ack.receipt", index, 0.0))
        await writer.flush()
        stored_ids = [from_headers(message.headers).id async for message in log.read(THEIRS.ack)]
        assert stored_ids == [record_id("s1", "bridge", index) for index in range(1, 40)]


async def attacked(roles: Place, directory: Path, harm: Callable[[Scene], Awaitable[None]]) -> None:
    """A call that is answered, and ended by an operator, though somebody does harm meanwhile."""
    await streams_of(roles)
    async with LocalOrchestrator(speed=100) as orchestrator:
        await a_call_is_answered(
            directory,
            orchestrator,
            roles.variables("bridge", "_INBOX.bridge"),
            roles.variables(f"runner-{AGENT}", f"_INBOX.runner.{AGENT}"),
            roles.variables("operator", "_INBOX.operator"),
            harm,
        )


async def test_a_runner_that_says_that_anothers_is_gone_is_not_believed(roles: Place, tmp_path: Path) -> None:
    async def harm(scene: Scene) -> None:
        gone = RunnerAnnounced(runner=scene.runner.id, agent=AGENT, capacity=0, gone=True)
        async with connect(roles.options("runner-agent-b", "_INBOX.runner.agent-b")) as other:
            for turn in range(2, 6):
                for _ in range(100):
                    other.send(SUBJECTS.runners, encode(gone))
                await other.flush(timeout_s=5)
                await scene.turn(turn)
            async with connect(roles.options("operator", "_INBOX.operator")) as operator:
                log = await open_log(operator, SMALL.calls)
                subjects = SUBJECTS.call(AGENT, scene.call.session_id)
                assert len([record async for record in log.read(subjects.own)]) == 1
        assert "is gone" not in scene.bridge.text

    await attacked(roles, tmp_path, harm)


async def deliver(consumer: Nats, place: str) -> bool:
    """Have JetStream deliver the log to a subject; return whether it refuses."""
    name = secrets.token_hex(4)
    config = {"name": name, "deliver_subject": place, "ack_policy": "none", "deliver_policy": "all"}
    question = json.dumps({"stream_name": SMALL.calls.name, "config": config}).encode()
    asked = f"$JS.API.CONSUMER.CREATE.{SMALL.calls.name}.{name}"
    answer = await consumer.request(asked, question, timeout_s=5)
    return "error" in json.loads(answer.data)


async def test_records_that_a_consumer_has_delivered_to_others_change_nothing(roles: Place, tmp_path: Path) -> None:
    """Who may make a consumer may name any subject as the place of delivery; a stream's own are refused."""

    async def harm(scene: Scene) -> None:
        session, bridge, runner = scene.call.session_id, scene.bridge.id, scene.runner.id
        async with (
            connect(roles.options("operator", "_INBOX.operator")) as operator,
            connect(roles.options("consumer", "_INBOX.consumer")) as consumer,
        ):
            log = await open_log(operator, SMALL.calls)
            subjects = SUBJECTS.call(AGENT, session)
            [line] = [
                codec.read(SUBJECTS, record.subject, record.headers, record.data).body
                async for record in log.read(subjects.line)
            ]
            assert isinstance(line, ev.LineTaken)
            of_the_log = (subjects.line, subjects.ctl)
            places = [
                *(SUBJECTS.runners, SUBJECTS.bridges, SUBJECTS.probations, SUBJECTS.bridge(bridge)),
                *(SUBJECTS.runner(runner), f"{SUBJECTS.runner(runner)}.ping", f"{SUBJECTS.runner(runner)}.drain"),
                *(f"{SUBJECTS.bridge(bridge)}.drain", f"{SUBJECTS.bridges}.adopt"),
                *(SUBJECTS.dispatch(AGENT), SUBJECTS.resume(AGENT), SUBJECTS.queued(AGENT)),
                *(subjects.delta, f"$KV.UNPOD_JOBS.{line.job_id}", *of_the_log),
            ]
            for number, place in enumerate(places):
                refused = await deliver(consumer, place)
                assert refused == (place in of_the_log), place
                await scene.turn(number + 2)
            assert len([record async for record in log.read(subjects.own)]) == 1
        for process in (scene.bridge, scene.runner):
            assert not re.search("cannot be read|drain|may not", process.text), process.text
        async with connect(roles.options("setup", "_INBOX.setup")) as setup:
            jobs = await info(setup, SMALL.jobs.name)
        assert jobs is not None
        assert jobs["state"]["messages"] == 1
        assert jobs["state"]["last_seq"] <= 2

    await attacked(roles, tmp_path, harm)


INBOXES = {
    "setup": "_INBOX.setup",
    "operator": "_INBOX.operator",
    "bridge": "_INBOX.bridge",
    "consumer": "_INBOX.consumer",
    f"runner-{AGENT}": f"_INBOX.runner.{AGENT}",
}


@pytest.mark.parametrize("user", sorted({*INBOXES} - {"setup"}))
async def test_nobody_but_setup_makes_a_stream_copy_another_one(roles: Place, user: str) -> None:
    """Job records hold the calls' tokens: a copy (`sources`, `mirror`, `republish`) would show them to its readers."""
    await streams_of(roles)
    async with connect(roles.options(user, INBOXES[user])) as nats:
        for verb in ("CREATE", "UPDATE", "DELETE", "RESTORE"):
            for name in ("UNPOD_CALLS", "KV_UNPOD_JOBS", "KV_UNPOD_CONSUMERS", "MINE"):
                assert await denied(nats, f"$JS.API.STREAM.{verb}.{name}"), (verb, name)


@pytest.mark.parametrize("user", sorted(INBOXES))
async def test_only_an_operator_takes_a_record_out(roles: Place, user: str) -> None:
    await streams_of(roles)
    async with connect(roles.options("bridge", "_INBOX.bridge")) as bridge:
        kept = await (await open_log(bridge, SMALL.calls)).append(OURS.ack, b"{}", {})
    async with connect(roles.options(user, INBOXES[user])) as nats:
        asked = "$JS.API.STREAM.MSG.DELETE.UNPOD_CALLS"
        assert await denied(nats, asked) == (user != "operator")
        assert await denied(nats, "$JS.API.STREAM.MSG.DELETE.KV_UNPOD_JOBS")
        if user == "operator":
            answer = await nats.request(asked, b'{"seq":%d}' % kept.seq, timeout_s=5)
            assert json.loads(answer.data)["success"]


@pytest.mark.parametrize("user", ["consumer", f"runner-{AGENT}", "bridge"])
async def test_row_35_who_is_no_operator_controls_nothing(roles: Place, user: str) -> None:
    async with (
        connect(roles.options("operator", "_INBOX.operator")) as operator,
        connect(roles.options(user, INBOXES[user])) as nats,
    ):
        await streams_of(roles)
        log = await open_log(operator, SMALL.calls)
        with pytest.raises(PermissionDenied):  # at once, not after a time-out
            await nats.request(OURS.ctl, b"{}", timeout_s=20)
        assert await log.last(OURS.ctl) is None
        for subject in ("unpod.bridge.b1.drain", "unpod.runner.r1.drain"):
            if user != "bridge":
                assert await denied(nats, subject)


@pytest.mark.parametrize("who", ["bridge", "runner"])
async def test_what_a_role_lacks_is_named_at_start_up(roles: Place, tmp_path: Path, who: str) -> None:
    wrong = roles.variables("consumer", "_INBOX.consumer")
    if who == "bridge":
        process = await start(who, "unpod_bridge", tmp_path / "log", {**wrong, "UNPOD_API_KEY": KEY})
    else:
        notes = {"UNPOD_FAULTS_NOTES": str(tmp_path / "notes")}
        process = await start(who, "tests.faults.agent", tmp_path / "log", {**wrong, **notes})
    assert await process.exited() in (1, 2)
    line = _complaint(process)
    lacking = {
        "bridge": ("unpod.call.rights-probe.rights-probe.line", "$KV.UNPOD_JOBS.rights-probe", "unpod.bridge."),
        "runner": ("unpod.call.agent.rights-probe.cmd", "unpod.dispatch.agent", "unpod.live.agent.rights-probe.>"),
    }[who]
    assert all(subject in line for subject in lacking), line


def _complaint(process: Process) -> str:
    return next(line for line in process.text.splitlines() if "lacks rights of the role" in line)


async def test_a_role_that_may_not_create_the_streams_says_who_may(roles: Place) -> None:
    async with connect(roles.options(f"runner-{AGENT}", f"_INBOX.runner.{AGENT}")) as runner:
        with pytest.raises(ConfigurationError, match="unpod streams init"):
            await open_log(runner, SMALL.calls)


# ----------------------------------------------------------------------------------------------- an account per agent


async def test_an_account_per_agent_serves_calls(receipts: Place, tmp_path: Path) -> None:
    await make_streams(receipts.variables("a-operator", "_INBOX.operator"))
    async with LocalOrchestrator(speed=100) as orchestrator:
        await a_call_is_answered(
            tmp_path,
            orchestrator,
            receipts.variables("a-bridge", "_INBOX.bridge"),
            receipts.variables("a-runner", "_INBOX.runner"),
            receipts.variables("a-operator", "_INBOX.operator"),
        )


async def test_one_account_does_not_starve_the_others(receipts: Place) -> None:
    async with connect(receipts.options("a-operator", "_INBOX.operator")) as ours:
        limits = (await call(ours, "INFO"))["limits"]
        assert min(limits[each] for each in ("max_storage", "max_memory", "max_streams", "max_consumers")) > 0
        with pytest.raises(ConfigurationError, match="cannot be created"):
            await ensure(ours, topology(max_bytes=1024 * 1024 * MIB).calls)
    async with connect(receipts.options("b-operator", "_INBOX.operator")) as theirs:
        await ensure(theirs, SMALL.calls)


async def test_row_34_nothing_gets_from_one_account_to_another(receipts: Place) -> None:
    """It reads, commands, claims, acknowledges, and has the server answer into the other's log."""
    async with (
        connect(receipts.options("a-operator", "_INBOX.operator")) as ours,
        connect(receipts.options("b-operator", "_INBOX.operator")) as theirs,
        connect(receipts.options("a-runner", "_INBOX.runner")) as runner,
    ):
        await open_log(ours, SMALL.calls)
        log = await open_log(theirs, SMALL.calls)
        await log.append(THEIRS.cmd, b"theirs", {"Nats-Msg-Id": "1"})
        heard: list[str] = []
        await theirs.subscribe("unpod.>", lambda message: heard.append(message.subject))
        for subject in (THEIRS.own, THEIRS.ack, THEIRS.line, THEIRS.ctl):
            assert await denied(runner, subject)
        await denied(runner, THEIRS.cmd)  # it stands in a log of ours, if anywhere
        for asked in ("$JS.API.STREAM.INFO.UNPOD_CALLS", "$JS.API.DIRECT.GET.UNPOD_CALLS", "$SRV.PING"):
            await denied(runner, asked, reply=THEIRS.own)
            await denied(runner, asked, reply=THEIRS.ctl)
        read = [message.data async for message in (await open_log(runner, SMALL.calls)).read("unpod.call.>")]
        assert b"theirs" not in read
        await runner.flush(timeout_s=5)
        await theirs.flush(timeout_s=5)
        assert await stored(theirs) == 1
        assert heard == []
