"""Whatever a client and a caller do, in any order and at any moment: the worker keeps its promises."""

import json
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unpod_orchestrator.faults import CallFaults
from unpod_orchestrator.wire.constants import ALL_VERBS, EVENTS, PROTOCOL_ERROR
from unpod_orchestrator.wire.outgoing import CallIdentity
from unpod_orchestrator.worker.conversation import HeardPrefix
from unpod_orchestrator.worker.happenings import Ended
from unpod_orchestrator.worker.speech_worker import CloseLine, Phase, SpeechWorker, Transmit, WorkerOptions

# The worker's half of the wire, written here once more from the protocol, so that the code is not its own judge.


class HelloAck(msgspec.Struct, tag_field="event", tag="hello.ack", forbid_unknown_fields=True):
    protocol_version: Literal[2]
    negotiated_events: list[str]
    negotiated_verbs: list[str]
    call_id: str
    session_id: str
    job_id: str
    room_id: str


class CallStarted(msgspec.Struct, tag_field="event", tag="call.started", forbid_unknown_fields=True):
    session_id: str
    job_id: str
    room_id: str
    metadata: dict[str, Any]
    voice_profile_id: str | None
    agent_id: str | None


class UserText(msgspec.Struct, tag_field="event", tag="user.text", forbid_unknown_fields=True):
    text: str
    is_final: bool
    extra: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class UserInterrupted(msgspec.Struct, tag_field="event", tag="user.interrupted", forbid_unknown_fields=True):
    turn_id: Annotated[int, msgspec.Meta(ge=0)]
    heard_prefix: str | None


class Metric(msgspec.Struct, tag_field="event", tag="metric", forbid_unknown_fields=True):
    ttfa_ms: int | None
    asr_p95_ms: int | None
    tts_p95_ms: int | None
    turns: int
    cost_usd_so_far: float | None


class TurnMetrics(msgspec.Struct, tag_field="event", tag="turn.metrics", forbid_unknown_fields=True):
    call_id: str
    turn_id: Annotated[int, msgspec.Meta(ge=1)]
    ttfa_ms: float | None
    asr_ms: float | None
    llm_ttft_ms: float | None
    tts_ttfb_ms: float | None
    llm_total_ms: float | None
    llm_call_count: int
    from_node: str | None
    to_node: str | None


class State(msgspec.Struct, tag_field="event", tag="state", forbid_unknown_fields=True):
    state: Literal["idle", "listening", "thinking", "speaking", "interrupted"]
    turn_id: int


WorkerFrame = HelloAck | CallStarted | UserText | UserInterrupted | Metric | TurnMetrics | State

HELLO = {"event": "hello", "protocol_version": 2, "supported_events": EVENTS, "supported_verbs": ALL_VERBS}
WORDS = st.text(max_size=40)

verbs = st.one_of(
    st.builds(lambda text: {"event": "agent.text.delta", "text": text}, WORDS),
    st.just({"event": "agent.text.end"}),
    st.builds(lambda text: {"event": "agent.say", "text": text}, WORDS),
    st.builds(lambda text: {"event": "agent.filler", "text": text}, WORDS),
    st.just({"event": "agent.interrupt"}),
    st.just({"event": "recording.pause", "reason": "PII"}),
    st.just({"event": "recording.resume"}),
    st.builds(
        lambda mode, target: {"event": "agent.transfer", "transfer_type": "number", "mode": mode, "target": target},
        st.sampled_from(["cold", "warm"]),
        st.sampled_from(["+15551230000", "911"]),
    ),
    st.just({"event": "agent.end_call", "reason": "completed"}),
    st.just(HELLO),
)

actions = st.one_of(
    st.tuples(st.just("receive"), verbs),
    st.tuples(st.just("wait"), st.floats(0, 5)),
    st.tuples(st.just("says"), WORDS),
    st.tuples(st.just("partial"), WORDS),
    st.tuples(st.just("interrupts"), st.sampled_from([HeardPrefix.AUTOMATIC, None, "claimed"])),
    st.tuples(st.just("lost"), st.sampled_from([None, 1000, 1006, 1011])),
    st.tuples(st.just("dial"), st.booleans()),
    st.tuples(st.just("cancel"), st.none()),
    st.tuples(st.just("hang_up"), st.none()),
    st.tuples(st.just("drop"), st.booleans()),
)


def act(worker: SpeechWorker, action: tuple[str, Any], now: float) -> float:
    kind, value = action
    caller_may = worker.phase is Phase.LIVE
    if kind == "receive":
        worker.received(json.dumps(value), now)
    elif kind == "wait":
        now += value
        worker.tick(now)
    elif kind in {"says", "partial"} and caller_may:
        worker.caller_says(value, final=kind == "says", language=None, extra=None, now=now)
    elif kind == "interrupts" and caller_may:
        worker.caller_interrupts(value, now)
    elif kind == "lost":
        worker.line_lost(value, now)
    elif kind == "dial" and worker.dialled(worker.pairing.token, now) is None and value:
        worker.received(json.dumps(HELLO), now)
    elif kind == "cancel":
        worker.cancel(now)
    elif kind == "hang_up":
        worker.hang_up(now)
    elif kind == "drop":
        worker.drop(now, for_good=value)
    return now


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.lists(actions, max_size=40))
def test_any_call(script: list[tuple[str, Any]]) -> None:
    who = CallIdentity(session_id="s", job_id="j", call_id="c", room_id="r", agent_id=None)
    now = 50.0
    worker = SpeechWorker(who, WorkerOptions(offers=ALL_VERBS), CallFaults(), token="t0ken", now=now)
    worker.dispatched(now)
    effects = []
    for action in [("dial", True), *script]:
        now = act(worker, action, now)
        effects += worker.take_effects()
        wakeup = worker.next_wakeup()
        assert wakeup is None or worker.phase is not Phase.OVER
    for _ in range(1000):  # nobody does anything any more: the call ends by itself, unless its line is up and quiet
        wakeup = worker.next_wakeup()
        if wakeup is None:
            break
        now = max(now, wakeup) + 0.001
        worker.tick(now)
    else:
        raise AssertionError("the worker keeps waking itself up")
    effects += worker.take_effects()

    for effect in effects:
        if isinstance(effect, Transmit):
            msgspec.json.decode(effect.data, type=WorkerFrame)
    ends = [number for number, effect in enumerate(effects) if isinstance(effect, Ended)]
    if worker.phase is Phase.OVER:
        assert ends == [len(effects) - 1]  # once, and last
    else:
        assert ends == []
        assert worker.phase is Phase.LIVE
    if worker.violations:
        assert worker.outcome is not None
        assert worker.outcome.reason in {"failed", "cancelled"}
    heard = {line.text for line in worker.talk.transcript if line.role == "caller"}
    assert heard <= {value for kind, value in script if kind == "says"}
    failures = [effect for effect in effects if isinstance(effect, CloseLine) and effect.code == PROTOCOL_ERROR]
    assert len(failures) <= 1
