"""What stands in an answer: wrapped or not, and why a request failed."""

from __future__ import annotations

import json

import pytest

from unpod.management.models import SessionRecord, TranscriptLine
from unpod.management.rest_answers import Unreadable, payload, read, reason_of


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"session_id": "s"}, {"session_id": "s"}),
        ({"data": {"session_id": "s"}}, {"session_id": "s"}),
        ({"status_code": 200, "message": "ok", "data": {"session_id": "s"}}, {"session_id": "s"}),
        ({"status_code": 200, "message": "ok", "data": [], "count": 0}, []),
        ({"data": [{"session_id": "s"}]}, [{"session_id": "s"}]),
        ({"session_id": "s", "data": {"order": 7}}, {"session_id": "s", "data": {"order": 7}}),
        ({"message": "hi", "session_id": "s", "data": {}}, {"message": "hi", "session_id": "s", "data": {}}),
        ({"data": {"data": {"x": 1}}}, {"data": {"x": 1}}),
        ({"data": None}, None),
        ([], []),
    ],
)
def test_wrappers(body: object, said: object) -> None:
    assert payload(json.dumps(body).encode()) == said


@pytest.mark.parametrize("body", [b"", b" \r\n"])
def test_an_empty_body_says_nothing(body: bytes) -> None:
    assert payload(body) is None


@pytest.mark.parametrize("body", [b"<html>", b'{"a":', b"\xff\xfe", b'"\xff"', b"[" * 100_000])
def test_what_is_no_json_is_unreadable(body: bytes) -> None:
    with pytest.raises(Unreadable, match="not JSON"):
        payload(body)


def test_a_session_in_full_with_fields_of_a_later_version() -> None:
    body = {
        "session_id": "s",
        "status": "ended",
        "started_at": "2025-01-01T00:00:00Z",
        "ended_at": 1735689600,
        "duration_s": "12.5",
        "end_reason": "completed",
        "transcript": [{"role": "user", "content": "hi", "timestamp": 1.5, "mood": "fine"}],
        "recording_url": "https://h/r",
    }
    assert read(body, SessionRecord) == SessionRecord(
        session_id="s",
        status="ended",
        started_at="2025-01-01T00:00:00Z",
        ended_at=1735689600,
        duration_s=12.5,
        end_reason="completed",
        transcript=(TranscriptLine(role="user", content="hi", timestamp=1.5),),
    )


@pytest.mark.parametrize("body", [None, [], {}, {"session_id": 7, "transcript": "x"}, "text"])
def test_what_does_not_fit_is_unreadable(body: object) -> None:
    with pytest.raises(Unreadable, match="not as expected"):
        read(body, SessionRecord)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"detail":"session not found"}', "session not found"),
        (b'{"message":"no","data":null,"status_code":404}', "no"),
        (b'{"error":{"code":7,"message":"nested"}}', "nested"),
        (b'{"detail":[{"loc":["body","to"],"msg":"field required"},{"msg":"and more"}]}', "field required; and more"),
        (b'{"errors":["a","b"]}', "a; b"),
        (b'"just text"', "just text"),
        (b'{"detail":"a\\n  b"}', "a b"),
        (b"{}", "Not Found"),
        (b"", "Not Found"),
        (b"<html>a page</html>", "Not Found"),
        (b"\xff", "Not Found"),
    ],
)
def test_the_bodys_reason(body: bytes, reason: str) -> None:
    assert reason_of(404, "application/json", body) == reason


def test_a_reason_in_plain_text_is_cut() -> None:
    assert reason_of(500, "text/plain; charset=utf-8", b"out of " + b"order" * 200).startswith("out of order")
    assert len(reason_of(500, "text/plain", b"x" * 1000)) == 300
    assert reason_of(799, "text/html", b"") == "no reason given"
