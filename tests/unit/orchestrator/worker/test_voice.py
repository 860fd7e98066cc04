"""Speech takes the time that its characters take, and what was heard is exactly what the clock says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unpod_orchestrator.worker.voice import Happened, Reached, Utterance, Voice, VoiceEvent

TEXT = "one two three four"


def voice_saying(text: str, *, closed: bool = True) -> tuple[Voice, Utterance]:
    voice = Voice(chars_per_s=10, first_audio_s=0.5)
    utterance = voice.begin("reply", 1)
    voice.extend(utterance, text, now=100.0)
    if closed:
        voice.close(utterance, now=100.0)
    return voice, utterance


def test_audio_starts_after_a_moment_and_ends_with_the_last_character() -> None:
    voice, utterance = voice_saying("0123456789")
    assert voice.next_event() == 100.5
    assert voice.advance(100.4) == []
    speaking = [voice.speaking]
    assert voice.advance(100.5) == [VoiceEvent(Happened.STARTED, utterance)]
    speaking.append(voice.speaking)
    assert speaking == [False, True]
    assert voice.next_event() == 101.5
    assert voice.advance(101.5) == [VoiceEvent(Happened.FINISHED, utterance)]
    assert voice.silent
    assert utterance.heard_text == "0123456789"
    assert voice.next_event() is None


def test_a_reply_that_waits_for_its_next_delta_keeps_the_floor() -> None:
    voice, utterance = voice_saying("first ", closed=False)
    voice.advance(110.0)
    assert voice.speaking
    assert voice.current is utterance
    voice.extend(utterance, "second", now=110.0)
    assert voice.next_event() == pytest.approx(110.6)  # no second pause before the audio
    voice.close(utterance, now=110.0)
    assert voice.advance(110.6)[-1] == VoiceEvent(Happened.FINISHED, utterance)
    assert utterance.heard_text == "first second"


def test_deltas_and_says_are_spoken_in_order() -> None:
    voice, reply = voice_saying("aaaaa ", closed=False)
    say = voice.begin("say", 1)
    voice.extend(say, "bbbbb", now=100.0)
    voice.close(say, now=100.0)
    voice.extend(reply, "ccccc", now=100.0)
    voice.close(reply, now=100.0)
    events = [(event.what, event.utterance) for event in voice.advance(200.0) if isinstance(event, VoiceEvent)]
    assert events == [
        (Happened.STARTED, reply),
        (Happened.STARTED, say),
        (Happened.FINISHED, say),
        (Happened.FINISHED, reply),
    ]
    assert reply.heard_text == "aaaaa ccccc"


def test_a_marker_is_reached_when_what_stands_before_it_is_said() -> None:
    voice, _ = voice_saying("0123456789")
    voice.mark("end")
    assert Reached("end") not in voice.advance(101.4)
    assert Reached("end") in voice.advance(101.5)


def test_a_marker_with_nothing_before_it_is_reached_at_once() -> None:
    voice = Voice(10, 0.5)
    voice.mark("end")
    assert voice.next_event() is not None
    assert voice.advance(1.0) == [Reached("end")]


def test_a_cut_keeps_markers_and_forgets_words() -> None:
    voice, utterance = voice_saying(TEXT)
    voice.mark("end")
    voice.advance(101.0)
    assert voice.cut(101.0) == [utterance]
    assert voice.advance(101.0) == [Reached("end")]
    assert voice.silent


@pytest.mark.parametrize(
    ("seconds", "heard"),
    [(0.3, ""), (0.5, ""), (0.7, ""), (0.8, "one"), (0.9, "one"), (1.1, "one"), (1.2, "one two"), (9.0, TEXT)],
)
def test_what_was_heard_ends_with_a_whole_word(seconds: float, heard: str) -> None:
    voice, utterance = voice_saying(TEXT, closed=False)
    voice.cut(100 + seconds)
    assert utterance.heard_text == heard


def test_a_script_without_spaces_is_cut_at_a_character() -> None:
    voice, utterance = voice_saying("今日はいい天気ですね")
    voice.cut(100.9)
    assert utterance.heard_text == "今日はい"


def test_deltas_after_a_cut_are_not_spoken() -> None:
    voice, utterance = voice_saying(TEXT, closed=False)
    voice.cut(101.0)
    voice.extend(utterance, " five", now=101.0)
    voice.advance(101.0)
    assert voice.silent
    assert voice.next_event() is None


def test_after_a_cut_the_next_words_take_their_moment_again() -> None:
    voice, _ = voice_saying(TEXT)
    voice.cut(100.1)
    voice.advance(100.1)
    say = voice.begin("say", 2)
    voice.extend(say, "x", now=100.2)
    assert voice.next_event() == pytest.approx(100.7)


def test_too_much_text_is_not_queued() -> None:
    voice = Voice(chars_per_s=10, first_audio_s=0.5, most_chars=100)
    utterance = voice.begin("reply", 1)
    voice.extend(utterance, "x" * 90, now=100.0)
    voice.extend(utterance, "y" * 20, now=100.0)
    voice.close(utterance, now=100.0)
    voice.advance(1000.0)
    assert utterance.heard_text == "x" * 90


def test_it_tells_when_so_many_characters_will_have_been_spoken() -> None:
    voice, _ = voice_saying("0123456789")
    assert voice.when_spoken(5) == pytest.approx(101.0)
    assert voice.when_spoken(11) is None
    voice.advance(100.75)
    assert voice.spoken_chars == 2
    assert voice.when_spoken(5) == pytest.approx(101.0)


@given(
    deltas=st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=10),
    gaps=st.lists(st.floats(0, 3), min_size=10, max_size=10),
    cut_after=st.floats(0, 20),
)
def test_whatever_the_moment_of_the_cut_a_prefix_was_heard(
    deltas: list[str], gaps: list[float], cut_after: float
) -> None:
    voice = Voice(chars_per_s=10, first_audio_s=0.2)
    utterance = voice.begin("reply", 1)
    now, written = 0.0, ""
    for delta, gap in zip(deltas, gaps, strict=False):
        voice.extend(utterance, delta, now)
        written += delta
        now += gap
        if now > cut_after:
            break
    before = voice.spoken_chars
    assert voice.heard_so_far(utterance) == written[: len(voice.heard_so_far(utterance))]
    voice.cut(max(now, cut_after))
    assert written.startswith(utterance.heard_text)
    assert voice.spoken_chars >= before
    assert len(utterance.heard_text) <= voice.spoken_chars <= len(written)


@given(st.lists(st.floats(0, 1), max_size=20))
def test_how_often_one_asks_changes_nothing(pauses: list[float]) -> None:
    often, once = voice_saying(TEXT * 3)[0], voice_saying(TEXT * 3)[0]
    now = 100.0
    for pause in pauses:
        now += pause
        often.advance(now)
    once.advance(now)
    assert often.spoken_chars == pytest.approx(once.spoken_chars, abs=1)
    assert often.when_spoken(54) == pytest.approx(once.when_spoken(54))
