from __future__ import annotations

import logging
import os
import threading

import pytest

from unpod.runner.children import LogForwarder


def handed_on(text: str, *, held_back: int = logging.CRITICAL + 1) -> LogForwarder:
    reading, writing = os.pipe()
    relay = LogForwarder(reading, lambda level: level >= held_back)
    relay.start()
    os.write(writing, text.encode("utf-8", "surrogateescape"))
    os.close(writing)
    relay.join(5)
    assert not relay.is_alive()
    return relay


@pytest.mark.parametrize("level", ["WARNING", "WARNING "])
def test_a_line_of_the_bridge_becomes_a_record_of_this_process(level: str, caplog: pytest.LogCaptureFixture) -> None:
    handed_on(f"2026-01-01 10:00:00,123 {level} unpod.bridge.line: 100 % of it\n")
    assert caplog.record_tuples == [("unpod.bridge.line", logging.WARNING, "100 % of it")]


def test_what_is_no_record_is_kept_as_its_last_words(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="unpod")
    relay = handed_on("Traceback\n\nunpod bridge: UNPOD_API_KEY is not set\n\n")
    assert relay.last == "unpod bridge: UNPOD_API_KEY is not set"
    assert {name for name, _, _ in caplog.record_tuples} == {"unpod.bridge"}


def test_what_is_held_back_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    text = "2026-01-01 10:00:00,123 ERROR unpod.bridge: refused\n2026-01-01 10:00:00,124 WARNING unpod.bridge: told\n"
    handed_on(text, held_back=logging.ERROR)
    assert [message for _, _, message in caplog.record_tuples] == ["told"]


def test_a_line_that_is_held_back_does_not_keep_the_child_from_writing(caplog: pytest.LogCaptureFixture) -> None:
    going_on = threading.Event()
    reading, writing = os.pipe()
    relay = LogForwarder(reading, lambda level: level >= logging.ERROR and not going_on.wait(30))
    relay.start()
    line = b"2026-01-01 10:00:00,123 WARNING unpod.bridge: " + b"x" * 80 + b"\n"
    os.write(writing, line.replace(b"WARNING", b"ERROR"))
    for _ in range(2_000):  # four times what a pipe holds
        os.write(writing, line)
    os.close(writing)
    assert not caplog.records
    going_on.set()
    relay.join(5)
    assert caplog.records[0].levelno == logging.ERROR
    assert len(caplog.records) == 2_001


def test_a_last_line_that_is_cut_and_bytes_that_are_no_text_do_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    relay = handed_on("2026-01-01 10:00:00,123 WARNING unpod.bridge: a\udcff\nhalf")
    assert len(caplog.records) == 1
    assert relay.last == "half"
