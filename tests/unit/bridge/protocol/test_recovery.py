"""How a call protocol goes on with a call that another bridge had, and how it lets go of one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.unit.bridge.jobs.books import Book
from tests.unit.bridge.wires import EPOCH, Wire, facts, kinds, outcomes, spoken, verbs, written

from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.live import Again, Doubt, Spoken
from unpod_bridge.protocol import outputs as do
from unpod_bridge.protocol.recovered_log import NEVER
from unpod_bridge.protocol.recovery import Recovery
from unpod_bridge.wire.call_frames import VERBS


def go_on(past: Recovery) -> Wire:
    """Return a protocol that goes on from there, dialling."""
    wire = Wire()
    wire.index = past.owner_index
    past = replace(past, line=9, still_s=2.0)
    wire.feed(wire.protocol.adopt(past, wire.now))
    return wire


def test_it_says_what_is_unknown_dials_and_tells_that_the_call_is_back() -> None:
    book = Book()
    book.owner(cmd.EndCall(), "end")
    book.acks("end", "claimed")
    wire = go_on(book.adopted())
    assert outcomes(wire.out) == [("call.end", "unknown")]
    assert kinds(wire.out) == ["Store", "AskAgain", "Dial"]
    out = wire.back()
    assert [ev.tag_of(fact) for fact in facts(out)] == ["hello.ack", "call.reattached"]
    assert facts(out, ev.CallReattached) == [ev.CallReattached(session_id="s", attempt=1)]
    assert verbs(out) == ["hello"]


def test_the_pause_goes_first_then_what_is_to_be_done_in_order() -> None:
    book = Book()
    book.owner(cmd.PauseRecording(reason="card"), "pause")
    book.acks("pause", "written")
    book.owner(cmd.Say(text="a"))
    book.owner(cmd.SetFiller(text="hm"))
    book.owner(cmd.Say(text="b"))
    wire = go_on(book.adopted(clean=True))
    out = wire.back()
    assert verbs(out) == ["hello", "recording.pause", "agent.say", "agent.filler", "agent.say"]
    assert outcomes(out) == [("say", "written"), ("filler.set", "written"), ("say", "written")]
    assert all(output.withheld for output in out if isinstance(output, do.Store) and output.channel == "evt")


def test_an_end_that_was_never_claimed_is_claimed_now() -> None:
    book = Book()
    book.owner(cmd.EndCall(reason="done"), "end")
    wire = go_on(book.adopted())
    assert outcomes(wire.back()) == [("call.end", "claimed")]
    assert verbs(wire.stored()) == ["agent.end_call"]
    assert facts(wire.lost(1000), ev.CallEnded) == [ev.CallEnded(reason="done", close_code=1000, by="agent")]


def test_an_end_that_may_have_been_sent_is_not_repeated_and_comes_all_the_same() -> None:
    book = Book()
    book.owner(cmd.EndCall(reason="done"), "end")
    book.acks("end", "claimed")
    wire = go_on(book.adopted())
    assert verbs(wire.back()) == ["hello"]
    assert not facts(wire.passes(29.0), ev.CallEnded)
    [ended] = facts(wire.passes(2.0), ev.CallEnded)
    assert isinstance(ended, ev.CallEnded)
    assert ended.reason == "done"
    assert ended.by == "agent"


@pytest.mark.parametrize("shown", ["hang-up", "text", "time"])
def test_what_comes_of_a_transfer_that_may_have_been_sent_shows_at_the_next_bridge(shown: str) -> None:
    book = Book()
    book.owner(cmd.Transfer(transfer_type="human", target="x"), "there")
    book.acks("there", "claimed")
    wire = go_on(book.adopted())
    wire.passes(20.0), wire.back()
    assert verbs(wire.out) == ["hello"]
    wire.says("user.text", text="hello?")  # said before the worker can have carried it out
    assert outcomes(wire.out) == [("transfer", "unknown")]
    if shown == "hang-up":
        [ended] = facts(wire.lost(1000), ev.CallEnded)
        assert ended == ev.CallEnded(reason="transferred", close_code=1000, by="agent")
        return
    wire.passes(1.5)
    out = wire.says("user.text", text="are you there?") if shown == "text" else wire.passes(30.0)
    assert outcomes(out) == [("transfer", "refused")]
    assert facts(wire.lost(1000), ev.CallEnded) == [ev.CallEnded(reason="hangup", close_code=1000, by="caller")]


@pytest.mark.parametrize("asked", [True, False])
def test_a_worker_that_does_not_know_the_call_any_more(*, asked: bool) -> None:
    book = Book()
    if asked:
        book.owner(cmd.EndCall(reason="done"), "end")
        book.acks("end", "claimed", "delivered")
    wire = go_on(book.adopted())
    wire.opened()
    [ended] = facts(wire.lost(4003), ev.CallEnded)
    assert isinstance(ended, ev.CallEnded)
    assert ended.reason == ("done" if asked else "lost")


def test_our_own_dead_socket_holds_the_call_for_a_while() -> None:
    wire = go_on(Book().adopted())
    for _ in range(29):
        wire.opened()
        wire.lost(4009)
        assert "Dial" in kinds(wire.passes(0.5))
    wire.back()
    assert wire.protocol.phase == "open"


def test_it_gives_up_when_another_socket_holds_the_call_for_too_long() -> None:
    wire = go_on(Book().adopted())
    for _ in range(31):
        wire.opened()
        wire.lost(4009)
        wire.passes(0.5)
    assert [fact.reason for fact in facts(wire.out, ev.CallEnded) if isinstance(fact, ev.CallEnded)] == ["lost"]


def spoken_until(deltas: int, chars: int) -> Recovery:
    book = Book()
    book.bridge(ev.UserText(text="hi"))
    book.bridge(ev.ReplySpoken(turn=1, deltas=deltas, chars=chars))
    return book.adopted()


def asked(outputs: list[do.Output]) -> list[Again]:
    return [output.again for output in outputs if isinstance(output, do.AskAgain)]


def test_all_that_no_receipt_tells_of_is_asked_for_and_what_may_have_been_said_comes_without_its_text() -> None:
    wire = go_on(spoken_until(2, 4))
    assert asked(wire.out) == [Again(EPOCH, 1, 0, 3, Doubt(9, 1, 0, 3, within_s=0.5, still_s=2.0))]
    wire.speaks(1, 2, "b")
    wire.speaks(1, 6, "f ")  # it was on its way
    for number, text in ((3, ""), (4, ""), (5, ""), (6, "f "), (7, "g ")):
        wire.speaks(1, number, text)
    out = wire.back() + wire.flush()
    assert spoken(out) == ["f g "]
    assert not asked(out)
    out = wire.speaks(1, 8, "h") + wire.flush() + wire.ends(1, 8)
    assert spoken(out) == ["h", None]
    assert facts(out, ev.ReplySpoken) == [ev.ReplySpoken(turn=1, deltas=8, chars=9, ended=True)]


def test_of_a_bridge_that_stood_still_less_is_in_doubt_than_of_one_that_spoke_until_it_was_gone() -> None:
    wire = go_on(replace(spoken_until(2, 4), shadowed=True))
    assert asked(wire.out) == [Again(EPOCH, 1, 0, 3, Doubt(9, 1, 0, 3, within_s=0.3, still_s=2.0))]


def test_what_is_missing_still_is_asked_for_with_the_same_doubt() -> None:
    wire = go_on(spoken_until(2, 4))
    wire.speaks(1, 3, "")
    wire.speaks(1, 5, "e")
    wire.passes(1.0)
    [again] = asked(wire.back())
    assert again == Again(EPOCH, 1, 0, 4, Doubt(9, 1, 0, 3, within_s=0.5, still_s=3.0))
    wire.protocol.owner.appoint(EPOCH + 1, wire.now)  # of a new owner nobody else has handed over anything
    wire.speaks(1, 2, "b", part=1, epoch=EPOCH + 1)
    assert [again.doubt for again in asked(wire.passes(1.0))][-1] is None


def test_a_text_that_waited_is_answered_in_full_behind_a_reply_that_was_cut_off() -> None:
    """The bridge stood still in the middle of a reply, and meanwhile the owner has ended that and the next one."""
    book = Book()
    book.bridge(ev.UserText(text="hi"))
    book.bridge(ev.ReplySpoken(turn=1, deltas=2, chars=4))
    book.bridge(ev.UserText(text="and?"))
    book.owner(cmd.EndReply(turn=1, deltas=4, chars=8))
    book.owner(cmd.EndReply(turn=2, deltas=2, chars=4))
    wire = shadowed(book)
    wire.back()
    wire.says("state", state="listening")
    assert not spoken(wire.out)
    wire.speaks(1, 3, "", after=0), wire.speaks(1, 4, "four", after=0)
    wire.speaks(2, 1, "five", after=1), wire.speaks(2, 2, "six", after=1), wire.flush()
    assert spoken(wire.out) == ["four", None, "five", "six", None]
    assert facts(wire.out, ev.ReplySpoken)[-2:] == [
        ev.ReplySpoken(turn=1, deltas=4, chars=8, ended=True),
        ev.ReplySpoken(turn=2, deltas=2, chars=7, ended=True),
    ]
    assert not spoken(wire.passes(3.0))


def test_a_reply_of_which_no_receipt_tells_is_treated_alike() -> None:
    book = Book()
    book.bridge(ev.UserText(text="hi"))
    wire = go_on(book.adopted())
    assert [(again.turn, again.part, again.first) for again in asked(wire.out)] == [(1, 0, 1)]
    wire.back()
    wire.speaks(1, 1, ""), wire.speaks(1, 2, "")
    assert spoken(wire.speaks(1, 3, "c")) == ["c"]
    assert spoken(wire.ends(1, 3)) == [None]


def test_a_reply_to_what_was_said_since_is_whole_or_asked_for() -> None:
    wire = go_on(Book().adopted())
    wire.back()
    wire.says("user.text", text="hi")
    out = wire.speaks(1, 2, "b")
    assert spoken(out) == []
    assert [output.again.first for output in out if isinstance(output, do.AskAgain)] == [1]
    assert spoken(wire.ends(1, 2)) == []
    assert spoken(wire.speaks(1, 1, "a", after=0)) == ["a", "b", None]


def test_a_reply_whose_end_is_in_the_log_is_ended_once_without_what_nobody_will_send() -> None:
    book = Book()
    book.bridge(ev.UserText(text="hi"))
    book.bridge(ev.ReplySpoken(turn=1, deltas=2, chars=4))
    book.owner(cmd.EndReply(turn=1, deltas=5, chars=10))
    wire = go_on(book.adopted(deaf_from=book.seq))
    assert spoken(wire.back()) == []
    assert spoken(wire.passes(2.0)) == [None]  # the owner does not answer
    assert wire.speaks(1, 5, "e") == []
    assert wire.ends(1, 5) == []


def ended_in_doubt() -> Wire:
    """Another bridge may have sent the end of the reply, or not."""
    book = Book()
    book.bridge(ev.UserText(text="hi"))
    book.bridge(ev.ReplySpoken(turn=1, deltas=2, chars=4))
    book.owner(cmd.EndReply(turn=1, deltas=2, chars=4))
    book.owner(cmd.SetFiller(text="hm"))
    wire = go_on(book.adopted())
    assert verbs(wire.back()) == ["hello"]
    return wire


ENDED = ev.ReplySpoken(turn=1, deltas=2, chars=4, ended=True)


@pytest.mark.parametrize("state", ["listening", "idle"])
def test_a_worker_that_listens_has_had_the_end_that_is_in_doubt(state: str) -> None:
    wire = ended_in_doubt()
    out = wire.says("state", state=state, turn_id=1)
    assert verbs(out) == ["agent.filler"]
    assert facts(out, ev.ReplySpoken) == [ENDED]
    wire.says("user.text", text="and?")
    wire.speaks(2, 1, "well")
    assert spoken(wire.out) == ["well"]
    assert not spoken(wire.passes(2.0))


def test_a_worker_that_listens_has_had_the_whole_reply_if_the_owner_is_gone_too() -> None:
    """No receipt tells of its pieces, and nobody can say them again."""
    book = Book()
    book.bridge(ev.UserText(text="hi"))
    book.owner(cmd.EndReply(turn=1, deltas=2, chars=4))
    wire = go_on(book.adopted())
    wire.back()
    wire.says("state", state="listening")
    out = wire.protocol.owner.inherit([], 1, wire.now)
    assert facts(out, ev.ReplySpoken) == [ev.ReplySpoken(turn=1, ended=True)]
    progress = wire.protocol.owner.progress
    assert (progress.unended, progress.unsure_until) == (0, 0)


@pytest.mark.parametrize("state", ["thinking", "speaking", "interrupted", "dreaming"])
def test_a_worker_that_may_wait_for_the_end_that_is_in_doubt_gets_it(state: str) -> None:
    wire = ended_in_doubt()
    out = wire.says("state", state=state)
    assert verbs(out) == ["agent.text.end", "agent.filler"]
    assert facts(out, ev.ReplySpoken) == [ENDED]
    assert not spoken(wire.says("state", state="listening") + wire.passes(2.0))


def test_a_worker_that_does_not_say_what_it_is_doing_gets_the_end_after_a_moment() -> None:
    wire = ended_in_doubt()
    wire.says("user.text", text="and?")
    assert not spoken(wire.passes(0.2))
    assert spoken(wire.passes(0.1)) == [None]


def test_an_end_stays_in_doubt_while_there_is_no_link() -> None:
    wire = ended_in_doubt()
    wire.lost(None)
    assert not spoken(wire.passes(2.0))
    assert verbs(wire.back()) == ["hello"]
    assert not spoken(wire.says("state", state="listening"))
    assert wire.protocol.owner.progress.text is None


def test_after_a_handover_in_order_nothing_of_a_reply_is_lost() -> None:
    book = Book()
    book.bridge(ev.ReplySpoken(turn=1, deltas=2, chars=4))
    wire = go_on(book.adopted(clean=True))
    wire.speaks(1, 5, "e")
    out = wire.back()
    [ask] = [output for output in out if isinstance(output, do.AskAgain)]
    assert ask.again.first == 3
    out = wire.speaks(1, 3, "c") + wire.speaks(1, 4, "d") + wire.flush()
    assert spoken(out) == ["cde"]


def test_a_reply_that_was_cut_only_gets_its_end() -> None:
    book = Book()
    book.bridge(ev.ReplySpoken(turn=1, deltas=2, chars=4))
    book.bridge(ev.UserInterrupted())
    wire = go_on(book.adopted())
    wire.back()
    assert wire.speaks(1, 3, "c") == []
    assert spoken(wire.ends(1, 5)) == [None]


def test_the_caller_who_waits_hears_the_filler() -> None:
    book = Book(verbs=VERBS)
    book.owner(cmd.SetFiller(text="one moment"), "filler")
    book.acks("filler", "ignored")
    book.bridge(ev.UserText(text="hi"))
    wire = go_on(book.adopted())
    wire.back(*VERBS)
    assert written(wire.passes(1.0)) == [{"event": "agent.say", "text": "one moment"}]


def test_the_log_comes_first_and_the_tail_after_it() -> None:
    book = Book()
    book.owner(cmd.Say(text="a"), "a")
    wire = go_on(book.adopted(clean=True))
    wire.does(cmd.Say(text="a"), index=1, name="a")
    wire.does(cmd.Say(text="b"), index=2, name="b")
    assert [frame.get("text") for frame in written(wire.back())[1:]] == ["a", "b"]


# ------------------------------------------------------------------------------------- one that may still be there


def shadowed(book: Book) -> Wire:
    return go_on(book.adopted(deaf_from=NEVER))


def test_what_comes_before_our_link_is_up_may_have_been_said_by_one_that_is_still_there() -> None:
    book = Book()
    book.bridge(ev.UserText(text="hi"))
    wire = shadowed(book)
    wire.speaks(1, 1, "a")
    wire.does(cmd.Say(text="x"))
    wire.does(cmd.SetFiller(text="hm"))
    out = wire.back()
    assert verbs(out) == ["hello", "agent.text.delta", "agent.filler"]  # of speech the owner knows
    assert outcomes(out) == [("say", "unknown"), ("filler.set", "written")]
    out = wire.does(cmd.Say(text="y")) + wire.speaks(1, 2, "b") + wire.flush()
    assert [frame.get("text") for frame in written(out)] == ["y", "b"]
    wire.lost(None)
    wire.does(cmd.Say(text="z"))
    assert [frame.get("text") for frame in written(wire.back())[1:]] == ["z"]


def test_what_the_former_bridge_says_itself_that_it_has_spoken_is_not_said_again() -> None:
    book = Book()
    book.bridge(ev.UserText(text="hi"))
    book.bridge(ev.ReplySpoken(turn=1, deltas=2, chars=4))
    book.bridge(ev.UserText(text="and?"))
    book.owner(cmd.EndReply(turn=1, deltas=4, chars=8))
    wire = shadowed(book)
    wire.speaks(1, 3, "", after=0), wire.speaks(1, 4, "four", after=0)
    for number in range(1, 5):
        wire.speaks(2, number, f"<{number}>", after=1)
    assert not wire.protocol.on_spoken(Spoken(10**12), wire.now)  # no bridge says that
    out = wire.feed(wire.protocol.on_spoken(Spoken(1, 2, 0, 3, 9), wire.now))  # it lived, and nobody heard of it
    assert [(fact.turn, fact.ended) for fact in facts(out) if isinstance(fact, ev.ReplySpoken)] == [(1, True)]
    wire.back()
    wire.says("state", state="speaking"), wire.flush()
    assert spoken(wire.out) == ["<4>"]
    assert spoken(wire.ends(2, 4)) == [None]
    assert facts(wire.out, ev.ReplySpoken)[-1] == ev.ReplySpoken(turn=2, deltas=4, chars=12, ended=True)
    assert not wire.protocol.on_spoken(Spoken(9), wire.now)  # our own link is up
    wire.says("user.text", text="well")
    assert spoken(wire.speaks(3, 1, "yes")) == ["yes"]


# --------------------------------------------------------------------------------------------- what a new owner is told


def test_a_new_owner_hears_how_far_a_reply_was_spoken_and_that_nobody_knows_the_words() -> None:
    wire = go_on(spoken_until(2, 4))
    progress = wire.protocol.owner.progress
    assert (progress.turn, progress.deltas, progress.chars, progress.text) == (1, 2, 4, None)
    assert not progress.private


def test_of_a_reply_that_is_over_a_new_owner_hears_what_was_said_here() -> None:
    wire = go_on(spoken_until(2, 4))
    wire.back()
    wire.speaks(1, 3, "rest "), wire.flush()
    assert wire.protocol.owner.progress.text is None  # it may be gone on with: half of it is not enough for that
    wire.ends(1, 3)
    progress = wire.protocol.owner.progress
    assert (progress.turn, progress.chars, progress.text) == (1, 9, "rest ")


def test_a_new_owner_must_not_begin_a_reply_that_may_have_been_begun() -> None:
    book = Book()
    book.bridge(ev.UserText(text="hi"))
    progress = go_on(book.adopted()).protocol.owner.progress
    assert (progress.turn, progress.chars, progress.unsure_until) == (1, 0, 1)
    assert go_on(book.adopted(clean=True)).protocol.owner.progress.unsure_until == 0
    book.bridge(ev.ReplySpoken(turn=1, deltas=1, chars=4, ended=True))
    wire = go_on(book.adopted())
    assert wire.protocol.owner.progress.unsure_until == 0
    wire.back()
    wire.says("user.text", text="what?")
    assert wire.protocol.owner.progress.unsure_until == 0


def test_what_is_known_of_a_reply_is_not_all_that_may_have_been_spoken_of_it() -> None:
    progress = go_on(spoken_until(2, 4)).protocol.owner.progress
    assert (progress.turn, progress.chars, progress.unsure_until) == (1, 4, 1)


def test_a_text_behind_one_whose_reply_is_in_doubt_may_have_been_answered_too() -> None:
    book = Book()
    book.bridge(ev.UserText(text="hi"))
    book.owner(cmd.EndReply(turn=1, deltas=1, chars=4))
    book.bridge(ev.UserText(text="and?"))
    assert go_on(book.adopted()).protocol.owner.progress.unsure_until == 2


@pytest.mark.parametrize(("part", "number"), [(0, 3), (1, 1)])
def test_of_a_reply_that_another_bridge_may_have_begun_the_words_stay_unknown(part: int, number: int) -> None:
    book = Book()
    book.bridge(ev.UserText(text="hi"))
    wire = go_on(book.adopted())
    wire.back()
    for missing in range(1, number):
        wire.speaks(1, missing, "", part=part)
    assert spoken(wire.speaks(1, number, "later", part=part)) == ["later"]
    progress = wire.protocol.owner.progress
    assert (progress.turn, progress.part, progress.chars, progress.text, progress.unsure_until) == (1, part, 5, None, 1)


def test_a_reply_that_was_begun_here_is_known() -> None:
    book = Book()
    book.bridge(ev.UserText(text="hi"))
    wire = go_on(book.adopted())
    wire.back()
    wire.speaks(1, 1, "well")
    progress = wire.protocol.owner.progress
    assert (progress.chars, progress.text, progress.unsure_until) == (4, "well", 0)


# -------------------------------------------------------------------------------------------------------- handing over


def test_leaving_closes_and_hears_what_is_on_its_way_and_says_how_far_it_was() -> None:
    wire = Wire().up()
    wire.says("user.text", text="hi")
    wire.speaks(1, 1, "a")
    wire.speaks(1, 2, "b")
    out = wire.feed(wire.protocol.leave(wire.now))
    assert kinds(out) == ["Write", "Leave"]
    assert wire.speaks(1, 3, "c") == []
    assert wire.does(cmd.Say(text="x")) == []
    assert facts(wire.says("user.text", text="wait"), ev.UserText) == [ev.UserText(text="wait")]
    out = wire.lost(1000)
    assert facts(out) == [ev.ReplySpoken(turn=1, deltas=2, chars=2)]
    assert kinds(out) == ["Store", "Left"]
    assert wire.protocol.deadline is None
    assert wire.feed(wire.protocol.leave(wire.now)) == []


@pytest.mark.parametrize("state", ["thinking", "listening"])
@pytest.mark.parametrize("clean", [False, True])
def test_an_end_that_a_socket_may_have_lost_is_settled_by_the_next_bridge(state: str, *, clean: bool) -> None:
    book, wire = Book(), Wire().up()
    wire.says("user.text", text="hi")
    book.owner(cmd.EndReply(turn=1, deltas=1))
    wire.speaks(1, 1, "a"), wire.ends(1, 1)
    wire.lost(None)
    wire.feed(wire.protocol.leave(wire.now))
    for store in (output for output in wire.out if isinstance(output, do.Store)):
        book.bridge(store.body)
    later = go_on(book.adopted(clean=clean))
    later.back()
    assert spoken(later.says("state", state=state, turn_id=1)) == ([None] if state == "thinking" else [])
    for store in (output for output in later.out if isinstance(output, do.Store)):
        book.bridge(store.body)
    assert book.adopted().unread_end == 0


@pytest.mark.parametrize("back", [False, True])
def test_one_that_leaves_sends_nothing_more_and_so_acknowledges_nothing(*, back: bool) -> None:
    wire = Wire().up(*VERBS)
    wire.does(cmd.SetFiller(text="mhm"))
    wire.speaks(1, 1, "a"), wire.ends(1, 1)  # and no pong says that the worker has read the end
    if back:
        wire.lost(None), wire.back(*VERBS)
        wire.speaks(2, 1, "b")
    wire.says("user.text", text="hi")
    wire.feed(wire.protocol.leave(wire.now))
    left = len(wire.out)
    wire.does(cmd.Say(text="x"))
    wire.says("state", state="listening", turn_id=1)
    wire.says("user.interrupted", turn_id=1)
    wire.does(cmd.Say(text="y"))
    wire.speaks(2, 2, "c")
    wire.passes(60.0), wire.flush()
    assert {type(fact) for fact in facts(wire.out[left:])} == {ev.StateChanged, ev.UserInterrupted}
    assert kinds(wire.out[left:]) == ["Store", "Store"]


def test_leaving_without_a_link() -> None:
    wire = Wire().up()
    wire.lost(None)
    assert kinds(wire.feed(wire.protocol.leave(wire.now))) == ["Close", "Left"]


# ----------------------------------------------------------------------------------------------------- at any moment


class Played:
    """Plays steps on a protocol, and keeps the log that its shell would have written, with what the worker got."""

    def __init__(self) -> None:
        self.book = Book()
        self.wire = Wire().up()
        self.turn = 0
        self.sent = 0
        self.kept: list[tuple[int, int, int, bool]] = []
        """The owner's pieces: turn, number, the command before it, and whether the former bridge can have heard it."""
        self.heard: list[dict[str, object]] = []

    def step(self, name: str) -> None:
        STEPS[name](self)

    def say(self) -> None:
        self.command(cmd.Say(text=f"say {self.book.owner_index}"))

    def ask(self) -> None:
        self.turn, self.sent = self.turn + 1, 0
        self.wire.says("user.text", text="hi")

    def speak(self) -> None:
        if self.turn:
            self.sent += 1
            self.kept.append((self.turn, self.sent, self.book.owner_index, True))
            self.wire.speaks(self.turn, self.sent, f"{self.turn}.{self.sent} ")

    def end(self) -> None:
        if self.turn:
            self.command(cmd.EndReply(turn=self.turn, deltas=self.sent))
            self.sent += 1_000  # what comes after the end must never be heard

    def pong(self) -> None:
        if any(isinstance(output, do.Ping) for output in self.wire.out):
            self.wire.pong()

    def command(self, command: cmd.AnyCommand, *, heard: bool = True) -> None:
        self.book.owner(command)
        if heard:
            self.wire.does(command, index=self.book.owner_index, name=f"id-{self.book.owner_index}")

    def take(self, *, unstored: int = 0) -> None:
        """Store what was put, but the last of it, and hear what was written."""
        stores = [output for output in self.wire.out if isinstance(output, do.Store)]
        for store in stores[: len(stores) - unstored]:
            self.book.bridge(store.body)
        self.heard += written(self.wire.out)
        self.wire.out.clear()

    def is_handed_on(self, unheard: list[str]) -> None:
        """Another bridge goes on; in between the owner has done what nobody heard."""
        deaf_from = self.book.seq + 1
        for name in unheard:
            if name == "say":
                self.command(cmd.Say(text=f"say {self.book.owner_index}"), heard=False)
            elif name == "endcall":
                self.command(cmd.EndCall(), heard=False)
            elif name == "delta":
                self.sent += 1
                self.kept.append((self.turn, self.sent, self.book.owner_index, False))
        self.wire = go_on(self.book.adopted(deaf_from=deaf_from))
        self.answer()
        self.wire.back()
        self.wire.passes(0.3)  # an end that is in doubt is sent after a moment
        while self.wire.stored():  # one verb after the other waits for its claim
            pass
        self.take()

    def answer(self) -> None:
        """The owner sends what it is asked for, without what the former bridge may have handed over."""
        for again in asked(self.wire.out):
            for turn, number, after, may_be_said in self.kept:
                if (turn, number) >= (again.turn, again.first):
                    self.wire.speaks(turn, number, "" if may_be_said else f"{turn}.{number} ", after=after)

    def said(self) -> list[object]:
        return [frame["text"] for frame in self.heard if frame["event"] == "agent.say"]

    def pieces(self) -> list[tuple[int, int]]:
        texts = [str(frame["text"]) for frame in self.heard if frame["event"] == "agent.text.delta"]
        numbers = [piece.split(".") for text in texts for piece in text.split()]
        return [(int(turn), int(piece)) for turn, piece in numbers]

    def count(self, event: str) -> int:
        return sum(frame["event"] == event for frame in self.heard)


STEPS: dict[str, Callable[[Played], object]] = {
    "say": Played.say,
    "user": Played.ask,
    "delta": Played.speak,
    "end": Played.end,
    "pong": Played.pong,
    "endcall": lambda played: played.command(cmd.EndCall()),
    "pause": lambda played: played.command(cmd.PauseRecording()),
    "cut": lambda played: played.wire.says("user.interrupted", turn_id=played.turn),
    "flush": lambda played: played.wire.flush(),
    "stored": lambda played: played.wire.stored(),
    "second": lambda played: played.wire.passes(1.0),
}
some = st.lists(st.sampled_from(sorted(STEPS)), max_size=30)


@pytest.mark.slow
@given(before=some, last=some, unstored=st.integers(0, 3), unheard=some, after=some)
def test_whatever_has_happened_nothing_is_said_twice_and_each_reply_ends_once(
    before: list[str], last: list[str], unstored: int, unheard: list[str], after: list[str]
) -> None:
    played = Played()
    for name in before:
        played.step(name)
        played.take()
    for name in last:
        if name not in ("stored", "pong"):  # a verb is not written before its claim is stored
            played.step(name)
    played.take(unstored=unstored)
    played.is_handed_on(unheard)
    for name in after:
        played.step(name)
        played.take()
    said, pieces = played.said(), played.pieces()
    assert len(said) == len(set(said))
    assert pieces == sorted(set(pieces))
    commands = [message for message in played.book.messages if b"call.end" in message.data[:30]]
    assert played.count("agent.end_call") <= len(commands)
    assert played.count("agent.text.end") <= played.turn + 1  # one may be repeated after a redial


@example(before=["endcall", "endcall", "say", "user", "delta", "end"], unheard=["say"])
@given(before=some, unheard=st.lists(st.just("say"), max_size=5))
def test_what_the_former_bridge_cannot_have_heard_is_said(before: list[str], unheard: list[str]) -> None:
    played = Played()
    for name in before:
        played.step(name)
        played.take()
        if played.wire.protocol.phase == "over":
            return
    first = played.book.owner_index
    played.is_handed_on(unheard)
    assert set(played.said()) >= {f"say {first + number}" for number in range(len(unheard))}
