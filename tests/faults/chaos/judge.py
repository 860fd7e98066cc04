"""What must hold of each call after the nemesis: the checks of the rows, and what `guarantees.md` excepts told apart.

An exception has a rule of its own, which looks at what was done to whom and when, and a bound. All else is a finding.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Final, TypeAlias, TypeVar

from tests.faults import checks
from tests.faults.chaos.nemesis import Deed
from tests.faults.chaos.plan import BRIDGE, CALL, NATS, ROUTE, RUNNER
from tests.faults.chaos.talk import PIECE_S, Talk, Told
from tests.faults.checks import Allow, Findings, Observed
from tests.faults.load import Caller, Turn
from tests.faults.words import question, words_in

from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.codec import Record
from unpod.core.controls import DEADLINE_S
from unpod_orchestrator import LoggedFrame

RECEIPT_S: Final = 0.35
"""What a bridge has written since its last receipt may be unsure: so much of its speech, with the slack 0.5 s."""
SLACK_WORDS: Final = 5
"""What was on its way beside that: a receipt that is not stored yet, pieces that were joined."""
LOST_S: Final = 1.0
"""How long before the loss of its socket a frame may have been sent that is lost with it, not counting the time in
which nobody could have stored it."""
NOTICED_S: Final = 2.0
"""How long a bridge whose records wait may not notice that its line is taken: they are sent again each second."""
UNHEARD_S: Final = 3.0
"""So much speech of a bridge that could not be heard may come twice: its link is given up by then."""
LUMP_S: Final = 0.3
"""How long after a redial comes what had waited for it."""
CAUSE_S: Final = 15.0
"""How long after a fault a socket may be dropped because of it: one that nobody answers on is given up after 9 s."""
REASONS: Final = {"hang up": {"hangup"}, "agent": {"done"}, "operator": {"completed"}}
CLEANUPS: Final = 4
Body = TypeVar("Body")
Note: TypeAlias = Mapping[str, object]
"""What an agent has done outside."""
TWO_DEATHS_S: Final = 20.0
"""Within so long, two runners that die in a row may be blamed on what the call has just said."""


@dataclass(slots=True)
class Excepted:
    """How often each exception was needed, and on which calls."""

    counts: Counter[str] = field(default_factory=Counter)
    lines: list[str] = field(default_factory=list)

    def note(self, what: str, count: int, where: str) -> None:
        """Count one."""
        self.counts[what] += count
        self.lines.append(f"{where}: {what}")


class Harmed(Observed):
    """One call, and what was done to it."""

    def __init__(
        self, caller: Caller, records: Sequence[Record], talk: Talk, deeds: Sequence[Deed], notes: Sequence[Note] = ()
    ) -> None:
        way = talk.ways.get(caller.number, "hang up")
        super().__init__(caller, records, Allow(drops=True, reasons=frozenset(REASONS[way])))
        self.talk = talk
        self.notes = notes
        self.deeds = deeds
        self.excepted = Excepted()
        self.origin = caller.call._worker.origin_s
        self.clock_offset = time.time() - time.monotonic()
        """What the log's time has over the event loop's."""
        over = caller.call.ended_at
        self.over = math.inf if over is None else over.timestamp() - self.clock_offset
        """When the worker's side knew that the call is over."""
        if self._end_is_unheard():
            self.allow = replace(self.allow, reasons=self.allow.reasons | {"lost"})
            if any(body.reason == "lost" for body in self._bodies(ev.CallEnded)):
                self.excepted.note("a hang-up unheard by a bridge that was harmed", 1, self.name)

    @cached_property
    def drops(self) -> list[float]:
        """When sockets were lost, in seconds since the placing; the last one, too, where its end is unheard."""
        lost = [self.over] if "lost" in self.allow.reasons and math.isfinite(self.over) else []
        return [at - self.origin for at in (*self.caller.downs, *lost)]

    def holders(self, role: str) -> set[str]:
        """Return who has held the call's line, or owned its session, at any time."""
        if role == BRIDGE:
            return {record.body.bridge for record in self.records if isinstance(record.body, ev.LineTaken)}
        return {record.body.runner for record in self.records if isinstance(record.body, ev.OwnerAppointed)}

    @cached_property
    def about(self) -> list[Deed]:
        """What was done to this call: to NATS, to its sockets, to its runners, and to its bridges.

        Before the log tells that it has begun, it may have been on a socket of any bridge.
        """
        mine = {*self.holders(BRIDGE), *self.holders(RUNNER), self.caller.session}
        return [
            deed
            for deed in self.deeds
            if deed.fault.role in (NATS, ROUTE)
            or deed.whom in mine
            or (deed.fault.role == BRIDGE and deed.overlap(self.origin, self.begun) > 0.0)
        ]

    @cached_property
    def begun(self) -> float:
        """When the call began, as the log tells it."""
        times = [record.envelope.time for record in self.records if isinstance(record.body, ev.CallStarted)]
        return min(times, default=math.inf) - self.clock_offset

    def harmed_s(self, begin: float, end: float, *roles: str) -> float:
        """Return for how many seconds of a time these roles were harmed, or their links; overlaps count twice."""
        return sum(deed.overlap(begin, end) for deed in self.about if deed.fault.role in roles)

    def may_be_lost(self, frame: LoggedFrame) -> bool:
        """Whether a frame was on a socket that was lost before anybody could store it."""
        sent = self.origin + frame.t_s
        losses = [*self.caller.downs, *([self.over] if "lost" in self.allow.reasons else [])]
        for down in losses:
            if sent <= down + 0.05:
                return self._is_moment(sent, down) or any(
                    self._is_moment(sent, taken) and self._is_moment(taken, down, NOTICED_S) for taken in self._taken
                )
        return False

    def _is_moment(self, begin: float, end: float, bound_s: float = LOST_S) -> bool:
        """Whether between two times there is no more than may be lost with a socket, or with a line that is taken."""
        return begin > end or end - begin - self.harmed_s(begin, end, NATS, ROUTE, BRIDGE) <= bound_s

    @cached_property
    def _taken(self) -> list[float]:
        """When bridges have taken the line from others: those let go of its socket once they notice."""
        taken = [record for record in self.records if isinstance(record.body, ev.LineTaken)]
        return [record.envelope.time - self.clock_offset for record in taken[1:]]

    def turn(self, text: str) -> Turn | None:
        """Return the turn of a question."""
        return next((turn for turn in self.caller.turns if turn.question.text == text), None)

    @cached_property
    def logged(self) -> list[Turn]:
        """The questions that are in the log, in its order."""
        texts = [record.body.text for record in self.of(ev.UserText) if isinstance(record.body, ev.UserText)]
        return [turn for turn in map(self.turn, texts) if turn is not None]

    @cached_property
    def unsure_until(self) -> int:
        """Up to which turn nobody knows how far replies came: a bridge and a runner were lost together."""
        return max((body.unsure_until for body in self._bodies(ev.OwnerChanged)), default=0)

    @cached_property
    def passed_over(self) -> set[str]:
        """The questions at which runners have died in a row: no answer to them is begun again, or gone on with."""
        inputs = {body.input for body in self._bodies(ev.HookPoisoned)}
        texts = [record for record in self.of(ev.UserText) if record.envelope.id in inputs]
        return {record.body.text for record in texts if isinstance(record.body, ev.UserText)}

    def _bodies(self, kind: type[Body]) -> list[Body]:
        return [record.body for record in self.of(kind) if isinstance(record.body, kind)]

    def _end_is_unheard(self) -> bool:
        """Whether the bridge may not have stored how the call ended: it was killed, stopped or cut off right then."""
        return any(
            deed.fault.role in (BRIDGE, NATS, ROUTE)
            and deed.began <= self.over + LOST_S
            and (deed.ended is None or self.over <= deed.ended + CAUSE_S)
            for deed in self.about
        )


def judge(harmed: Harmed) -> Findings:
    """Check one call; what is excepted is counted in it."""
    findings = Findings()
    for into, made in ((findings.lost, LOST), (findings.repeated, REPEATED), (findings.wrong, WRONG)):
        for check in made:
            into += [f"{harmed.name}: {line}" for line in check(harmed)]
    for frame in harmed.missing:
        if harmed.may_be_lost(frame):
            harmed.excepted.note(f"{frame.event} lost with its socket", 1, harmed.name)
    return findings


# --------------------------------------------------------------------------------------------------- every word of it


def every_word_comes(seen: Harmed) -> Iterator[str]:
    """Of each text in the log the whole answer has come, but for what was unsure when a socket was lost.

    The answer to one that is passed over ends where its last owner has died: `few_inputs_are_passed_over` bounds that.
    """
    for number, turn in enumerate(seen.logged, 1):
        if "end" in turn.question.orders or (turn is seen.caller.turns[-1] and turn.done_at is None):
            continue
        whole = turn.length
        if turn.question.name in seen.talk.interrupted or turn.question.text in seen.passed_over:
            whole = max(turn.words, default=0)
        for first, last, begin, end in _gaps(turn, whole):
            count = last - first + 1
            since = _due_since(seen, turn, begin)
            drops = sum(since - 0.1 <= down <= end for down in seen.caller.downs)
            bound = drops * _unsure_words(seen.harmed_s(since - 1.0, end, NATS, ROUTE, RUNNER))
            if count <= bound:
                seen.excepted.note("words unsure around a lost socket", count, f"{seen.name}, {turn.question.name}")
            elif number <= seen.unsure_until and seen.harmed_s(begin - 1.0, end, RUNNER):
                seen.excepted.note("words unsure where both were lost", count, f"{seen.name}, {turn.question.name}")
            else:
                yield f"the words {first} to {last} of {turn.question.name} ({turn.length}) never came"


def _gaps(turn: Turn, whole: int) -> Iterator[tuple[int, int, float, float]]:
    """Yield what is missing of an answer: its first and last word, and between which times it would have come."""
    firsts = dict(reversed(list(zip(turn.words, turn.heard_at, strict=True))))
    heard = [(0, turn.asked_at), *sorted(firsts.items()), (whole + 1, math.inf)]
    for (word, at), (following, later) in pairwise(heard):
        if following > word + 1:
            yield word + 1, following - 1, at, min(later, turn.done_at or math.inf)


def _due_since(seen: Harmed, turn: Turn, begin: float) -> float:
    """Return when words that follow one that was heard at `begin` may have been sent.

    What was said while a socket was lost comes all at once when it is there again.
    """
    for down in seen.caller.downs:
        up = min((up for up in seen.caller.ups if up >= down), default=math.inf)
        if turn.asked_at <= down < begin <= up + LUMP_S:
            return down
    return begin


def _unsure_words(troubled_s: float) -> int:
    """Return how many words may be unsure: what the owner said in an interval; held up before, it came all at once."""
    return math.ceil((RECEIPT_S + troubled_s) / PIECE_S) + SLACK_WORDS


def the_fold_is_what_was_heard(seen: Harmed) -> Iterator[str]:
    """No word is marked as heard that was not, and none that was heard is missing, but for those that are unsure."""
    for record in seen.of(ev.TurnCompleted):
        turn = record.body
        assert isinstance(turn, ev.TurnCompleted)
        asked = question(turn.user_text or "")
        ours = None if asked is None else seen.turn(asked.text)
        if ours is None or turn.withheld or turn.interrupted:
            continue
        logged = {word.word for word in words_in(turn.agent_text or "")}
        heard = set(ours.words)
        unsure = seen.unsure_until >= turn.turn_id
        bound = 0
        if seen.caller.downs:
            until = ours.done_at or math.inf
            drops = sum(ours.asked_at - 0.1 <= down <= until + 1.0 for down in seen.caller.downs)
            bound = drops * _unsure_words(seen.harmed_s(ours.asked_at - 1.0, until, NATS, ROUTE, RUNNER))
        if turn.heard_text is None and min(len(seen.holders(BRIDGE)), len(seen.holders(RUNNER))) > 1:
            seen.excepted.note("words unknown to a row since both were lost", 1, f"{seen.name}, {ours.question.name}")
            unsure = True
        if unsure or ours.question.name in seen.talk.interrupted:
            bound = ours.length
        for what, words in (("marked, and never heard", logged - heard), ("heard, and not marked", heard - logged)):
            if len(words) > bound:
                yield f"turn {turn.turn_id} ({ours.question.name}): words {checks._runs(sorted(words))} are {what}"


def answers_come_in_order(seen: Harmed) -> Iterator[str]:
    """The words of answers come in the order of the questions, those that came before not counted again."""
    first = list(dict.fromkeys(seen.words))
    for one, other in pairwise(first):
        if one >= other:
            yield f"{other} came after {one}"
            return


def every_word_is_spoken_once(seen: Harmed) -> Iterator[str]:
    """No word comes twice, but what a bridge said that spoke and could not be heard: its link was open one way only."""
    deaf_to = [deed for deed in seen.about if deed.fault.kind == "oneway" and deed.fault.role == BRIDGE]
    for turn in seen.caller.turns:
        again = [word for word, count in Counter(turn.words).items() if count > 1]
        times = [at for word, at in zip(turn.words, turn.heard_at, strict=True) if word in again]
        spoken_s = len(again) * PIECE_S
        if again and spoken_s <= UNHEARD_S and any(deed.overlap(min(times) - LOST_S, max(times)) for deed in deaf_to):
            seen.excepted.note("words spoken twice by a bridge that could not be heard", len(again), seen.name)
        elif again:
            yield f"{len(again)} words of {turn.question.name} were spoken twice: {checks._runs(sorted(again))}"


# ------------------------------------------------------------------------------------------------------ what was said


def every_order_is_carried_out(seen: Harmed) -> Iterator[str]:
    """What a question's hook has to say is said, with the state that the questions before it have made."""
    said = {str(frame.raw["text"]) for frame in seen.sent("agent.say")}
    poisoned = bool(seen.of(ev.HookPoisoned))
    for number, turn in enumerate(seen.logged, 1):
        name, orders = turn.question.name, turn.question.orders
        phrases = {"say": f"noted {name}", "count": f"counted {name} {number}", "step": f"charged {name} "}
        for order, phrase in phrases.items():
            if order not in orders or any(text.startswith(phrase) for text in said):
                continue
            if poisoned or _may_be_unsaid(seen, phrase):
                seen.excepted.note("a phrase unsure around a lost socket", 1, f"{seen.name}, {name}")
            else:
                yield f"{phrase!r} was not said"


def _may_be_unsaid(seen: Harmed, phrase: str) -> bool:
    """Whether the log says that nobody knows, or that it was written, and its socket was lost then."""
    for record in seen.merged:
        if isinstance(record.body, cmd.Say) and (record.body.text or "").startswith(phrase):
            return _is_unsure(seen, record.envelope.id)
    return False


def _is_unsure(seen: Harmed, command: str) -> bool:
    for record in seen.of(ev.CommandAcknowledged):
        if isinstance(record.body, ev.CommandAcknowledged) and record.body.command == command:
            at = record.envelope.time - seen.clock_offset
            if record.body.outcome == "unknown" or any(at - 1.0 <= down <= at + LOST_S for down in seen.caller.downs):
                return True
    return False


def what_is_told_from_outside_is_said(seen: Harmed) -> Iterator[str]:
    """What was applied was said once, what was refused never, and what nobody knows at most once."""
    said = Counter(str(frame.raw["text"]) for frame in seen.sent("agent.say"))
    for told in seen.talk.told:
        if told.caller is seen.caller:
            yield from _told(seen, told, said[told.text])


def _told(seen: Harmed, told: Told, times: int) -> Iterator[str]:
    right = {"applied": {1}, "refused": {0}}.get(told.outcome, {0, 1})
    if times in right:
        if told.outcome not in ("applied", "refused"):
            ended = " when its call ended" if seen.over <= told.at + DEADLINE_S else ""
            at = told.at - seen.origin
            seen.excepted.note(f"a control is {told.outcome}{ended}", 1, f"{seen.name}, {told.text!r} at {at:.2f} s")
        return
    lost = any(told.at <= down <= told.at + CAUSE_S for down in seen.caller.downs)
    if told.outcome == "applied" and not times and lost:
        seen.excepted.note("a phrase unsure around a lost socket", 1, seen.name)
    else:
        yield f"{told.text!r} is {told.outcome}, and was said {times} times"


# --------------------------------------------------------------------------------------------------- the call as such


def every_text_has_its_turn(seen: Harmed) -> Iterator[str]:
    """Each text in the log has one completed turn, in order."""
    texts = [record.body for record in seen.merged if isinstance(record.body, ev.UserText) and record.body.is_final]
    turns = [record.body.turn_id for record in seen.merged if isinstance(record.body, ev.TurnCompleted)]
    if turns != list(range(1, len(texts) + 1)):
        yield f"{len(texts)} questions in the log, and completed turns {checks._runs(turns)}"


def sockets_are_lost_for_a_reason(seen: Harmed) -> Iterator[str]:
    """Nobody lets go of a socket unless something was done to it, to its bridge, or to NATS."""
    for down in seen.caller.downs:
        if not any(deed.began <= down <= (deed.ended or down) + CAUSE_S for deed in seen.about if _of_line(deed)):
            yield f"its socket was lost at {down - seen.origin:.2f} s, and nothing was done to it"


def _of_line(deed: Deed) -> bool:
    return deed.fault.role in (NATS, ROUTE, BRIDGE, CALL)


def few_inputs_are_passed_over(seen: Harmed) -> Iterator[str]:
    """An input is passed over only where two runners in a row have died, or stood still, with it."""
    poisoned = len(seen.of(ev.HookPoisoned))
    if not poisoned:
        return
    deaths = sorted(deed.began for deed in seen.about if deed.fault.role == RUNNER)
    pairs = sum(later - one <= TWO_DEATHS_S for one, later in pairwise(deaths))
    if poisoned > pairs:
        yield f"{poisoned} inputs were passed over, and {len(deaths)} things done to its runners"
    else:
        seen.excepted.note("an input passed over", poisoned, seen.name)


def steps_run_once(seen: Harmed) -> Iterator[str]:
    """A step runs again only for another owner, under the same key; a clean-up runs, and three times more at most."""
    runs: dict[str, list[Note]] = {}
    for note in seen.notes:
        if note["what"] == "charge":
            runs.setdefault(str(note["turn"]), []).append(note)
    for turn, done in runs.items():
        if len({note["key"] for note in done}) > 1:
            yield f"the step of {turn} ran again under another key"
        if len(done) > len(seen.of(ev.OwnerAppointed)):
            yield f"the step of {turn} ran {len(done)} times"
        elif len(done) > 1:
            seen.excepted.note("a step that ran again for another owner", len(done) - 1, f"{seen.name}, {turn}")
    cleaned = sum(note["what"] == "cleaned" for note in seen.notes)
    if not 1 <= cleaned <= CLEANUPS:
        yield f"its clean-up ran {cleaned} times"


LOST = (checks.every_record_counts, checks.every_frame_is_stored)
REPEATED = (
    checks.every_phrase_is_said_once,
    every_word_is_spoken_once,
    checks.what_cannot_be_taken_back_is_done_once,
)
WRONG = (
    checks.the_worker_has_no_complaint,
    checks.every_reply_is_ended_once,
    answers_come_in_order,
    every_text_has_its_turn,
    every_word_comes,
    every_order_is_carried_out,
    what_is_told_from_outside_is_said,
    the_fold_is_what_was_heard,
    checks.the_call_is_over,
    checks.there_is_one_owner_and_one_line,
    few_inputs_are_passed_over,
    checks.nothing_diverged,
    checks.commands_are_answered,
    steps_run_once,
    sockets_are_lost_for_a_reason,
)
