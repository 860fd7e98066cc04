"""What must hold of every call, whatever was done to the processes: from the worker's side, and from the log.

Each check returns sentences about what does not hold. `lost`: a record that NATS has acknowledged and the fold does not
see, or a frame that the worker sent and nobody stored. `repeated`: a command or a piece of speech that the worker got
twice. `wrong`: all else.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

from tests.faults.load import Caller
from tests.faults.matching import left_out
from tests.faults.words import Word, question, words_in

from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.codec import BRIDGE_CHANNELS, OWNER_CHANNELS, Record
from unpod.core.replay.ordering import merge
from unpod.core.state import SessionState, fold
from unpod_orchestrator import LoggedFrame

HANDSHAKE = frozenset({"hello.ack", "call.started"})
MADE_BY_THE_BRIDGE = HANDSHAKE | {"call.reattached", "call.ended", "rejected", "unknown"}
IRREVERSIBLE = frozenset({"agent.transfer", "agent.end_call", "agent.dispatch", "agent.merge", "agent.add_participant"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Allow:
    """What a fault may cost.

    `drops`: sockets of calls may be lost. What was on one in the `shadow_s` before may be lost with it, and a reply
    that was being spoken be cut. `cut`: replies may be cut without that. `again`: a cut reply is said again by policy.
    `unstored`: the log takes nothing more at the end of a call; `unfinished`: the owner's last records neither.
    `forged`: others write, too. `reasons`: how calls may end. `tracebacks`: what
    may stand in the processes' logs, of the agent's own code.
    """

    drops: bool = False
    shadow_s: float = 0.5
    cut: bool = False
    again: bool = False
    reasons: frozenset[str] = frozenset({"hangup"})
    unstored: bool = False
    unfinished: bool = False
    forged: bool = False
    tracebacks: tuple[str, ...] = ()
    diverged: bool = False


@dataclass(slots=True)
class Findings:
    """What does not hold."""

    lost: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.lost or self.repeated or self.wrong)

    def __str__(self) -> str:
        lines = [
            f"{kind}: {line}"
            for kind, found in (("wrong", self.wrong), ("lost", self.lost), ("repeated", self.repeated))
            for line in found
        ]
        return "\n".join(lines) or "all is well"

    def add(self, other: Findings) -> None:
        """Take over what another has found."""
        self.lost += other.lost
        self.repeated += other.repeated
        self.wrong += other.wrong


class Observed:
    """One call after its end: what the worker saw of it, and its log."""

    def __init__(self, caller: Caller, records: Sequence[Record], allow: Allow) -> None:
        self.caller = caller
        self.call = caller.call
        self.allow = allow
        self.records = [record for record in records if record.envelope.source != "forged" or not allow.forged]
        self.merged = merge(records)
        self.state: SessionState = fold(self.merged)
        self.frames = caller.call.frames

    @property
    def name(self) -> str:
        """What sentences about it begin with."""
        return f"call {self.caller.number} ({self.call.session_id[-8:]})"

    def sent(self, event: str) -> list[LoggedFrame]:
        """Return the frames of one verb that the worker got."""
        return [frame for frame in self.frames if frame.direction == "in" and frame.event == event]

    def of(self, kind: type) -> list[Record]:
        """Return the records of one kind, merged."""
        return [record for record in self.merged if isinstance(record.body, kind)]

    @cached_property
    def words(self) -> list[Word]:
        """The words of answers that the worker got, in order."""
        return list(words_in("".join(str(frame.raw["text"]) for frame in self.sent("agent.text.delta"))))

    @cached_property
    def drops(self) -> list[float]:
        """When sockets were lost, in seconds since the placing."""
        origin = self.call._worker.origin_s
        return [at - origin for at in self.caller.downs]

    @cached_property
    def missing(self) -> list[LoggedFrame]:
        """The frames that the worker sent and the log does not have; where equal ones were sent, those that may be."""
        logged = [
            json.loads(record.data)
            for record in self.merged
            if record.channel == "evt" and record.envelope.type.removeprefix("evt.") not in MADE_BY_THE_BRIDGE
        ]
        sent = [
            frame
            for frame in self.frames
            if frame.direction == "out" and frame.event not in HANDSHAKE and frame.event != "(raw)"
        ]
        return left_out(sent, logged, self.may_be_lost)

    def may_be_lost(self, frame: LoggedFrame) -> bool:
        """Whether a frame was on a socket that was lost at the time."""
        near = any(drop - self.allow.shadow_s <= frame.t_s <= drop + 0.05 for drop in self.drops)
        return (self.allow.drops and near) or self.allow.unstored


def look(caller: Caller, records: Sequence[Record], allow: Allow) -> Findings:
    """Check one call."""
    observed = Observed(caller, records, allow)
    findings = Findings()
    for into, checks in (
        (findings.lost, LOST),
        (findings.repeated, REPEATED),
        (findings.wrong, WRONG),
    ):
        for check in checks:
            into += [f"{observed.name}: {line}" for line in check(observed)]
    return findings


# ---------------------------------------------------------------------------------------------------------------- lost


def every_record_counts(seen: Observed) -> Iterator[str]:
    """All that is stored is in the fold: the indexes of both writers have no gap, and none stands for two records."""
    for name, channels in (("bridge", BRIDGE_CHANNELS), ("owner", OWNER_CHANNELS)):
        folded = [record.envelope for record in seen.merged if record.channel in channels]
        gaps = [(one.index, other.index) for one, other in pairwise(folded) if other.index != one.index + 1]
        if folded and folded[0].index != 1:
            gaps.insert(0, (0, folded[0].index))
        if gaps:
            yield f"the {name}'s indexes have gaps: {gaps[:5]}"
        ids = {envelope.id for envelope in folded}
        void = _void_from(seen) if name == "owner" else {}
        for record in seen.records:
            envelope = record.envelope
            known = envelope.id in ids or envelope.index > void.get(envelope.epoch, envelope.index)
            if record.channel in channels and not known:
                yield f"record {record.seq} ({envelope.type}, index {envelope.index}) is stored and not folded"


def _void_from(seen: Observed) -> dict[int, int]:
    """Return, for each epoch that a takeover has ended, the last index of it that counts."""
    last: dict[int, int] = {}
    epochs = [record.seq for record in seen.records if record.channel == "own"]
    for record in seen.records:
        if isinstance(record.body, ev.OwnerChanged):
            for epoch in epochs:
                if epoch < record.body.epoch:
                    last[epoch] = min(last.get(epoch, record.body.last_owner_index), record.body.last_owner_index)
    return last


def every_frame_is_stored(seen: Observed) -> Iterator[str]:
    """What the worker sent is in the log, in order; on a socket that was lost, up to a moment before."""
    for frame in seen.missing:
        if not seen.may_be_lost(frame):
            yield f"the frame {frame.event} of {frame.t_s:.3f} s is not in the log"


# ------------------------------------------------------------------------------------------------------------ repeated


def every_phrase_is_said_once(seen: Observed) -> Iterator[str]:
    """Phrases are unique as the agent makes them."""
    for text, count in Counter(str(frame.raw["text"]) for frame in seen.sent("agent.say")).items():
        if count > 1:
            yield f"{text[:60]!r} was said {count} times"


def every_word_is_spoken_once(seen: Observed) -> Iterator[str]:
    """So are the words of answers."""
    again = [word for word, count in Counter(seen.words).items() if count > 1]
    if again and not seen.allow.again:
        yield f"{len(again)} words were spoken twice, the first {again[0]}"


def what_cannot_be_taken_back_is_done_once(seen: Observed) -> Iterator[str]:
    """No transfer, end, dispatch, merge or participant comes twice."""
    verbs = [json.dumps(frame.raw, sort_keys=True) for frame in seen.frames if frame.event in IRREVERSIBLE]
    for verb, count in Counter(verbs).items():
        if count > 1:
            yield f"{verb} came {count} times"


# --------------------------------------------------------------------------------------------------------------- wrong


def the_worker_has_no_complaint(seen: Observed) -> Iterator[str]:
    """No frame broke the protocol: one `agent.text.end` for each reply at most, above all."""
    yield from seen.call.violations


def every_reply_is_ended_once(seen: Observed) -> Iterator[str]:
    """The worker's gate is open at the end, and the log has one end of each reply."""
    ended = Counter(
        (record.body.turn, record.body.part)
        for record in seen.of(ev.ReplySpoken)
        if isinstance(record.body, ev.ReplySpoken) and record.body.ended
    )
    for key, count in ended.items():
        if count > 1:
            yield f"the reply {key} was ended {count} times"
    unheard = sum(frame.event == "user.text" for frame in seen.missing)
    if seen.call.ends_owed > unheard and not seen.allow.unstored:
        yield f"{seen.call.ends_owed} ends are owed, with {unheard} questions lost"
    ends = len(seen.sent("agent.text.end"))
    if not seen.drops and not seen.allow.unfinished and ends != len(ended):
        yield f"the worker got {ends} ends, the log tells of {len(ended)}"


def answers_come_in_order(seen: Observed) -> Iterator[str]:
    """The words of answers come in the order of the questions."""
    if seen.allow.again:
        return
    for one, other in pairwise(seen.words):
        if one >= other:
            yield f"{other} came after {one}"
            return


def every_question_has_its_answer(seen: Observed) -> Iterator[str]:
    """Each text in the log has one completed turn, in order; each whole answer is whole."""
    texts = [record.body for record in seen.merged if isinstance(record.body, ev.UserText) and record.body.is_final]
    turns = [record.body.turn_id for record in seen.merged if isinstance(record.body, ev.TurnCompleted)]
    if turns != list(range(1, len(texts) + 1)) and not seen.allow.unfinished:
        yield f"{len(texts)} questions in the log, and completed turns {_runs(turns)}"
    if seen.allow.cut or seen.allow.drops:
        return
    lengths = {turn.question.text: turn.length for turn in seen.caller.turns}
    for text in texts:
        asked = question(text.text)
        if asked is not None and not text.withheld:
            spoken = [word.word for word in seen.words if word.turn == asked.turn]
            whole = list(range(1, lengths.get(text.text, 0) + 1))
            if (spoken[-len(whole) :] if seen.allow.again else spoken) != whole:
                yield f"the answer to {text.text!r} is {_runs(spoken)}"


def every_order_is_carried_out(seen: Observed) -> Iterator[str]:
    """What a question's hook has to say is said, with the state that the questions before it have made."""
    if seen.drops or seen.allow.unstored or seen.caller.poisonous:
        return
    said = {str(frame.raw["text"]) for frame in seen.sent("agent.say")}
    asked = [question(record.body.text) for record in seen.of(ev.UserText) if isinstance(record.body, ev.UserText)]
    for number, wanted in enumerate((one for one in asked if one is not None), 1):
        phrases = {
            "say": f"noted {wanted.name}",
            "count": f"counted {wanted.name} {number}",
            "twice": f"second half {wanted.name}",
        }
        for order, phrase in phrases.items():
            if order in wanted.orders and phrase not in said:
                yield f"{phrase!r} was not said"


def the_fold_is_what_was_heard(seen: Observed) -> Iterator[str]:
    """The text of each completed turn is what the worker got of it."""
    if seen.drops or seen.allow.again:
        return
    for record in seen.of(ev.TurnCompleted):
        turn = record.body
        assert isinstance(turn, ev.TurnCompleted)
        asked = question(turn.user_text or "")
        if asked is None or turn.interrupted or turn.withheld:
            continue
        logged = [word.word for word in words_in(turn.agent_text or "")]
        heard = [word.word for word in seen.words if word.turn == asked.turn]
        if seen.allow.unstored:
            logged = logged[
                : len(heard)
            ]  # the call was ended in mid-reply: what else the adapter had to say is there, too
        if logged != heard:
            yield f"turn {turn.turn_id}: the log has the words {_runs(logged)}, the worker got {_runs(heard)}"


def the_call_is_over(seen: Observed) -> Iterator[str]:
    """Both sides know that it is, and why."""
    if seen.call.outcome is None:
        yield "it is not over"
    ends = [record.body.reason for record in seen.merged if isinstance(record.body, ev.CallEnded)]
    if len(ends) != 1 or ends[0] not in seen.allow.reasons:
        yield f"the log tells of the ends {ends}"
    if seen.caller.orphaned or seen.allow.unfinished:
        return
    for kind in (ev.CallCompleted, ev.SessionFinished):
        count = len(seen.of(kind))
        if count != 1:
            yield f"{count} records of {kind.__name__}"


def there_is_one_owner_and_one_line(seen: Observed) -> Iterator[str]:
    """At any position of the log, what is written is written by who was placed last."""
    placed = {"own": 0, "line": 0}
    for record in sorted(seen.records, key=lambda record: record.seq):
        if record.channel in placed:
            placed[record.channel] = record.seq
            continue
        role = "line" if record.channel in BRIDGE_CHANNELS else "own" if record.channel in OWNER_CHANNELS else ""
        if role and record.envelope.epoch != placed[role]:
            yield (
                f"record {record.seq} ({record.envelope.type}) has epoch {record.envelope.epoch} "
                f"where {role} is {placed[role]}"
            )


def nothing_is_passed_over(seen: Observed) -> Iterator[str]:
    """Only an input that takes processes down is passed over, and such a caller is marked."""
    poisoned = len(seen.of(ev.HookPoisoned))
    if poisoned != int(seen.caller.poisonous):
        yield f"{poisoned} inputs were passed over"


def nothing_diverged(seen: Observed) -> Iterator[str]:
    """The same code on the same log does the same."""
    for record in seen.of(ev.Diverged):
        if not seen.allow.diverged:
            yield f"diverged: {record.body}"


def nothing_forged_counts(seen: Observed) -> Iterator[str]:
    """What was written by somebody else is in the stream, and not in the fold."""
    for record in seen.merged:
        if record.envelope.source == "forged":
            yield f"the forged record {record.seq} (epoch {record.envelope.epoch}) is in the fold"


def commands_are_answered(seen: Observed) -> Iterator[str]:
    """The log has a receipt of each command but the ends of replies.

    Where the log was away until the call was ended, what its owner had buffered is stored after that, and has none.
    """
    if seen.allow.unfinished:
        return
    ends = [record.seq for record in seen.of(ev.CallEnded)] if seen.allow.unstored else []
    answered = {record.body.command for record in seen.merged if isinstance(record.body, ev.CommandAcknowledged)}
    for record in seen.merged:
        if record.channel != "cmd" or isinstance(record.body, cmd.EndReply) or record.envelope.id in answered:
            continue
        if not ends or record.seq < min(ends):
            yield f"the command {record.envelope.type} (index {record.envelope.index}) has no receipt"


def _runs(numbers: Sequence[int]) -> str:
    """Return numbers as `1-4, 6`."""
    parts: list[str] = []
    begin = previous = None
    for number in (*numbers, None):
        if begin is None:
            begin = number
        elif previous is not None and (number is None or number != previous + 1):
            parts.append(str(begin) if begin == previous else f"{begin}-{previous}")
            begin = number
        previous = number
    return ", ".join(parts) or "none"


Check = Callable[[Observed], Iterator[str]]
LOST: tuple[Check, ...] = (every_record_counts, every_frame_is_stored)
REPEATED: tuple[Check, ...] = (
    every_phrase_is_said_once,
    every_word_is_spoken_once,
    what_cannot_be_taken_back_is_done_once,
)
WRONG: tuple[Check, ...] = (
    the_worker_has_no_complaint,
    every_reply_is_ended_once,
    answers_come_in_order,
    every_question_has_its_answer,
    every_order_is_carried_out,
    the_fold_is_what_was_heard,
    the_call_is_over,
    there_is_one_owner_and_one_line,
    nothing_is_passed_over,
    nothing_diverged,
    nothing_forged_counts,
    commands_are_answered,
)
