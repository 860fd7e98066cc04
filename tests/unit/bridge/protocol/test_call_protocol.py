from __future__ import annotations

import pytest
from tests.unit.bridge.wires import Wire, facts, kinds, outcomes, spoken, verbs, written

from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.live import Again
from unpod_bridge.protocol import outputs as do
from unpod_bridge.protocol.state import ProtocolSettings
from unpod_bridge.wire.call_frames import MAX_FRAME, VERBS

NINE = VERBS
IRREVERSIBLE = [
    cmd.EndCall(),
    cmd.Transfer(transfer_type="number", target="+1"),
    cmd.DispatchAgent(agent_id="b"),
    cmd.Merge(source_session_id="x"),
    cmd.AddParticipant(participant_type="sip"),
    cmd.RemoveParticipant(participant_id="p"),
]


# --- the handshake ----------------------------------------------------------------------------------------------------


def test_hello_first_then_the_call_begins() -> None:
    wire = Wire()
    assert wire.start() == [do.Dial()]
    assert verbs(wire.opened()) == ["hello"]
    assert wire.acks() == []
    (begin,) = wire.says("call.started", session_id="s")
    assert isinstance(begin, do.Begin)
    assert (begin.session_id, begin.hello.type, begin.started.type) == ("s", "hello.ack", "call.started")


def test_what_happens_before_the_call_is_placed_is_kept() -> None:
    wire = Wire()
    wire.start(), wire.opened(), wire.acks()
    wire.says("state", state="idle")
    wire.says("call.started", session_id="s")
    wire.says("user.text", text="hi")
    assert not facts(wire.out)
    wire.protocol.owner.appoint(7, wire.now)
    wire.does(cmd.Say(text="hello"))
    assert verbs(wire.out) == ["hello", "agent.say"]
    wire.feed(wire.protocol.begin(wire.now))
    assert [ev.tag_of(fact) for fact in facts(wire.out)] == ["state", "user.text", "command.acknowledged"]


def test_a_hangup_before_the_call_is_placed() -> None:
    wire = Wire()
    wire.start(), wire.opened(), wire.greets()
    assert kinds(wire.lost(1000)) == []
    assert kinds(wire.feed(wire.protocol.begin(wire.now))) == ["Store", "Over"]


@pytest.mark.parametrize("stall", ["greeting", "acked"])
def test_a_stalled_handshake_is_closed_within_its_limit_and_dialled_again(stall: str) -> None:
    wire = Wire()
    wire.start(), wire.opened()
    if stall == "acked":
        wire.passes(1.0)
        wire.acks()
    assert wire.passes(8.9) == []
    assert wire.passes(1.15)[0] == do.Close(1002)
    wire.passes(0.3)
    assert wire.out[-1] == do.Dial()
    wire.opened()
    assert kinds(wire.greets()) == ["Begin"]


def test_call_started_before_hello_ack_is_closed_and_dialled_again() -> None:
    wire = Wire()
    wire.start(), wire.opened()
    assert wire.says("call.started", session_id="s") == [do.Close(1002)]
    assert wire.passes(0.2) == [do.Dial()]
    wire.opened(), wire.greets()
    out = wire.feed(wire.protocol.begin(wire.now))
    (fact,) = facts(out, ev.FrameRejected)
    assert isinstance(fact, ev.FrameRejected)
    assert fact.reason == "call.started out of order"


@pytest.mark.parametrize("frame", [b'{"event":"hello.ack","negotiated_verbs":5}', b'{"event":"hello.ack"}'])
def test_a_hello_ack_that_is_ill_typed_or_comes_twice_is_no_handshake(frame: bytes) -> None:
    wire = Wire()
    wire.start(), wire.opened()
    if b":5" not in frame:
        wire.acks()
    assert wire.raw(frame) == [do.Close(1002)]


def test_two_4003_and_then_success_is_one_call() -> None:
    wire = Wire()
    wire.start(), wire.opened()
    assert wire.lost(4003) == []
    assert wire.passes(0.19) == []
    assert wire.passes(0.02) == [do.Dial()]
    wire.opened(), wire.lost(4003)
    assert wire.passes(0.39) == []
    assert wire.passes(0.02) == [do.Dial()]
    wire.opened()
    assert kinds(wire.greets()) == ["Begin"]


def test_three_tries_in_all() -> None:
    wire = Wire()
    wire.start(), wire.refused(), wire.passes(1), wire.opened(), wire.lost(4003), wire.passes(1)
    (failed,) = wire.refused(503)
    assert isinstance(failed, do.Failed)
    assert wire.passes(60) == []
    assert not failed.cancelled


def test_a_worker_that_hangs_up_in_the_handshake_is_not_dialled_again() -> None:
    wire = Wire()
    wire.start(), wire.opened()
    assert kinds(wire.lost(1000)) == ["Failed"]


def test_a_call_without_a_session_id_is_no_call() -> None:
    wire = Wire()
    wire.start(), wire.opened(), wire.acks()
    assert kinds(wire.says("call.started", session_id="")) == ["Close", "Failed"]


@pytest.mark.parametrize(
    ("metadata", "why"),
    [
        (b'"' + b"x" * MAX_FRAME + b'"', "over 1048576 bytes"),
        (b"[" * 200 + b"]" * 200, "nested too deeply"),
        (b"[" * 5_000 + b"]" * 5_000, "nested too deeply"),
    ],
)
def test_a_call_that_begins_with_more_than_can_be_taken_is_refused_at_once(metadata: bytes, why: str) -> None:
    wire = Wire()
    wire.start(), wire.opened(), wire.acks()
    *_, close, failed = wire.raw(b'{"event":"call.started","session_id":"s","metadata":{"x":' + metadata + b"}}")
    assert close == do.Close(1002)
    assert isinstance(failed, do.Failed)
    assert failed.reason.startswith("the call cannot begin: ")
    assert failed.reason.endswith(why)
    assert wire.passes(60) == []


@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_cancel_while_dialling(step: int) -> None:
    wire = Wire()
    wire.start()
    if step == 1:
        wire.refused()
    if step > 1:
        wire.opened()
    if step > 2:
        wire.acks()
    assert wire.feed(wire.protocol.cancel(wire.now)) == [do.Close(1000), do.Failed("cancelled", cancelled=True)]
    assert wire.passes(60) == []
    assert wire.feed(wire.protocol.cancel(wire.now)) == []


# --- frames -----------------------------------------------------------------------------------------------------------


def test_frames_are_stored_as_they_came_in_order() -> None:
    wire = Wire().up()
    one, two, three = b'{"event":"user.text", "text":"a"}', b'{"event":"wave"}', b"{"
    wire.raw(one), wire.raw(two), wire.raw(three)
    stores = [output for output in wire.out if isinstance(output, do.Store)]
    assert [ev.tag_of(store.body) for store in stores] == ["user.text", "unknown", "rejected"]
    assert stores[0].data == one
    assert not any(store.withheld for store in stores)


@pytest.mark.parametrize("again", ["hello.ack", "call.started"])
def test_a_second_handshake_on_one_socket_is_rejected_and_changes_nothing(again: str) -> None:
    wire = Wire().up(*NINE)
    out = wire.says(again, session_id="other", negotiated_verbs=["agent.interrupt"])
    (fact,) = facts(out)
    assert isinstance(fact, ev.FrameRejected)
    assert fact.reason == f"a second {again} on one socket"
    assert outcomes(wire.does(cmd.Interrupt())) == [("interrupt", "ignored")]
    assert wire.protocol.session_id == "s"


def test_a_flood_of_frames_that_cannot_be_taken_is_kept_in_part_and_counted() -> None:
    wire = Wire(ProtocolSettings(max_rejected=3, max_unknown=2)).up()
    for _ in range(5):
        wire.raw(b"junk")
        wire.says("wave")
    assert len(facts(wire.out, ev.FrameRejected)) == 3
    assert len(facts(wire.out, ev.FrameUnknown)) == 2
    (ended,) = facts(wire.lost(1000), ev.CallEnded)
    assert isinstance(ended, ev.CallEnded)
    assert ended.detail == "5 more frames were not kept"


def test_a_message_beyond_every_bound_is_recorded_and_the_call_goes_on() -> None:
    wire = Wire().up()
    out = wire.lost(None, "a message of 9 MB")
    assert kinds(out) == ["Store", "Dial"]
    (fact,) = facts(out)
    assert isinstance(fact, ev.FrameRejected)


# --- replies ----------------------------------------------------------------------------------------------------------


def test_the_first_piece_leaves_at_once_and_alone_and_the_others_are_joined() -> None:
    wire = Wire().up()
    assert spoken(wire.speaks(1, 1, "a")) == ["a"]
    assert wire.speaks(1, 2, "b") == []
    assert wire.speaks(1, 3, "c") == []
    assert wire.protocol.joined
    assert spoken(wire.flush()) == ["bc"]
    assert wire.flush() == []
    assert spoken(wire.speaks(1, 4, "d")) == []
    assert spoken(wire.ends(1, 4)) == ["d", None]


def test_pieces_in_any_order_each_once() -> None:
    wire = Wire().up()
    for n in (3, 2, 2, 1, 1, 4, 3):
        wire.speaks(1, n, str(n))
    wire.flush()
    assert "".join(str(text) for text in spoken(wire.out)) == "1234"


def test_an_empty_piece_is_counted_and_not_sent() -> None:
    wire = Wire().up()
    wire.speaks(1, 1, ""), wire.speaks(1, 2, "a"), wire.speaks(1, 3, "")
    assert spoken(wire.ends(1, 3)) == [None]
    assert spoken(wire.out) == ["a", None]
    assert facts(wire.out, ev.ReplySpoken) == [ev.ReplySpoken(turn=1, deltas=3, chars=1, ended=True)]


def test_a_turn_without_text_ends_once() -> None:
    wire = Wire().up()
    assert spoken(wire.ends(1, 0, reason="empty")) == [None]
    assert wire.ends(1, 0) == []
    assert wire.speaks(1, 1, "late") == []
    assert facts(wire.out, ev.ReplySpoken) == [ev.ReplySpoken(turn=1, ended=True)]


def test_pieces_of_another_epoch_are_not_spoken() -> None:
    wire = Wire().up()
    assert wire.speaks(1, 1, "zombie", epoch=6) == []
    assert wire.speaks(1, 1, "future", epoch=8) == []
    assert wire.does(cmd.Say(text="zombie"), epoch=6) == []


def test_a_piece_waits_for_the_command_before_it() -> None:
    wire = Wire().up()
    assert wire.speaks(1, 1, "a", after=1) == []
    assert verbs(wire.does(cmd.Say(text="first"))) == ["agent.say", "agent.text.delta"]


def test_joined_speech_leaves_before_a_later_say() -> None:
    wire = Wire().up()
    wire.speaks(1, 1, "a"), wire.speaks(1, 2, "b")
    assert [frame.get("text") for frame in written(wire.does(cmd.Say(text="!")))] == ["b", "!"]


def test_an_end_waits_for_missing_pieces_and_asks_for_them() -> None:
    wire = Wire().up()
    wire.speaks(1, 1, "a")
    assert wire.ends(1, 3) == [do.AskAgain(Again(7, 1, 0, 2))]
    assert do.AskAgain(Again(7, 1, 0, 2)) in wire.passes(0.6)
    wire.speaks(1, 2, "b", after=0)
    assert spoken(wire.speaks(1, 3, "c", after=0)) == ["bc", None]
    assert not [output for output in wire.passes(5) if isinstance(output, do.AskAgain)]


def test_an_end_whose_pieces_never_come_is_sent_after_two_seconds() -> None:
    wire = Wire().up()
    wire.speaks(1, 1, "a"), wire.ends(1, 3)
    wire.does(cmd.Say(text="next"))
    assert "agent.say" not in verbs(wire.out)
    assert not spoken(wire.passes(1.9))
    assert verbs(wire.passes(0.2)) == ["agent.text.end", "agent.say"]
    assert facts(wire.out, ev.ReplySpoken)[-1] == ev.ReplySpoken(turn=1, deltas=1, chars=1, ended=True)
    assert wire.speaks(1, 2, "b") == []


def test_missing_pieces_are_not_given_up_while_the_log_is_away() -> None:
    wire = Wire().up()
    wire.speaks(1, 1, "a"), wire.ends(1, 3)
    wire.feed(wire.protocol.log_away(wire.now))
    assert not spoken(wire.passes(10))
    assert wire.feed(wire.protocol.log_back(wire.now)) == [do.AskAgain(Again(7, 1, 0, 2))]
    assert do.AskAgain(Again(7, 1, 0, 2)) in wire.passes(1.9)
    wire.speaks(1, 2, "b", after=0)
    assert spoken(wire.speaks(1, 3, "c", after=0)) == ["bc", None]


def test_a_gap_in_the_middle_is_asked_for_and_then_left_out() -> None:
    wire = Wire().up()
    wire.speaks(1, 1, "a")
    assert wire.speaks(1, 3, "c") == [do.AskAgain(Again(7, 1, 0, 2))]
    wire.passes(2.1)
    wire.ends(1, 3)
    assert spoken(wire.out) == ["a", "c", None]


def test_an_interrupted_reply_waits_for_nothing() -> None:
    wire = Wire().up()
    wire.speaks(1, 1, "a")
    assert spoken(wire.ends(1, 9, reason="interrupted")) == [None]


def test_after_a_barge_in_no_later_piece_and_one_end() -> None:
    wire = Wire().up()
    wire.speaks(1, 1, "a"), wire.speaks(1, 2, "b")
    wire.says("user.interrupted", turn_id=1, heard_prefix="a")
    assert not wire.protocol.joined
    assert wire.speaks(1, 3, "c") == []
    assert spoken(wire.ends(1, 3, reason="interrupted")) == [None]
    assert facts(wire.out, ev.ReplySpoken) == [ev.ReplySpoken(turn=1, deltas=1, chars=1, ended=True)]
    assert spoken(wire.speaks(2, 1, "next")) == ["next"]


def test_a_reply_that_nobody_ended_is_ended_before_the_next() -> None:
    wire = Wire().up()
    wire.speaks(1, 1, "a")
    assert spoken(wire.speaks(2, 1, "b")) == [None, "b"]
    assert wire.ends(1, 1) == []
    assert spoken(wire.ends(2, 1)) == [None]


def test_a_reply_in_two_parts_is_one_reply() -> None:
    wire = Wire().up()
    wire.speaks(1, 1, "a"), wire.speaks(1, 1, "b", part=1), wire.flush(), wire.ends(1, 1, part=1)
    wire.speaks(1, 1, "c", part=2), wire.ends(1, 1, part=2)
    assert spoken(wire.out) == ["a", "b", None]
    assert facts(wire.out, ev.ReplySpoken) == [ev.ReplySpoken(turn=1, part=1, deltas=1, chars=2, ended=True)]


def test_receipts_are_cumulative_and_few() -> None:
    wire = Wire().up()
    for n in range(1, 101):
        wire.speaks(1, n, "xy")
        wire.flush()
        wire.passes(0.02)
    wire.ends(1, 100)
    receipts = [fact for fact in facts(wire.out, ev.ReplySpoken) if isinstance(fact, ev.ReplySpoken)]
    assert 7 <= len(receipts) <= 10
    assert [receipt.deltas for receipt in receipts] == sorted(receipt.deltas for receipt in receipts)
    assert receipts[-1] == ev.ReplySpoken(turn=1, deltas=100, chars=200, ended=True)
    assert all(receipt.chars == 2 * receipt.deltas for receipt in receipts)


def test_speech_that_waits_is_bounded() -> None:
    wire = Wire(ProtocolSettings(buffer_bytes=10_000)).up()
    wire.lost(None)
    for n in range(1, 1_000):
        wire.speaks(1, n, "x" * 100)
    wire.back()
    wire.flush()
    assert 5_000 <= len("".join(str(text) for text in spoken(wire.out))) <= 10_000
    assert any(isinstance(output, do.AskAgain) for output in wire.ends(1, 999))


def test_a_long_run_of_joined_text_leaves_in_frames_of_bounded_size() -> None:
    wire = Wire().up()
    wire.speaks(1, 1, "a")
    for n in range(2, 12):
        wire.speaks(1, n, "x" * 20_000)
    frames = written(wire.flush())
    assert len(frames) == 4
    assert sum(len(str(frame["text"])) for frame in frames) == 200_000


# --- commands ---------------------------------------------------------------------------------------------------------


def test_commands_are_performed_in_the_order_of_their_indexes() -> None:
    wire = Wire().up()
    assert wire.does(cmd.Say(text="2"), index=2) == []
    assert wire.passes(0.0) == [do.Fetch(1, 1)]
    assert wire.does(None, index=4) == []
    wire.does(cmd.Say(text="1"), index=1)
    assert [frame["text"] for frame in written(wire.out)] == ["1", "2"]
    assert do.Fetch(3, 3) in wire.passes(0.3)
    wire.does(cmd.Say(text="3"), index=3)
    assert wire.passes(5.0) == []


def test_a_record_that_comes_twice_counts_once() -> None:
    wire = Wire().up()
    wire.does(cmd.Say(text="1"), index=1)
    assert wire.does(cmd.Say(text="1"), index=1) == []
    assert wire.does(cmd.Say(text="1"), index=2, name="id-1") == []
    assert outcomes(wire.out) == [("say", "written")]


def test_what_cannot_be_read_is_refused_and_holds_nothing_up() -> None:
    wire = Wire().up()
    out = wire.feed(wire.protocol.on_owned(do.Owned(7, 1, "x", refusal="it cannot be read"), wire.now))
    wire.index = 1
    assert [fact.outcome for fact in facts(out, ev.CommandAcknowledged)] == ["refused"]  # type: ignore[attr-defined]
    assert verbs(wire.does(cmd.Say(text="a"))) == ["agent.say"]


@pytest.mark.parametrize("command", IRREVERSIBLE)
def test_what_cannot_be_taken_back_is_claimed_before_it_is_written_and_delivered_by_pong(
    command: cmd.AnyCommand,
) -> None:
    wire = Wire().up()
    (claim,) = wire.does(command)
    assert isinstance(claim, do.Store)
    assert claim.notify == claim.cause == "id-1"
    assert outcomes(wire.out) == [(ev.tag_of(command), "claimed")]
    assert wire.does(cmd.Say(text="later")) == []
    out = wire.stored()
    assert kinds(out) == ["Write", "Ping", "Write", "Store"]
    assert outcomes(wire.pong()) == [(ev.tag_of(command), "delivered")]
    assert wire.pong() == []


@pytest.mark.parametrize("command", IRREVERSIBLE)
def test_a_claim_that_is_stored_during_a_drop_is_written_once_after_it(command: cmd.AnyCommand) -> None:
    wire = Wire().up()
    wire.does(command)
    wire.lost(None)
    assert wire.stored() == []
    out = wire.back()
    assert verbs(out)[1:] == [written(wire.out)[-1]["event"]]
    assert outcomes(wire.pong()) == [(ev.tag_of(command), "delivered")]


@pytest.mark.parametrize("command", IRREVERSIBLE[2:])
def test_what_was_written_but_not_confirmed_before_a_drop_is_unknown_and_not_repeated(command: cmd.AnyCommand) -> None:
    wire = Wire().up()
    wire.does(command), wire.stored(), wire.lost(None)
    out = wire.back()
    assert verbs(out) == ["hello"]
    assert outcomes(out) == [(ev.tag_of(command), "unknown")]


def test_a_claim_is_not_taken_during_a_drop() -> None:
    wire = Wire().up()
    wire.lost(None)
    assert wire.does(cmd.Merge(source_session_id="x")) == []
    assert outcomes(wire.back()) == [("merge", "claimed")]


@pytest.mark.parametrize("state", ["thinking", "speaking", ""])
def test_the_end_of_a_reply_that_the_worker_may_not_have_read_is_written_again_after_a_drop(state: str) -> None:
    wire = Wire().up()
    wire.speaks(1, 1, "a"), wire.ends(1, 1), wire.lost(None)
    assert spoken(wire.back()) == []
    wire.speaks(2, 1, "b")
    assert spoken(wire.out)[2:] == []  # nothing goes out before the end is settled
    out = wire.says("state", state=state, turn_id=1) if state else wire.passes(ProtocolSettings().doubt_s)
    assert spoken(out) == [None, "b"]
    assert not [fact for fact in facts(out) if isinstance(fact, ev.ReplySpoken)]
    wire.pong(), wire.lost(None)
    assert spoken(wire.back()) == []


def test_one_that_listens_has_read_the_end() -> None:
    wire = Wire().up()
    wire.speaks(1, 1, "a"), wire.ends(1, 1), wire.lost(None), wire.back()
    wire.speaks(2, 1, "b")
    assert spoken(wire.says("state", state="listening", turn_id=1)) == ["b"]
    wire.lost(None), wire.back()
    wire.lost(None), wire.back()


def test_the_end_of_a_reply_that_the_worker_has_read_is_not_written_again() -> None:
    wire = Wire().up()
    wire.speaks(1, 1, "a"), wire.ends(1, 1), wire.pong(), wire.lost(None)
    assert spoken(wire.back()) == []


def test_the_end_of_a_reply_is_not_written_again_where_the_call_ends() -> None:
    wire = Wire().up()
    wire.speaks(1, 1, "a"), wire.ends(1, 1)
    assert spoken(wire.lost(1000)) == []


def test_a_later_pong_confirms_what_was_written_before() -> None:
    wire = Wire().up()
    wire.does(cmd.Merge(source_session_id="x")), wire.stored()
    wire.does(cmd.DispatchAgent(agent_id="b")), wire.stored()
    assert outcomes(wire.pong()) == [("merge", "delivered"), ("dispatch", "delivered")]


def test_commands_that_the_worker_does_not_know_are_refused_or_ignored() -> None:
    wire = Wire().up("agent.say")
    wire.does(cmd.Interrupt())
    wire.does(cmd.SetFiller(text="mhm"))
    wire.does(cmd.PauseRecording())
    wire.does(cmd.Merge(source_session_id="x"))
    assert outcomes(wire.out) == [
        ("interrupt", "ignored"),
        ("filler.set", "ignored"),
        ("recording.pause", "refused"),
        ("merge", "refused"),
    ]
    assert not written(wire.out)


def test_interrupt_where_it_is_negotiated() -> None:
    wire = Wire().up()
    wire.speaks(1, 1, "a")
    assert verbs(wire.does(cmd.Interrupt())) == ["agent.interrupt"]
    assert verbs(wire.ends(1, 1, reason="interrupted")) == ["agent.text.end"]


def test_interrupt_where_it_is_not_negotiated_sends_nothing_and_the_end_of_the_reply_does_it() -> None:
    wire = Wire().up(*NINE)
    wire.speaks(1, 1, "a")
    assert verbs(wire.does(cmd.Interrupt())) == []
    assert verbs(wire.ends(1, 1, reason="interrupted")) == ["agent.text.end"]


def test_a_say_whose_text_was_lost_is_refused() -> None:
    wire = Wire().up()
    assert outcomes(wire.does(cmd.Say(text=None, withheld=True))) == [("say", "refused")]


# --- the recording ----------------------------------------------------------------------------------------------------


def test_what_is_said_while_the_recording_is_paused_is_withheld() -> None:
    wire = Wire().up()
    assert written(wire.does(cmd.PauseRecording(reason="pci"))) == [{"event": "recording.pause", "reason": "pci"}]
    (store,) = wire.says("user.text", text="4111")
    assert isinstance(store, do.Store)
    assert store.withheld
    wire.does(cmd.ResumeRecording())
    (store,) = wire.says("user.text", text="thanks")
    assert isinstance(store, do.Store)
    assert not store.withheld


def test_a_redial_sends_the_pause_again_first() -> None:
    wire = Wire().up()
    wire.does(cmd.PauseRecording(reason="pci"))
    wire.lost(None)
    wire.does(cmd.Say(text="hello"))
    assert verbs(wire.back()) == ["hello", "recording.pause", "agent.say"]
    wire.lost(None)
    wire.does(cmd.ResumeRecording())
    assert verbs(wire.back()) == ["hello", "recording.pause", "recording.resume"]
    wire.lost(None)
    assert verbs(wire.back()) == ["hello"]


def test_a_pause_counts_from_its_arrival() -> None:
    wire = Wire().up()
    wire.does(cmd.Merge(source_session_id="x"))
    wire.does(cmd.PauseRecording())
    (store,) = wire.says("user.text", text="4111")
    assert isinstance(store, do.Store)
    assert store.withheld


def test_a_call_that_is_not_recorded_needs_no_pause() -> None:
    wire = Wire().up(*NINE, recording=False)
    wire.does(cmd.PauseRecording()), wire.does(cmd.ResumeRecording())
    assert outcomes(wire.out) == [("recording.pause", "ignored"), ("recording.resume", "ignored")]
    assert not written(wire.out)


def test_a_pause_that_the_worker_cannot_do_is_refused_and_withholds_nothing() -> None:
    wire = Wire().up(*NINE, recording=True)
    assert outcomes(wire.does(cmd.PauseRecording())) == [("recording.pause", "refused")]
    (store,) = wire.says("user.text", text="a")
    assert isinstance(store, do.Store)
    assert not store.withheld


# --- the filler -------------------------------------------------------------------------------------------------------


def test_the_filler_is_said_once_in_a_turn_without_reply_text() -> None:
    wire = Wire().up(*NINE)
    wire.does(cmd.SetFiller(text="mhm"))
    wire.says("user.text", text="hi")
    assert wire.passes(0.69) == []
    assert written(wire.passes(0.02)) == [{"event": "agent.say", "text": "mhm"}]
    assert wire.passes(20) == []
    wire.speaks(1, 1, "a"), wire.ends(1, 1)
    wire.says("user.text", text="and")
    assert verbs(wire.passes(0.8)) == ["agent.say"]


@pytest.mark.parametrize("what", ["delta", "say", "end", "partial", "unset", "negotiated"])
def test_no_filler_where_nobody_waits_in_silence(what: str) -> None:
    wire = Wire().up(*(() if what == "negotiated" else NINE))
    wire.does(cmd.SetFiller(text="mhm"))
    if what == "unset":
        wire.does(cmd.SetFiller(text=""))
    wire.out.clear()
    wire.says("user.text", text="hi", is_final=what != "partial")
    if what == "delta":
        wire.speaks(1, 1, "a")
    elif what == "say":
        wire.does(cmd.Say(text="one moment"))
    elif what == "end":
        wire.ends(1, 0)
    wire.passes(5)
    assert {"event": "agent.say", "text": "mhm"} not in written(wire.out)


def test_a_text_during_a_reply_waits_for_its_own_turn() -> None:
    wire = Wire().up(*NINE)
    wire.does(cmd.SetFiller(text="mhm"))
    wire.says("user.text", text="one"), wire.speaks(1, 1, "a"), wire.says("user.text", text="two")
    assert not written(wire.passes(3))
    wire.ends(1, 1)
    assert written(wire.passes(0.71)) == [{"event": "agent.say", "text": "mhm"}]
    assert not written(wire.passes(3))


# --- drops ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [None, 1006, 1011, 1012, 1013])
def test_a_drop_is_redialled_at_once_and_the_call_goes_on(code: int | None) -> None:
    wire = Wire().up()
    assert wire.lost(code) == [do.Dial()]
    out = wire.back()
    assert verbs(out) == ["hello"]
    assert facts(out)[1:] == [ev.CallReattached(session_id="s", attempt=1)]
    assert isinstance(facts(out)[0], ev.HelloAcked)
    wire.lost(code)
    assert facts(wire.back())[1:] == [ev.CallReattached(session_id="s", attempt=2)]


@pytest.mark.parametrize("code", [1000, 1001])
def test_a_hangup_is_not_redialled(code: int) -> None:
    wire = Wire().up()
    out = wire.lost(code)
    assert facts(out) == [ev.CallEnded(reason="hangup", close_code=code, by="caller")]
    assert out[-1] == do.Over("hangup")
    assert wire.passes(60) == []


def test_a_reply_goes_on_where_it_stopped() -> None:
    wire = Wire().up()
    wire.speaks(1, 1, "a"), wire.speaks(1, 2, "b"), wire.flush(), wire.speaks(1, 3, "c")
    wire.lost(None)
    wire.speaks(1, 4, "d"), wire.ends(1, 4)
    assert wire.flush() == []
    out = wire.back()
    assert spoken(out) == ["c", "d", None]
    assert facts(wire.out, ev.ReplySpoken)[-1] == ev.ReplySpoken(turn=1, deltas=4, chars=4, ended=True)


def test_a_redial_that_is_refused_with_4003_is_the_end() -> None:
    wire = Wire().up()
    wire.lost(None), wire.opened()
    out = wire.lost(4003)
    (ended,) = facts(out)
    assert isinstance(ended, ev.CallEnded)
    assert (ended.reason, ended.by, ended.close_code) == ("lost", "system", 4003)


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_redial_that_is_refused_in_http_is_the_end(status: int) -> None:
    wire = Wire().up()
    wire.lost(None)
    assert kinds(wire.refused(status))[-1] == "Over"


@pytest.mark.parametrize("when", ["delivered", "written", "waiting"])
def test_an_end_that_was_asked_for_is_the_reason_of_a_call_that_does_not_come_back(when: str) -> None:
    wire = Wire().up()
    if when == "waiting":
        wire.lost(None)
    wire.does(cmd.EndCall(reason="no_response")), wire.stored()
    if when == "delivered":
        wire.pong()
    wire.lost(None), wire.opened()
    (ended,) = facts(wire.lost(4003), ev.CallEnded)
    assert isinstance(ended, ev.CallEnded)
    assert (ended.reason, ended.by) == ("no_response", "agent")
    assert outcomes(wire.out)[-1][1] == {"delivered": "delivered", "written": "unknown", "waiting": "ignored"}[when]


def test_4009_on_a_redial_is_tried_for_15_seconds() -> None:
    wire = Wire().up()
    wire.lost(None), wire.opened()
    wire.lost(4009)
    dials = 0
    while wire.protocol.phase != "over" and dials < 100:
        wire.passes(0.5)
        wire.opened(), wire.lost(4009)
        dials += 1
    assert 14 <= wire.now - 1_000 <= 16
    assert [fact.reason for fact in facts(wire.out, ev.CallEnded)] == ["lost"]  # type: ignore[attr-defined]


def test_a_new_call_of_which_a_former_bridge_still_has_the_socket_is_tried_for_as_long() -> None:
    wire = Wire()
    wire.start(), wire.opened(), wire.lost(4009)
    for _ in range(20):
        wire.passes(0.5)
        wire.opened(), wire.lost(4009)
    assert not [out for out in wire.out if isinstance(out, do.Failed)]
    wire.passes(0.5)
    wire.refused(503), wire.passes(1)  # none of those was a try in vain
    wire.opened()
    wire.greets()
    assert wire.protocol.phase == "open"


def test_a_new_call_of_which_another_socket_is_never_let_go_fails() -> None:
    wire = Wire()
    wire.start(), wire.opened(), wire.lost(4009)
    while wire.protocol.phase != "over" and wire.now < 1_100:
        wire.passes(0.5)
        wire.opened(), wire.lost(4009)
    assert 14 <= wire.now - 1_000 <= 16
    assert [out.reason for out in wire.out if isinstance(out, do.Failed)] == ["another socket holds the call"]


def test_4009_and_then_success() -> None:
    wire = Wire().up()
    wire.lost(None), wire.opened(), wire.lost(4009)
    wire.passes(0.6)
    assert facts(wire.back())[-1] == ev.CallReattached(session_id="s", attempt=1)


def test_a_worker_that_cannot_be_reached_is_tried_for_the_buffer_s_time() -> None:
    wire = Wire().up()
    wire.lost(None)
    for _ in range(200):
        if wire.protocol.phase == "over":
            break
        wire.refused(None)
        wire.passes(0.7)
    assert 29 <= wire.now - 1_000 <= 32
    assert wire.out[-1] == do.Over("lost")


def test_a_dial_that_hangs_is_no_excuse() -> None:
    wire = Wire().up()
    wire.lost(None)
    assert kinds(wire.passes(31)) == ["Close", "Store", "Over"]


def test_a_link_that_flaps_is_no_new_beginning() -> None:
    wire = Wire().up()
    for _ in range(100):
        wire.lost(None)
        wire.passes(1.0)
        if wire.protocol.phase == "over":
            break
        wire.back()
        wire.passes(0.1)
    assert wire.out[-1] == do.Over("lost")
    assert wire.now - 1_000 < 35


def test_a_stall_in_a_redial_is_dialled_again() -> None:
    wire = Wire().up()
    wire.lost(None), wire.opened(), wire.acks()
    out = wire.passes(10.1)
    assert out[0] == do.Close(1002)
    assert do.Dial() in [*out, *wire.passes(1)]
    assert facts(wire.back())[-1] == ev.CallReattached(session_id="s", attempt=1)


def test_another_session_on_a_redial_is_not_ours() -> None:
    wire = Wire().up()
    wire.lost(None), wire.opened()
    out = wire.greets(session="other")
    assert do.Close(1002) in out
    assert wire.protocol.session_id == "s"
    assert wire.protocol.phase == "dialling"


def test_commands_that_wait_are_bounded() -> None:
    wire = Wire(ProtocolSettings(max_waiting=10)).up()
    wire.lost(None)
    for _ in range(15):
        wire.does(cmd.Say(text="x"))
    assert outcomes(wire.out) == [("say", "refused")] * 5
    assert verbs(wire.back()) == ["hello", *["agent.say"] * 10]
    wire.lost(None)
    wire.does(cmd.Say(text="y" * 3_000_000))
    assert outcomes(wire.out)[-1] == ("say", "refused")


# --- the end ----------------------------------------------------------------------------------------------------------


def test_the_agent_s_reason_is_the_call_s() -> None:
    wire = Wire().up()
    wire.does(cmd.EndCall(reason="bye now")), wire.stored()
    out = wire.lost(1000)
    assert outcomes(out) == [("call.end", "delivered")]
    assert facts(out)[-1] == ev.CallEnded(reason="bye now", close_code=1000, by="agent")


def test_a_hangup_before_the_agent_s_end_is_written_is_a_hangup() -> None:
    wire = Wire().up()
    wire.does(cmd.EndCall())
    out = wire.lost(1000)
    assert facts(out)[-1] == ev.CallEnded(reason="hangup", close_code=1000, by="caller")
    assert wire.stored() == []


def test_a_worker_that_does_not_close_after_an_end_is_closed() -> None:
    wire = Wire().up()
    wire.does(cmd.EndCall(reason="completed")), wire.stored(), wire.pong()
    assert wire.passes(29.9) == []
    out = wire.passes(0.2)
    assert out[0] == do.Close(1000)
    assert facts(out)[-1] == ev.CallEnded(reason="completed", by="agent", detail="the worker did not close")


@pytest.mark.parametrize(("mode", "reason"), [("cold", "transferred"), ("warm", "hangup")])
def test_a_transfer(mode: cmd.TransferMode, reason: str) -> None:
    wire = Wire().up()
    wire.does(cmd.Transfer(transfer_type="human", target="q", mode=mode)), wire.stored(), wire.pong()
    (ended,) = facts(wire.lost(1000))
    assert isinstance(ended, ev.CallEnded)
    assert ended.reason == reason


def test_a_cold_transfer_is_refused_if_the_caller_speaks_with_us_more_than_a_second_after_the_worker_has_read_it() -> (
    None
):
    wire = Wire().up()
    wire.does(cmd.Transfer(transfer_type="human", target="q")), wire.stored()
    wire.passes(5.0)
    assert outcomes(wire.says("user.text", text="so?")) == []  # nobody knows that it was read
    wire.pong(), wire.passes(0.9)
    assert outcomes(wire.says("user.text", text="thanks")) == []
    wire.passes(0.2)
    assert outcomes(wire.says("user.text", text="thanks", is_final=False)) == []
    out = wire.says("user.text", text="hello?")
    assert [type(fact) for fact in facts(out)] == [ev.CommandAcknowledged, ev.UserText]
    assert outcomes(out) == [("transfer", "refused")]
    wire.speaks(1, 1, "a")
    assert spoken(wire.ends(1, 1)) == [None]
    assert facts(wire.passes(60.0), ev.CallEnded) == []
    assert facts(wire.lost(1000), ev.CallEnded) == [ev.CallEnded(reason="hangup", close_code=1000, by="caller")]


def test_a_cold_transfer_is_refused_if_the_worker_does_not_close() -> None:
    wire = Wire().up()
    wire.does(cmd.Transfer(transfer_type="human", target="q")), wire.stored(), wire.pong()
    assert wire.passes(29.9) == []
    assert outcomes(wire.passes(0.2)) == [("transfer", "refused")]
    wire.does(cmd.Transfer(transfer_type="human", target="r"))
    assert verbs(wire.stored()) == ["agent.transfer"]


def test_an_end_of_the_owner_s_waits_for_what_comes_of_a_transfer() -> None:
    wire = Wire().up()
    wire.does(cmd.Transfer(transfer_type="human", target="q")), wire.stored(), wire.pong()
    wire.does(cmd.EndCall(reason="completed")), wire.stored(), wire.pong()
    assert verbs(wire.out) == ["agent.transfer"]
    wire.passes(30.0)
    assert outcomes(wire.out)[-2:] == [("transfer", "refused"), ("call.end", "claimed")]
    assert verbs(wire.stored()) == ["agent.end_call"]


def test_an_end_after_a_reply_lets_it_come_to_its_end() -> None:
    wire = Wire().up()
    wire.speaks(1, 1, "Good")
    wire.does(cmd.EndCall(reason="done", turn=1)), wire.stored()
    assert wire.speaks(1, 2, "bye!") == []
    wire.flush()
    assert outcomes(wire.does(cmd.Say(text="beside"))) == [("say", "written")]
    assert outcomes(wire.ends(1, 2)) == [("call.end", "claimed")]
    wire.stored()
    assert verbs(wire.out) == [
        "agent.text.delta", "agent.text.delta", "agent.say", "agent.text.end", "agent.end_call"
    ]  # fmt: skip
    assert facts(wire.lost(1000), ev.CallEnded) == [ev.CallEnded(reason="done", close_code=1000, by="agent")]


def test_an_end_after_a_reply_is_the_reason_of_a_call_that_is_lost_meanwhile() -> None:
    wire = Wire().up()
    wire.speaks(1, 1, "Good"), wire.does(cmd.EndCall(reason="done", turn=1)), wire.lost(None), wire.opened()
    (ended,) = facts(wire.lost(4003), ev.CallEnded)
    assert isinstance(ended, ev.CallEnded)
    assert (ended.reason, ended.by) == ("done", "agent")
    assert outcomes(wire.out) == [("call.end", "ignored")]


def test_cancel_in_call() -> None:
    wire = Wire().up()
    wire.speaks(1, 1, "a")
    out = wire.feed(wire.protocol.cancel(wire.now))
    assert out[0] == do.Close(1000)
    assert facts(out) == [ev.ReplySpoken(turn=1, deltas=1, chars=1), ev.CallEnded(reason="cancelled")]
    assert wire.feed(wire.protocol.cancel(wire.now)) == []


def test_an_ended_call_hears_nothing_more() -> None:
    wire = Wire().up()
    wire.lost(1000)
    for out in (
        wire.lost(None), wire.says("user.text", text="a"), wire.does(cmd.Say(text="a")), wire.speaks(1, 1, "a"),
        wire.flush(), wire.stored(), wire.passes(100), wire.feed(wire.protocol.log_away(wire.now)), wire.refused(),
        wire.feed(wire.protocol.end("error", "", wire.now)),
    ):  # fmt: skip
        assert out == []


def test_a_log_that_stays_away_ends_the_call_with_a_reason() -> None:
    wire = Wire().up()
    wire.feed(wire.protocol.log_away(wire.now))
    wire.passes(10), wire.feed(wire.protocol.log_away(wire.now))
    wire.speaks(1, 1, "a")
    assert spoken(wire.out) == ["a"]
    wire.passes(19.9)
    assert wire.protocol.phase == "open"
    out = wire.passes(0.2)
    (ended,) = facts(out, ev.CallEnded)
    assert isinstance(ended, ev.CallEnded)
    assert (ended.reason, ended.detail) == ("error", "the event log did not answer for 30 s")


def test_a_log_that_comes_back_in_time_changes_nothing() -> None:
    wire = Wire().up()
    wire.feed(wire.protocol.log_away(wire.now))
    wire.passes(29)
    wire.feed(wire.protocol.log_back(wire.now))
    wire.passes(29)
    assert wire.protocol.phase == "open"
