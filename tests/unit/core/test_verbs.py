"""Which verbs a call has."""

from __future__ import annotations

from unpod.core.verbs import OWN_VERBS, SPEECH_VERBS, VERBS, negotiated


def test_a_worker_that_names_none_has_those_of_the_protocol() -> None:
    assert negotiated(()) == frozenset(VERBS)


def test_a_worker_has_what_it_names_and_can_speak_in_any_case() -> None:
    assert negotiated(["agent.transfer", "recording.pause"]) == {*SPEECH_VERBS, "agent.transfer", "recording.pause"}
    assert negotiated(VERBS + OWN_VERBS) == {*VERBS, *OWN_VERBS}


def test_what_nobody_knows_is_not_sent() -> None:
    assert negotiated(["agent.fly"]) == frozenset(SPEECH_VERBS)
