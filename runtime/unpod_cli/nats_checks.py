"""The checks of `unpod doctor` that ask NATS: the connection, JetStream, the streams, the clock, who is there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from secrets import token_hex
from typing import Final

from unpod.core.codec import MALFORMED, encode
from unpod.core.controls import InterruptAgent
from unpod.core.dispatch_messages import BRIDGE_ANNOUNCED, RUNNER_ANNOUNCED, BridgeAnnounced, RunnerAnnounced
from unpod.core.envelope import Envelope, parse_time, source, to_headers
from unpod.core.ids import derive
from unpod.core.subjects import DEFAULT_PREFIX, Subjects
from unpod.errors import ConfigurationError, LogError, LogFull, UnpodError
from unpod.jetstream import (
    JetStreamLog,
    Nats,
    PermissionDenied,
    Topology,
    connect,
    differences,
    nats_options,
    stream_settings,
)
from unpod.jetstream.streams.api import call
from unpod.jetstream.streams.topology import MIB, info, lagging
from unpod.ports import Message
from unpod_cli.diagnosis import Finding, in_two

LISTEN_S: Final = 1.6
"""Runners and bridges say each second that they are there."""
SKEWED_S: Final = 5.0
WRITE_S: Final = 4.0
NEARLY_FULL: Final = 0.9
_GRANT: Final = "grant it, or run the doctor as the operator's role"


async def look_at_nats(found: Mapping[str, str], nats_url: str, agent: str) -> list[Finding]:
    """Look at the fleet's NATS and at who is there."""
    try:
        options = nats_options(found, nats_url)
        subjects = Subjects(found.get("UNPOD_SUBJECT_PREFIX", DEFAULT_PREFIX))
        wanted = stream_settings(found).topology(subjects.prefix)
    except UnpodError as error:
        return [Finding("NATS", "wrong", *in_two(str(error)))]
    if options is None:
        return [Finding("NATS", "skipped", "UNPOD_NATS_URL is not set: a runner starts a server and a bridge itself")]
    try:
        async with connect(replace(options, name="unpod doctor")) as nats:
            reached = Finding("NATS", "ok", f"connected to {options.readable()}")
            return [reached, *await _with(nats, found, subjects, wanted, agent)]
    except (ConfigurationError, LogError) as error:
        return [Finding("NATS", "wrong", *in_two(str(error)))]


async def _with(
    nats: Nats, found: Mapping[str, str], subjects: Subjects, wanted: Topology, agent: str
) -> list[Finding]:
    findings = [await _jetstream(nats)]
    if findings[0].status != "wrong":
        findings += await _streams(nats, found, wanted)
        findings.append(await _write(nats, subjects, wanted))
        findings.append(await _clock(nats, wanted))
    findings.append(_system(found))
    return [*findings, *await _who_is_there(nats, subjects, agent)]


async def _jetstream(nats: Nats) -> Finding:
    try:
        account = await call(nats, "INFO")
    except PermissionDenied:
        return Finding("JetStream", "skipped", "this user may not ask", _GRANT)
    except LogError as error:
        return Finding(
            "JetStream", "wrong", str(error), "start nats-server with a jetstream block, for this user's account too"
        )
    used, limits = account.get("storage", 0), account.get("limits") or account.get("tier", {})
    most, streams = limits.get("max_storage", -1), limits.get("max_streams", -1)
    detail = (
        f"on for this account: {used // MIB} MiB of files of {_bound(most, MIB)}, "
        f"{account.get('streams', 0)} streams of {_bound(streams, 1)}"
    )
    if most > 0 and used >= NEARLY_FULL * most:
        return Finding("JetStream", "wrong", detail, "raise max_file of this account, or let its streams keep less")
    return Finding("JetStream", "ok", detail)


def _bound(most: int, unit: int) -> str:
    return f"{most // unit}" if most >= 0 else "any number"


async def _streams(nats: Nats, found: Mapping[str, str], wanted: Topology) -> list[Finding]:
    findings: list[Finding] = []
    for spec in (wanted.calls, wanted.jobs):
        try:
            wrong = await differences(nats, stream_settings(found), spec)
        except PermissionDenied:
            findings.append(Finding(f"stream {spec.name}", "skipped", "this user may not look at it", _GRANT))
            continue
        findings += [Finding(f"stream {spec.name}", "wrong", str(each), each.fix) for each in wrong]
        if not wrong:
            findings.append(await _fullness(nats, spec.name))
        findings += await _replicas(nats, spec.name)
    return findings


async def _replicas(nats: Nats, name: str) -> list[Finding]:
    """Find the nodes that do not keep up: one whose disk is full lags for ever, and the others go on without it."""
    answer = await info(nats, name)
    cluster = {} if answer is None else answer.get("cluster") or {}
    others = cluster.get("replicas") or []
    if not others:
        return []
    what = f"replicas of {name}"
    if not cluster.get("leader"):
        return [Finding(what, "wrong", "no leader is chosen: nothing is stored", "look at nats-server's logs")]
    behind = [f"{node} ({how})" for node, how in lagging(answer or {}).items()]
    if behind:
        fix = "look at its disk and at its log; one that could not write has to be started again once there is room"
        return [Finding(what, "wrong", f"not up to date: {', '.join(behind)}", fix)]
    return [Finding(what, "ok", f"{len(others) + 1} up to date")]


async def _write(nats: Nats, subjects: Subjects, wanted: Topology) -> Finding:
    """Store a record, and take it away again: a server whose disk is full answers everything else."""
    session = f"doctor-{token_hex(8)}"
    headers = to_headers(
        Envelope(
            id=derive("doctor", session),
            type="ctl.interrupt",
            source=source("client", "doctor"),
            session=session,
            time=time.time(),
            epoch=0,
            index=0,
        )
    )
    log = JetStreamLog(nats, wanted.calls)
    try:
        stored = await log.append(
            subjects.call("doctor", session).ctl, encode(InterruptAgent(actor="doctor")), headers, timeout_s=WRITE_S
        )
    except PermissionDenied:
        return Finding("write", "skipped", "this user may not write to the log", _GRANT)
    except LogFull as error:
        return Finding("write", "wrong", str(error), f"nats stream edit {wanted.calls.name} --max-bytes=...")
    except LogError:
        return Finding(
            "write",
            "wrong",
            f"the log acknowledges nothing within {WRITE_S:g} s",
            "make room on the disk of nats-server, then start it again: docs/how-to/when-the-log-is-full.md",
        )
    with suppress(LogError):  # else it stays, and goes with age
        await call(nats, f"STREAM.MSG.DELETE.{wanted.calls.name}", {"seq": stored.seq, "no_erase": True})
    return Finding("write", "ok", "a record is acknowledged")


async def _fullness(nats: Nats, name: str) -> Finding:
    answer = await info(nats, name)
    if answer is None:
        return Finding(f"stream {name}", "wrong", f"{name}: missing", "unpod streams init")
    used = answer["state"]["bytes"] / answer["config"]["max_bytes"]
    if used >= NEARLY_FULL:
        fix = f"nats stream edit {name} --max-bytes=..., or purge the subjects of ended sessions"
        return Finding(f"stream {name}", "wrong", f"{used:.0%} full: new calls are refused from 90 % on", fix)
    return Finding(f"stream {name}", "ok", f"as it must be, {used:.0%} full")


async def _clock(nats: Nats, wanted: Topology) -> Finding:
    try:
        asked = time.time()
        answer = await info(nats, wanted.calls.name)
        now = time.time()
    except PermissionDenied:
        return Finding("clock", "skipped", "this user may not ask the log for its time", _GRANT)
    if answer is None or not isinstance(answer.get("ts"), str):
        return Finding("clock", "skipped", "the log does not tell its time")
    apart = parse_time(answer["ts"]) - (asked + now) / 2
    if abs(apart) > SKEWED_S:
        detail = f"this machine is {abs(apart):.0f} s {'behind' if apart > 0 else 'ahead of'} NATS"
        return Finding(
            "clock", "warning", f"{detail}; calls go by the log's time, signatures do not", "run an NTP client"
        )
    return Finding("clock", "ok", f"{abs(apart):.1f} s from NATS's")


def _system(found: Mapping[str, str]) -> Finding:
    if "UNPOD_NATS_SYSTEM_URL" in found:
        return Finding("UNPOD_NATS_SYSTEM_URL", "ok", "set: bridges hear at once of processes that are gone")
    return Finding(
        "UNPOD_NATS_SYSTEM_URL",
        "warning",
        "not set: bridges notice dead processes by their pings, a little later",
        "for bridges, set it to a user of the system account",
    )


# -------------------------------------------------------------------------------------------------------- who is there


async def _who_is_there(nats: Nats, subjects: Subjects, agent: str) -> list[Finding]:
    runners: dict[str, RunnerAnnounced] = {}
    bridges: dict[str, BridgeAnnounced] = {}

    def on_runner(message: Message) -> None:
        try:
            said = RUNNER_ANNOUNCED.decode(message.data)
        except MALFORMED:
            return
        if said.runner and not said.gone:
            runners[said.runner] = said

    def on_bridge(message: Message) -> None:
        try:
            heard = BRIDGE_ANNOUNCED.decode(message.data)
        except MALFORMED:
            return
        if heard.bridge and not heard.gone:
            bridges[heard.bridge] = heard

    try:
        subscriptions = [
            await nats.subscribe(subjects.runners, on_runner),
            await nats.subscribe(subjects.bridges, on_bridge),
        ]
    except PermissionDenied as error:
        return [Finding("fleet", "skipped", str(error).partition(":")[0], _GRANT)]
    await asyncio.sleep(LISTEN_S)
    for subscription in subscriptions:
        await subscription.close()
    ours = [said for said in runners.values() if agent in ("", said.agent)]
    return [_runners(ours, agent), *_bridges(list(bridges.values()), ours, agent)]


def _runners(runners: list[RunnerAnnounced], agent: str) -> Finding:
    whose = f" of agent {agent}" if agent else ""
    if not runners:
        fix = "unpod run MODULE:RUNNER, with the same UNPOD_NATS_URL and UNPOD_SUBJECT_PREFIX"
        return Finding("runners", "wrong" if agent else "warning", f"no runner{whose} is there", fix)
    room = sum(max(said.capacity - said.in_flight, 0) for said in runners if not said.draining)
    detail = f"{len(runners)}{whose}, with {sum(said.in_flight for said in runners)} calls and room for {room}"
    if not room:
        return Finding("runners", "warning", detail, "start more of them, or raise max_sessions")
    return Finding("runners", "ok", detail)


def _bridges(bridges: list[BridgeAnnounced], runners: list[RunnerAnnounced], agent: str) -> list[Finding]:
    if not bridges:
        fix = "unpod bridge, with the same UNPOD_NATS_URL and UNPOD_SUBJECT_PREFIX"
        return [Finding("bridges", "wrong" if agent else "warning", "no bridge is there", fix)]
    findings = [Finding("bridges", "ok", f"{len(bridges)} there")]
    for key in sorted({f"{said.agent}@dev" if said.dev else said.agent for said in runners}):
        states = sorted({heard.agents.get(key, "connecting") for heard in bridges})
        if states == ["registered"]:
            findings.append(Finding(f"agent {key}", "ok", "registered by every bridge"))
            continue
        details = "; ".join(dict.fromkeys(heard.detail for heard in bridges if heard.detail))
        bad = {"refused", "too_old", "unreachable"} & set(states)
        fix = details or "look at the bridges' logs; check UNPOD_API_KEY and UNPOD_ORCHESTRATOR_URL there"
        findings.append(
            Finding(f"agent {key}", "wrong" if bad else "warning", f"at the bridges: {', '.join(states)}", fix)
        )
    return findings
