"""What a takeover hears, performs and tells, without a socket, a log or a clock."""

from __future__ import annotations

import pytest
from msgspec import Struct
from tests.unit.bridge.wires import EPOCH, Wire, facts, outcomes, spoken, verbs, written

from unpod.core import codec, ids
from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.envelope import Envelope, to_headers
from unpod.core.subjects import Subjects
from unpod.ports import Message
from unpod_bridge.protocol import outputs as do
from unpod_bridge.protocol.outputs import Output, Owned
from unpod_bridge.protocol.owner_records import OwnerRecords
from unpod_bridge.protocol.owners import Inputs, Owner, Poison, Tip, owner_changed
from unpod_bridge.protocol.ownership import ReplyProgress
from unpod_bridge.protocol.state import ProtocolSettings
from unpod_bridge.wire.call_frames import VERBS

SUBJECTS = Subjects()
CALL = SUBJECTS.call("agent", "s")
NEXT = EPOCH + 10


def stored(*commands: cmd.AnyCommand | None, first: int = 1) -> list[Owned]:
    """The log's records of the former owner, named as `Wire.does` names them."""
    return [Owned(EPOCH, index, f"id-{index}", command) for index, command in enumerate(commands, first)]


def inherit(wire: Wire, records: list[Owned], last: int) -> list[Output]:
    wire.protocol.owner.dismiss()
    out = wire.feed(wire.protocol.owner.inherit(records, last, wire.now))
    wire.feed(wire.protocol.owner.appoint(NEXT, wire.now))
    return out


def say(text: str) -> cmd.Say:
    return cmd.Say(text=text)


# --- the reply that was cut -------------------------------------------------------------------------------------------


def test_a_cut_reply_goes_on_in_another_part_and_ends_once() -> None:
    wire = Wire().up()
    wire.says("user.text", text="hi")
    wire.speaks(1, 1, "one "), wire.flush(), wire.speaks(1, 2, "two "), wire.flush()
    inherit(wire, [], 0)
    progress = wire.protocol.owner.progress
    assert (progress.turn, progress.part, progress.deltas, progress.chars, progress.text) == (1, 0, 2, 8, "one two ")
    wire.out.clear()
    wire.speaks(1, 1, "three", part=1, epoch=NEXT), wire.flush()
    wire.index = 0
    wire.does(cmd.EndReply(turn=1, part=1, deltas=1), epoch=NEXT)
    assert spoken(wire.out) == ["three", None]
    assert facts(wire.out, ev.ReplySpoken)[-1] == ev.ReplySpoken(turn=1, part=1, deltas=1, chars=13, ended=True)
    progress = wire.protocol.owner.progress
    assert (progress.part, progress.chars, progress.text) == (1, 13, "one two three")


def test_a_reply_of_which_nothing_was_spoken_begins_anew_in_the_same_part() -> None:
    wire = Wire().up()
    wire.lost()
    wire.speaks(1, 1, "lost with its owner")
    inherit(wire, [], 0)
    assert wire.protocol.owner.progress.chars == 0
    wire.passes(0.1), wire.back()
    wire.out.clear()
    wire.speaks(1, 1, "anew", epoch=NEXT, after=0)
    assert spoken(wire.out) == ["anew"]


def test_nothing_of_the_former_owner_is_heard_any_more() -> None:
    wire = Wire().up()
    wire.speaks(1, 1, "a")
    wire.protocol.owner.dismiss()
    wire.out.clear()
    wire.speaks(1, 2, "zombie")
    wire.does(say("zombie"))
    inherit(wire, [], 0)
    wire.speaks(1, 2, "zombie"), wire.flush()
    wire.does(say("zombie"), index=1)
    assert written(wire.out) == []


def test_a_reply_whose_end_was_sent_and_not_stored_is_not_opened_again() -> None:
    wire = Wire().up()
    wire.speaks(1, 1, "a"), wire.ends(1, 1)
    inherit(wire, [], 0)
    wire.out.clear()
    wire.speaks(1, 1, "again", part=1, epoch=NEXT, after=0), wire.flush()
    wire.does(cmd.EndReply(turn=1, part=1, deltas=1), index=1, epoch=NEXT)
    assert written(wire.out) == []


def test_a_reply_whose_end_is_stored_is_not_ended_where_pieces_of_it_have_not_come() -> None:
    """The owner has ended it, and is gone, and words of it are lost: the next owner says them, in a part of its own."""
    wire = Wire().up()
    wire.speaks(1, 1, "a"), wire.speaks(1, 3, "c")
    out = inherit(wire, stored(cmd.EndReply(turn=1, deltas=4)), 1)
    assert spoken(out) == []
    progress = wire.protocol.owner.progress
    assert (progress.turn, progress.deltas, progress.text, progress.unended) == (1, 1, "a", 1)
    wire.out.clear()
    wire.speaks(1, 1, "bcd", part=2, epoch=NEXT), wire.flush()
    wire.does(cmd.EndReply(turn=1, part=2, deltas=1), index=2, epoch=NEXT)
    assert spoken(wire.out) == ["bcd", None]


def test_a_reply_whose_end_is_stored_ends_where_all_of_it_has_come() -> None:
    wire = Wire().up()
    wire.speaks(1, 1, "a"), wire.speaks(1, 2, "b")
    out = inherit(wire, stored(cmd.EndReply(turn=1, deltas=2)), 1)
    assert spoken(out)[-1] is None
    assert (wire.protocol.owner.progress.text, wire.protocol.owner.progress.unended) == ("ab", 0)


def test_of_a_reply_that_is_ended_and_has_not_begun_here_the_next_owner_is_told() -> None:
    wire = Wire().up()
    wire.speaks(1, 1, "a"), wire.ends(1, 1)
    inherit(wire, stored(cmd.EndReply(turn=1, deltas=1), cmd.EndReply(turn=2, deltas=3)), 2)
    assert wire.protocol.owner.progress.unended == 2


def test_what_earlier_replies_have_said_is_told_too() -> None:
    """Their turns may be over and not completed in the log, and the next has begun: the text is known here only."""
    wire = Wire().up()
    for turn in (1, 2, 3):
        wire.speaks(turn, 1, f"all of {turn}", after=turn - 1), wire.ends(turn, 1)
    wire.speaks(4, 1, "a", after=3)
    inherit(wire, stored(cmd.EndReply(turn=3, deltas=1), first=3), 3)
    progress = wire.protocol.owner.progress
    assert (progress.turn, progress.text) == (4, "a")
    assert progress.earlier == tuple(ev.EarlierReply(turn=turn, chars=8, text=f"all of {turn}") for turn in (2, 3))
    assert owner_changed(Owner("r", 9, 1), 3, progress).earlier == progress.earlier


def test_of_an_earlier_reply_that_was_not_to_be_kept_no_text_is_told() -> None:
    wire = Wire().up()
    wire.does(cmd.PauseRecording())
    wire.speaks(1, 1, "4111", after=1), wire.ends(1, 1)
    wire.does(cmd.ResumeRecording())
    wire.speaks(2, 1, "a", after=3)
    inherit(wire, [], 3)
    progress = wire.protocol.owner.progress
    assert (progress.turn, progress.text) == (2, "a")
    assert progress.earlier == (ev.EarlierReply(turn=1, chars=4),)


def test_after_a_barge_in_nothing_more_of_that_reply_is_spoken() -> None:
    wire = Wire().up()
    wire.speaks(1, 1, "a")
    wire.says("user.interrupted", turn_id=1)
    inherit(wire, [], 0)
    wire.out.clear()
    wire.speaks(1, 1, "more", part=1, epoch=NEXT, after=0), wire.flush()
    assert spoken(wire.does(cmd.EndReply(turn=1, part=1, deltas=1), index=1, epoch=NEXT)) == [None]
    assert spoken(wire.out) == [None]


@pytest.mark.parametrize("resumed", [False, True])
def test_what_was_said_while_the_recording_was_paused_is_not_told(resumed: bool) -> None:  # noqa: FBT001
    wire = Wire().up()
    wire.does(cmd.PauseRecording())
    wire.speaks(1, 1, "4111")
    if resumed:
        wire.does(cmd.ResumeRecording())
    inherit(wire, [], 2 if resumed else 1)
    progress = wire.protocol.owner.progress
    assert (progress.chars, progress.text, progress.private) == (4, None, True)


def test_with_nothing_said_there_is_nothing_to_tell() -> None:
    wire = Wire().up()
    inherit(wire, [], 0)
    assert wire.protocol.owner.progress == ReplyProgress()


# --- commands ---------------------------------------------------------------------------------------------------------


def test_what_was_stored_and_not_seen_is_performed() -> None:
    wire = Wire().up()
    wire.does(say("one"))
    out = inherit(wire, stored(say("one"), say("two"), None, say("three")), 4)
    assert [frame["text"] for frame in written(out)] == ["two", "three"]
    assert wire.protocol.owner.index == 4
    assert wire.protocol.owner.progress.unlogged == ()
    assert verbs(wire.does(say("four"), index=5, epoch=NEXT)) == ["agent.say"]


def test_what_was_performed_and_is_not_stored_is_told_in_every_takeover() -> None:
    wire = Wire().up()
    wire.does(say("one")), wire.does(say("two"))
    inherit(wire, stored(say("one")), 1)
    assert wire.protocol.owner.progress.unlogged == ("id-2",)
    assert verbs(wire.does(say("new"), index=2, epoch=NEXT, name="new")) == ["agent.say"]
    wire.protocol.owner.dismiss()
    wire.protocol.owner.inherit([Owned(NEXT, 2, "new", say("new"))], 2, wire.now)
    assert wire.protocol.owner.progress.unlogged == ("id-2",)


def test_a_command_is_done_once_whoever_asks_for_it() -> None:
    wire = Wire().up()
    wire.does(say("one"))
    inherit(wire, [], 0)
    wire.out.clear()
    assert wire.does(say("one"), index=1, epoch=NEXT, name="id-1") == []


def test_what_waits_and_is_not_stored_is_forgotten() -> None:
    wire = Wire().up()
    wire.lost()
    wire.does(say("stored")), wire.does(say("not stored")), wire.does(cmd.EndCall(reason="bye"))
    inherit(wire, stored(say("stored")), 1)
    wire.passes(0.1)
    assert [frame.get("text") for frame in written(wire.back())][1:] == ["stored"]
    assert wire.protocol.owner.progress.unlogged == ()
    ended = facts(wire.lost(4003), ev.CallEnded)
    assert ended == [ev.CallEnded(reason="lost", detail="the worker does not know the call any more", close_code=4003)]


def test_a_claim_is_carried_through() -> None:
    wire = Wire().up()
    wire.does(cmd.Merge(source_session_id="x"))
    assert outcomes(wire.out) == [("merge", "claimed")]
    inherit(wire, [], 0)
    progress = wire.protocol.owner.progress
    assert (progress.unlogged, progress.outcomes) == (("id-1",), {"id-1": "claimed"})
    assert verbs(wire.stored()) == ["agent.merge"]


def test_a_pause_counts_though_no_log_has_it() -> None:
    wire = Wire().up()
    wire.lost()
    wire.does(cmd.PauseRecording())
    inherit(wire, [], 0)
    assert wire.protocol.owner.progress.unlogged == ("id-1",)
    wire.passes(0.1)
    assert "recording.pause" in verbs(wire.back())


def test_a_record_that_the_tail_has_lost_is_looked_for() -> None:
    wire = Wire().up()
    wire.does(say("one"))
    assert wire.feed(wire.protocol.owner.catch_up(1, wire.now)) == []
    assert wire.feed(wire.protocol.owner.catch_up(3, wire.now)) == [do.Fetch(2, 3)]


# --- the caller who waits ---------------------------------------------------------------------------------------------


def vacant(*, filler: str = "", in_reply: bool = True) -> Wire:
    wire = Wire().up(*VERBS)
    if filler:
        wire.does(cmd.SetFiller(text=filler))
    wire.says("user.text", text="hi")
    if in_reply:
        wire.speaks(1, 1, "a")
    wire.feed(wire.protocol.owner.leaves(wire.now))
    wire.out.clear()
    return wire


def said(outputs: list[Output]) -> list[object]:
    return [frame.get("text") for frame in written(outputs) if frame["event"] == "agent.say"]


@pytest.mark.parametrize("in_reply", [True, False])
def test_the_filler_and_then_the_phrase_once(in_reply: bool) -> None:  # noqa: FBT001
    wire = vacant(filler="hm", in_reply=in_reply)
    assert said(wire.passes(0.69)) == []
    assert said(wire.passes(0.02)) == ["hm"]
    assert said(wire.passes(4.2)) == []
    assert said(wire.passes(0.2)) == ["One moment please."]
    assert said(wire.passes(60)) == []


def test_nothing_is_said_to_a_caller_who_waits_for_nothing() -> None:
    wire = vacant()
    wire.does(cmd.EndReply(turn=1, deltas=1))
    assert said(wire.passes(30)) == []
    wire.says("user.text", text="hello?")
    assert said(wire.passes(1)) == ["One moment please."]


@pytest.mark.parametrize("how", ["found", "replaced"])
def test_with_an_owner_nothing_is_said(how: str) -> None:
    wire = vacant(filler="hm")
    wire.feed(wire.protocol.owner.stays(wire.now) if how == "found" else wire.protocol.owner.appoint(NEXT, wire.now))
    assert said(wire.passes(200)) == []


def test_a_call_that_nobody_takes_ends_after_long() -> None:
    wire = vacant()
    wire.passes(119)
    (ended,) = facts(wire.passes(2), ev.CallEnded)
    assert isinstance(ended, ev.CallEnded)
    assert (ended.reason, ended.detail) == ("error", "no runner has taken the call over for 120 s")


def test_without_a_phrase_there_is_silence() -> None:
    wire = Wire(ProtocolSettings(vacant_phrase="")).up(*VERBS)
    wire.says("user.text", text="hi")
    wire.feed(wire.protocol.owner.leaves(wire.now))
    assert said(wire.passes(60)) == []


# --- what the log says of the owners ----------------------------------------------------------------------------------


class Pages:
    """A log of one session, written here."""

    def __init__(self) -> None:
        self.tip = Tip(OwnerRecords(CALL))
        self.inputs = Inputs("s", CALL)
        self.seq = self.bridge = self.owner = 0

    def _take(self, subject: str, body: Struct, identifier: str, index: int, **more: int) -> str:
        channel = subject.split(".")[4]
        envelope = Envelope(
            id=identifier, type=f"{channel}.{ev.tag_of(body)}", source="x", session="s", time=1.0, epoch=EPOCH,
            index=index, **more,  # type: ignore[arg-type]
        )  # fmt: skip
        self.seq += 1
        message = Message(subject, codec.encode(body), to_headers(envelope), self.seq)
        self.tip.take(message)
        self.inputs.take(message)
        return identifier

    def evt(self, body: ev.CallerEvent) -> str:
        self.bridge += 1
        return self._take(CALL.evt(ev.tag_of(body)), body, ids.record_id("s", "bridge", self.bridge), self.bridge)

    def ack(self) -> None:
        self.bridge += 1
        self._take(CALL.ack, ev.ReplySpoken(turn=1), ids.record_id("s", "bridge", self.bridge), self.bridge)

    def run(self, body: ev.SessionEvent, settled: int = 0) -> None:
        self.owner += 1
        self._take(CALL.run(ev.tag_of(body)), body, f"run-{self.owner}", self.owner, settled=settled)

    def cmd(self, body: cmd.AnyCommand, settled: int = 0) -> None:
        self.owner += 1
        self._take(CALL.cmd, body, f"cmd-{self.owner}", self.owner, settled=settled)


def test_the_end_of_what_the_owners_have_stored() -> None:
    pages = Pages()
    assert (pages.tip.first, pages.tip.last) == (0, 0)
    pages.owner = 4
    pages.evt(ev.CallStarted(session_id="s"))
    pages.cmd(say("welcome"))
    pages.run(ev.TurnCompleted(turn_id=1), settled=7)
    pages.ack()
    pages.run(ev.LLMCalled(), settled=5)
    assert (pages.tip.first, pages.tip.last, pages.tip.settled) == (5, 7, 7)
    assert [owned.command for owned in pages.tip.records] == [say("welcome"), None, None]
    pages.owner = 5  # what a takeover has made void, or a repeat
    pages.run(ev.Settled())
    assert pages.tip.last == 7


def test_what_is_no_record_is_passed_over() -> None:
    pages = Pages()
    for message in (
        Message(CALL.cmd, b"{}", {}, 1),
        Message(CALL.evt("user.text"), b"{}", {}, 2),
        Message(CALL.line, b"{}", {}, 3),
    ):
        pages.tip.take(message)
        pages.inputs.take(message)
    assert (pages.tip.records, pages.inputs.next_seq) == ([], 4)


def test_the_suspect_is_the_text_whose_turn_is_open() -> None:
    pages = Pages()
    pages.evt(ev.CallStarted(session_id="s"))
    pages.evt(ev.UserText(text="partial", is_final=False))
    pages.evt(ev.UserText(text="one"))
    pages.run(ev.TurnCompleted(turn_id=1), settled=3)
    two = pages.evt(ev.UserText(text="two"))
    pages.evt(ev.StateChanged(state="thinking"))
    pages.evt(ev.UserText(text="three"))
    pages.run(ev.LLMCalled(turn_id=2), settled=6)
    assert pages.inputs.suspect == two


def test_without_an_open_turn_the_suspect_is_the_first_that_is_not_settled() -> None:
    pages = Pages()
    started = pages.evt(ev.CallStarted(session_id="s"))
    assert pages.inputs.suspect == started
    pages.run(ev.Settled(), settled=1)
    assert pages.inputs.suspect == started
    pages.ack()
    state = pages.evt(ev.StateChanged(state="idle"))
    pages.evt(ev.CallMetric())
    assert pages.inputs.suspect == state


def test_an_input_counts_once_though_it_is_read_again() -> None:
    pages = Pages()
    pages.evt(ev.CallStarted(session_id="s"))
    text = pages.evt(ev.UserText(text="one"))
    pages.seq -= 1
    pages.bridge -= 1
    pages.evt(ev.UserText(text="one"))
    pages.run(ev.TurnCompleted(turn_id=1))
    assert pages.inputs.suspect != text


def test_a_new_owners_starting_point() -> None:
    outcomes: dict[str, ev.CommandOutcome] = {f"old-{number}": "written" for number in range(100)}
    outcomes["new"] = "claimed"
    progress = ReplyProgress(
        turn=1, part=2, deltas=3, chars=4, text="four", unlogged=("lost", "old-0"), outcomes=outcomes
    )
    body = owner_changed(Owner("runner-2", NEXT, 3), 9, progress, "input")
    assert (body.epoch, body.runner, body.takeover, body.last_owner_index) == (NEXT, "runner-2", 3, 9)
    assert (body.turn, body.part, body.deltas, body.chars, body.text, body.skip) == (1, 2, 3, 4, "four", "input")
    told = {each.command: each.outcome for each in body.unsettled}
    assert (told["new"], told["lost"], told["old-0"]) == ("claimed", "written", "written")
    assert len(told) == 66
    private = ReplyProgress(turn=1, chars=4, text=None, private=True)
    body = owner_changed(Owner("runner-2", NEXT, 3), 0, private)
    assert (body.withheld, body.text, body.chars, body.skip) == (True, None, 4, "")


# --- poison -----------------------------------------------------------------------------------------------------------


def test_an_input_that_no_owner_gets_past_is_skipped_at_the_second_and_hopeless_at_the_fourth() -> None:
    poison = Poison()
    told = []
    for _ in range(4):
        poison.lost(7)
        told.append((poison.skips, poison.hopeless))
    assert told == [(False, False), (True, False), (True, False), (True, True)]


def test_progress_begins_the_count_anew() -> None:
    poison = Poison()
    for settled in (0, 3, 9, 9, 12):
        poison.lost(settled)
    assert not poison.skips
