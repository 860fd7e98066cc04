from __future__ import annotations

import pytest

from unpod_bridge.wire.urls import is_local, redact_url, with_token


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("wss://h/c", "wss://h/c?token=a%26b%20c%2F"),
        ("wss://h/c?x=1&y=%20", "wss://h/c?x=1&y=%20&token=a%26b%20c%2F"),
        ("ws://h:8080", "ws://h:8080?token=a%26b%20c%2F"),
        ("wss://h/c?x=1#part", "wss://h/c?x=1&token=a%26b%20c%2F"),
    ],
)
def test_the_token_is_added_to_whatever_query_there_is(url: str, expected: str) -> None:
    assert with_token(url, "a&b c/") == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("wss://h.example:1/c?call=5&token=SECRET&x=", "wss://h.example:1/c?call=5&token=***&x="),
        ("wss://h/c?api_key=SECRET&signature=SECRET&call_token=SECRET", "wss://h/c?api_key=***&signature=***&call_token=***"),
        ("wss://user:SECRET@h/c?a=1", "wss://***@h/c?a=1"),
        ("wss://h/c?token=SECRET#token=SECRET", "wss://h/c?token=***"),
        ("wss://h/c?TOKEN=SECRET", "wss://h/c?TOKEN=***"),
        ("wss://h/c", "wss://h/c"),
        ("", ""),
    ],
)  # fmt: skip
def test_redaction_keeps_host_and_other_parameters(url: str, expected: str) -> None:
    assert redact_url(url) == expected


@pytest.mark.parametrize(
    "url", ["ws://[", "ws://h:port/?token=SECRET", "\x00", "token=SECRET", "ws://h/?" + "a=1&" * 5_000]
)
def test_redaction_never_raises(url: str) -> None:
    assert "SECRET" not in redact_url(url)
    assert len(redact_url(url)) <= 500


def test_what_is_local() -> None:
    assert all(map(is_local, ("ws://localhost:1/", "ws://127.0.0.1/", "ws://[::1]:5/", "ws://127.1.2.3")))
    assert not any(map(is_local, ("wss://h/", "ws://128.0.0.1/", "ws://[", "")))
