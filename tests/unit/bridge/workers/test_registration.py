"""The control socket's state machine, frame by frame."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from unpod.core.dispatch_messages import Refusal
from unpod.errors import OrchestratorTooOld, RunnerAuthError
from unpod_bridge.wire.control_frames import LONGEST_ASSIGN, Reason
from unpod_bridge.workers.effects import (
    Cancel,
    CloseControl,
    DialControl,
    Effect,
    Extend,
    FindRunner,
    GiveUp,
    Identity,
    Log,
    RedialControl,
    Send,
    Withdraw,
)
from unpod_bridge.workers.host_info import Description
from unpod_bridge.workers.registration import REGISTER_S, Registration, backoff_s

ME = Identity(
    "agent", "agent#0a1b2c3d", server="wss://example.test", where=Description("host", "10.0.0.7", "eu", "cloud")
)


def frame(kind: str, **fields: object) -> bytes:
    return json.dumps({"type": kind, **fields}).encode()


def assign(job_id: str = "job-1", assign_id: str = "a-1", **fields: object) -> bytes:
    base: dict[str, object] = {
        "job_id": job_id,
        "call_id": "call-1",
        "agent_id": "agent",
        "bridge_url": "wss://speech.test/call",
        "call_token": "secret-token",
        "assign_id": assign_id,
        "deadline_ms": 2000,
        "metadata": {},
    }
    return frame("job.assign", **{**base, **fields})


def sent(effects: list[Effect]) -> list[dict[str, Any]]:
    return [json.loads(effect.data) for effect in effects if isinstance(effect, Send)]


def of(effects: list[Effect], kind: type) -> list[Any]:
    return [effect for effect in effects if isinstance(effect, kind)]


def ack(job_id: str = "job-1", assign_id: str = "a-1", reason: str | None = None) -> dict[str, Any]:
    return {
        "type": "job.ack",
        "job_id": job_id,
        "assign_id": assign_id,
        "accepted": reason is None,
        "reason": reason,
    }


def opened(capacity: int = 10, identity: Identity = ME) -> Registration:
    registration = Registration(identity)
    registration.set_capacity(capacity)
    registration.opened(0.0)
    return registration


def registered(*, capacity: int = 10, **fields: object) -> Registration:
    registration = opened(capacity)
    registration.received(frame("registered", **{"transport_ack": "dial_out", **fields}), 0.0)
    return registration


# ------------------------------------------------------------------------------------------------------ registering


def test_register_says_who_and_where() -> None:
    registration = Registration(ME)
    registration.set_capacity(7)
    assert sent(registration.opened(0.0)) == [
        {
            "type": "register",
            "worker_id": "agent#0a1b2c3d",
            "pool": "agent",
            "capabilities": {
                "voice_profiles": [],
                "max_concurrent": 7,
                "agent_id": "agent",
                "transport": "dial_out",
                "kind": "brain",
                "hostname": "host",
                "address": "10.0.0.7",
                "region": "eu",
                "deployment": "cloud",
            },
        }
    ]


def test_a_dev_worker_has_a_pool_of_its_own() -> None:
    register = sent(Registration(Identity("agent", "agent#1", dev=True)).opened(0.0))[0]
    assert (register["pool"], register["capabilities"]["agent_id"]) == ("agent@dev", "agent")
    assert register["capabilities"]["hostname"] is None


def test_the_first_heartbeat_comes_at_once_and_then_by_the_interval() -> None:
    registration = opened()
    effects = registration.received(frame("registered", heartbeat_interval_s=7, transport_ack="dial_out"), 100.0)
    beat = {"type": "heartbeat", "active_jobs": 0, "worker_id": ME.worker_id}
    assert sent(effects) == [beat]
    assert registration.state == "registered"
    assert registration.due() == 107.0
    assert sent(registration.tick(106.9)) == []
    assert sent(registration.tick(107.0)) == [beat]
    assert registration.due() == 114.0


@pytest.mark.parametrize("fields", [{}, {"heartbeat_interval_s": None}, {"heartbeat_interval_s": 0}])
def test_a_heartbeat_interval_that_is_absent_is_30_s(fields: dict[str, object]) -> None:
    registration = opened()
    registration.received(frame("registered", transport_ack="dial_out", **fields), 0.0)
    assert registration.due() == 30.0


@pytest.mark.parametrize("fields", [{}, {"transport_ack": None}, {"transport_ack": "serve"}])
def test_an_orchestrator_that_does_not_confirm_the_transport_is_too_old(fields: dict[str, object]) -> None:
    registration = opened()
    effects = registration.received(frame("registered", **fields), 0.0)
    assert isinstance(of(effects, GiveUp)[0].error, OrchestratorTooOld)
    assert "dial_out" in str(of(effects, GiveUp)[0].error)
    assert of(effects, CloseControl)
    assert not sent(effects)
    assert not of(registration.lost(None, 0.5), RedialControl)
    assert registration.state == "too_old"


def test_an_orchestrator_that_never_confirms_is_hung_up_on() -> None:
    registration = opened()
    assert registration.due() == REGISTER_S
    assert not registration.tick(REGISTER_S - 0.1)
    assert of(registration.tick(REGISTER_S), CloseControl)
    assert of(registration.lost(None, 0.5), RedialControl)


@pytest.mark.parametrize("code", [4001, 1008])
@pytest.mark.parametrize("confirmed", [False, True])
def test_close_codes_that_refuse_the_key(code: int, *, confirmed: bool) -> None:
    registration = registered() if confirmed else opened()
    effects = registration.lost(code, 0.5)
    assert isinstance(of(effects, GiveUp)[0].error, RunnerAuthError)
    assert "UNPOD_API_KEY" in str(of(effects, GiveUp)[0].error)
    assert not of(effects, RedialControl)
    assert registration.state == "refused"


@pytest.mark.parametrize("status", [401, 403])
def test_http_statuses_that_refuse_the_key(status: int) -> None:
    registration = Registration(ME)
    effects = registration.unreachable("HTTP", status, 0.5)
    assert isinstance(of(effects, GiveUp)[0].error, RunnerAuthError)
    assert "UNPOD_API_KEY" in registration.detail
    assert registration.state == "refused"


@pytest.mark.parametrize("status", [None, 404, 500, 503])
def test_every_other_failed_dial_is_tried_again(status: int | None) -> None:
    registration = Registration(ME)
    effects = registration.unreachable("no answer", status, 0.5)
    assert of(effects, RedialControl) == [RedialControl(1.0)]
    assert not of(effects, GiveUp)
    assert registration.state == "unreachable"
    assert "UNPOD_ORCHESTRATOR_URL" in of(effects, Log)[0].text
    assert "UNPOD_ORCHESTRATOR_URL" in registration.detail


# ---------------------------------------------------------------------------------------------------------- backoff


def test_the_ladder() -> None:
    assert [backoff_s(n, 0.5) for n in range(7)] == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert (backoff_s(0, 0.0), backoff_s(0, 1.0)) == (0.5, 1.5)
    for attempt in (5, 6, 50, 5000):
        assert backoff_s(attempt, 0.0) >= 15.0
    for attempt in range(100):
        assert backoff_s(attempt, 1.0) <= 30.0


def test_the_ladder_starts_again_after_a_good_connection_and_not_before() -> None:
    registration = Registration(ME)
    delays = [of(registration.unreachable("x", None, 0.5), RedialControl)[0].delay_s for _ in range(3)]
    assert delays == [1.0, 2.0, 4.0]
    registration.opened(0.0)
    assert of(registration.lost(1006, 0.5), RedialControl) == [RedialControl(8.0)]
    registration.opened(0.0)
    registration.received(frame("registered", transport_ack="dial_out"), 0.0)
    assert of(registration.lost(None, 0.5), RedialControl) == [RedialControl(1.0)]


def test_a_reconnect_registers_under_the_same_worker_id_with_the_capacity_as_of_now() -> None:
    registration = registered(capacity=3)
    registration.set_capacity(5)
    registration.lost(1012, 0.5)
    register = sent(registration.opened(9.0))[0]
    assert register["worker_id"] == ME.worker_id
    assert register["capabilities"]["max_concurrent"] == 5


# ------------------------------------------------------------------------------------------------------------- jobs


def test_a_job_is_asked_for_accepted_and_dialled() -> None:
    registration = registered()
    [asked] = registration.received(assign(metadata={"a": 1}), 50.0)
    assert isinstance(asked, FindRunner)
    job = asked.assigned.job
    assert (job.job_id, job.call_id, job.bridge_url, job.call_token) == (
        "job-1",
        "call-1",
        "wss://speech.test/call",
        "secret-token",
    )
    assert 51.7 <= asked.assigned.ask_until < asked.assigned.ack_by < 52.0
    effects = registration.taken("job-1")
    assert sent(effects) == [ack()]
    assert of(effects, DialControl) == [DialControl(job)]


def nested(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


@pytest.mark.parametrize(
    "metadata",
    [
        '{"a": NaN, "b": [1, "}"]}',
        r'{"half": "\ud800"}',
        '["a list"]',
        '"a text: \\"metadata\\": {"',
        "17",
        '{"metadata": {"job_id": "another"}}',
    ],
)
def test_whatever_the_metadata_of_an_assignment_is_its_job_is_taken(metadata: str) -> None:
    data = assign(metadata=None).replace(b'"metadata": null', b'"metadata": ' + metadata.encode())
    assert metadata.encode() in data
    [asked] = registered().received(data, 0.0)
    assert isinstance(asked, FindRunner)
    assert (asked.assigned.job.job_id, asked.assigned.job.call_token) == ("job-1", "secret-token")


@pytest.mark.parametrize("metadata", [nested(900), nested(5_000), f'{{"a": "{"x" * LONGEST_ASSIGN}"}}'])
def test_metadata_with_which_no_call_could_begin_is_refused_at_once_and_for_its_true_reason(metadata: str) -> None:
    registration = registered()
    data = assign(metadata=None).replace(b'"metadata": null', b'"metadata": ' + metadata.encode())
    effects = registration.received(data, 0.0)
    assert sent(effects) == [ack(reason="at_capacity")]
    assert "metadata" in of(effects, Log)[0].text
    assert registration.refusals == {"metadata": 1}
    assert registration.asking == 0


def test_a_frame_without_its_job_is_ignored_whatever_else_it_has() -> None:
    [logged] = registered().received(b'{"type": "job.assign", "metadata": {"job_id": NaN}}', 0.0)
    assert isinstance(logged, Log)


@pytest.mark.parametrize("refusal", ["log_full", "jobs_full", "jobs_away"])
def test_what_the_orchestrator_does_not_know_is_told_as_capacity_and_counted_as_what_it_is(refusal: Refusal) -> None:
    registration = registered()
    registration.received(assign(), 0.0)
    assert sent(registration.refused("job-1", refusal)) == [ack(reason="at_capacity")]
    assert registration.refusals == {refusal: 1}


def test_no_secret_in_a_repr() -> None:
    registration = registered()
    effects = registration.received(assign(), 0.0)
    assert "secret-token" not in repr(effects)
    assert "secret-token" not in repr(registration.taken("job-1"))


@pytest.mark.parametrize("reason", ["at_capacity", "rate_limited", "draining"])
def test_a_refusal_says_why(reason: Reason) -> None:
    registration = registered()
    registration.received(assign(), 0.0)
    assert sent(registration.refused("job-1", reason)) == [ack(reason=reason)]
    assert registration.asking == 0
    assert registration.refused("job-1", reason) == []


def test_the_wrong_agent_is_looked_at_first() -> None:
    registration = registered(capacity=0)
    registration.drain()
    effects = registration.received(assign(agent_id="other"), 0.0)
    assert sent(effects) == [ack(reason="agent_id_mismatch")]
    assert not of(effects, FindRunner)


def test_capacity_0_refuses_everything() -> None:
    registration = registered(capacity=0)
    effects = registration.received(assign(), 0.0)
    assert sent(effects) == [ack(reason="at_capacity")]
    assert not of(effects, FindRunner)
    registration.set_capacity(0, "draining")
    assert sent(registration.received(assign("job-2"), 0.0)) == [ack("job-2", reason="draining")]


def test_an_assignment_without_assign_id_deadline_or_metadata() -> None:
    registration = registered()
    data = frame("job.assign", job_id="job-1", agent_id="agent", bridge_url="ws://x", call_token="t", call_id="c")
    [asked] = registration.received(data, 10.0)
    assert isinstance(asked, FindRunner)
    assert 11.7 <= asked.assigned.ask_until < asked.assigned.ack_by < 12.0
    assert sent(registration.taken("job-1")) == [ack(assign_id="")]


def test_a_deadline_that_nobody_keeps_is_kept_here() -> None:
    registration = registered()
    registration.received(assign(deadline_ms=1000), 10.0)
    due = registration.due()
    assert due is not None
    assert 10.8 < due < 11.0
    assert registration.tick(due - 0.05) == []
    effects = registration.tick(due)
    assert sent(effects) == [ack(reason="at_capacity")]
    assert of(effects, Withdraw) == [Withdraw("job-1")]
    assert registration.taken("job-1") == []


@pytest.mark.parametrize("deadline_ms", [0, -5, 1])
def test_a_deadline_that_is_over_already(deadline_ms: int) -> None:
    registration = registered()
    [asked] = registration.received(assign(deadline_ms=deadline_ms), 10.0)
    assert isinstance(asked, FindRunner)
    assert asked.assigned.ask_until <= 10.001
    assert sent(registration.tick(10.001)) == [ack(reason="at_capacity")]


def test_the_same_job_while_its_call_lives_is_accepted_and_not_dialled_again() -> None:
    registration = registered()
    registration.received(assign(), 0.0)
    registration.taken("job-1")
    effects = registration.received(assign(assign_id="a-2"), 1.0)
    assert [type(effect) for effect in effects] == [Send]
    assert sent(effects) == [ack(assign_id="a-2")]
    registration.drain()
    assert sent(registration.received(assign(assign_id="a-3"), 1.0)) == [ack(assign_id="a-3")]
    registration.ended("job-1")
    assert sent(registration.received(assign(assign_id="a-4"), 1.0)) == [ack(assign_id="a-4", reason="draining")]


def test_the_same_job_while_a_runner_is_looked_for_is_answered_once_under_its_newest_id() -> None:
    registration = registered()
    registration.received(assign(deadline_ms=1000), 0.0)
    [again] = registration.received(assign(assign_id="a-2", deadline_ms=1000), 0.9)
    assert isinstance(again, Extend)
    assert again.assigned.ask_until > 1.6
    assert registration.tick(1.0) == []
    effects = registration.taken("job-1")
    assert sent(effects) == [ack(assign_id="a-2")]
    assert len(of(effects, DialControl)) == 1


def test_cancel_while_asking_dialling_and_unknown() -> None:
    registration = registered()
    registration.received(assign(), 0.0)
    assert registration.received(frame("job.cancel", job_id="job-1"), 0.0) == [Withdraw("job-1")]
    assert registration.taken("job-1") == []
    registration.received(assign("job-2"), 0.0)
    registration.taken("job-2")
    assert registration.received(frame("job.cancel", job_id="job-2"), 0.0) == [Cancel("job-2")]
    effects = registration.received(frame("job.cancel", job_id="nobody's"), 0.0)
    assert [effect.level for effect in of(effects, Log)] == [logging.DEBUG]
    assert of(effects, Cancel) == [Cancel("nobody's")]  # another bridge may have it


def test_a_job_that_lives_at_another_bridge_is_accepted_and_not_dialled() -> None:
    registration = registered()
    registration.received(assign(), 0.0)
    effects = registration.elsewhere("job-1")
    assert sent(effects) == [ack()]
    assert not of(effects, DialControl)
    assert (registration.calls, registration.asking) == (0, 0)


def test_heartbeats_count_the_calls_that_are_up() -> None:
    registration = registered(heartbeat_interval_s=5)
    for job_id in ("job-1", "job-2", "job-3"):
        registration.received(assign(job_id), 0.0)
        if job_id != "job-3":
            registration.taken(job_id)
    registration.up("job-1")
    assert (registration.asking, registration.calls, registration.active) == (1, 2, 1)
    registration.refused("job-3", "at_capacity")
    assert sent(registration.tick(5.0))[0]["active_jobs"] == 1
    registration.ended("job-1")
    registration.up("job-1")
    assert sent(registration.tick(10.0))[0]["active_jobs"] == 0


def test_a_lost_socket_drops_what_was_being_looked_for_and_keeps_the_calls() -> None:
    registration = registered()
    registration.received(assign("job-1"), 0.0)
    registration.taken("job-1")
    registration.received(assign("job-2"), 0.0)
    effects = registration.lost(None, 0.5)
    assert of(effects, Withdraw) == [Withdraw("job-2")]
    assert registration.taken("job-2") == []
    assert registration.calls == 1
    assert registration.due() is None
    registration.opened(1.0)
    registration.received(frame("registered", transport_ack="dial_out"), 1.0)
    assert registration.received(frame("job.cancel", job_id="job-1"), 2.0) == [Cancel("job-1")]


def test_draining_refuses_what_waits_and_what_comes() -> None:
    registration = registered()
    registration.received(assign(), 0.0)
    effects = registration.drain()
    assert sent(effects) == [ack(reason="draining")]
    assert of(effects, Withdraw) == [Withdraw("job-1")]
    assert sent(registration.received(assign("job-2"), 0.0)) == [ack("job-2", reason="draining")]


# -------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nonsense",
        b"[]",
        b"{}",
        b'{"type": 7}',
        b'{"type": "job.assign"}',
        b'{"type": "job.assign", "job_id": 7, "agent_id": "agent", "bridge_url": "ws://x", "call_token": "t"}',
        b'{"type": "job.cancel"}',
        b'{"type": "registered", "heartbeat_interval_s": "soon"}',
        b'{"type": "registered", "heartbeat_interval_s": 1e999}',
        b'{"type": "\xff"}',
        b"[" * 1_000_000,
        b'{"type":"job.cancel","job_id":' + b"9" * 5000 + b"}",
        assign(""),
    ],
)
def test_malformed_frames_are_logged_and_ignored(data: bytes) -> None:
    registration = registered()
    effects = registration.received(data, 1.0)
    assert effects
    assert all(isinstance(effect, Log) for effect in effects)
    assert registration.state == "registered"


def test_unknown_and_binary_frames_are_logged_and_ignored() -> None:
    registration = registered()
    for effects in (
        registration.received(frame("surprise", job_id="job-1"), 1.0),
        registration.received(assign(), 1.0, binary=True),
    ):
        assert [type(effect) for effect in effects] == [Log]
    assert registration.asking == 0


def test_unknown_fields_are_ignored() -> None:
    registration = registered(server_version="9", more={"a": [1]})
    assert of(registration.received(assign(priority=7), 0.0), FindRunner)


def test_an_assignment_before_registered_is_ignored() -> None:
    registration = opened()
    effects = registration.received(assign(), 0.0)
    assert [type(effect) for effect in effects] == [Log]


# -------------------------------------------------------------------------------------------------- the serve transport


def test_one_that_serves_says_where_and_names_no_transport() -> None:
    serving = Identity("agent", "agent#0a1b2c3d", serving_url="wss://runner.test:8765")
    registration = Registration(serving)
    registration.set_capacity(3)
    capabilities = sent(registration.opened(0.0))[0]["capabilities"]
    assert capabilities["serving_url"] == "wss://runner.test:8765"
    assert "transport" not in capabilities
    effects = registration.received(frame("registered"), 0.0)
    assert registration.state == "registered"
    assert sent(effects) == [{"type": "heartbeat", "active_jobs": 0, "worker_id": None}]
    registration.enter("job-1")
    assert sent(registration.tick(30.0)) == [{"type": "heartbeat", "active_jobs": 1, "worker_id": None}]


def test_one_that_dials_out_has_no_serving_url() -> None:
    registration = Registration(ME)
    capabilities = sent(registration.opened(0.0))[0]["capabilities"]
    assert capabilities["transport"] == "dial_out"
    assert "serving_url" not in capabilities
