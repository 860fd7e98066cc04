"""Who may dial in: signatures, times, nonces."""

from __future__ import annotations

import base64
import hashlib
import hmac
from urllib.parse import urlencode

import pytest

from unpod_bridge.wire.signed_urls import WINDOW_MS, DialInCaller, Refusal, SignedUrls, key_of

SECRET = b"the agent's secret"
NOW_MS = 1_700_000_000_000


def target(secret: bytes = SECRET, **changes: str) -> str:
    fields = {"session_id": "s 1", "job_id": "j+1", "nonce": "n1", "ts": str(NOW_MS)} | changes
    signed = "|".join(fields[name] for name in ("session_id", "job_id", "nonce", "ts"))
    digest = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
    fields.setdefault("signature", base64.b64encode(digest).decode())
    return f"/calls?{urlencode(fields)}"


def test_a_signed_url_is_let_in_once() -> None:
    door = SignedUrls(SECRET)
    assert door.admit(target(), NOW_MS) == DialInCaller("s 1", "j+1")
    again = door.admit(target(), NOW_MS + 1)
    assert isinstance(again, Refusal)
    assert "nonce" in again.reason


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("/calls", "not signed"),
        ("/calls?session_id=s&job_id=j&nonce=n&ts=1", "not signed"),
        (target(secret=b"another"), "signature is wrong"),
        (target(signature=""), "signature is wrong"),
        (target(signature="é" * 44), "signature is wrong"),
        (target(nonce=""), "not signed"),
        (target() + "&nonce=another", "not signed"),
        (target(ts=str(NOW_MS - WINDOW_MS - 1)), "check both clocks"),
        (target(ts=str(NOW_MS + WINDOW_MS + 1)), "check both clocks"),
        (target(ts="soon"), "check both clocks"),
        (target(ts="9" * 5000), "check both clocks"),
        (target(ts="١٢٣"), "check both clocks"),
        (target(session_id="s" * 600), "too long"),
        ("/calls?" + "&".join(f"a{n}=1" for n in range(60)), "cannot be read"),
    ],
)
def test_others_are_not(url: str, why: str) -> None:
    door = SignedUrls(SECRET)
    refusal = door.admit(url, NOW_MS)
    assert isinstance(refusal, Refusal)
    assert why in refusal.reason
    assert "s 1" not in refusal.reason
    assert isinstance(door.admit(target(), NOW_MS), DialInCaller)  # a refused nonce is not used up


@pytest.mark.parametrize("off_ms", [-WINDOW_MS, 0, WINDOW_MS])
def test_clocks_may_be_off_a_little(off_ms: int) -> None:
    assert isinstance(SignedUrls(SECRET).admit(target(ts=str(NOW_MS + off_ms)), NOW_MS), DialInCaller)


def test_a_nonce_is_remembered_while_its_time_is_good_and_no_longer() -> None:
    door = SignedUrls(SECRET)
    ahead = str(NOW_MS + WINDOW_MS)
    assert isinstance(door.admit(target(ts=ahead), NOW_MS), DialInCaller)
    assert isinstance(door.admit(target(ts=ahead), NOW_MS + 2 * WINDOW_MS), Refusal)
    assert isinstance(door.admit(target(ts=str(NOW_MS + 3 * WINDOW_MS)), NOW_MS + 3 * WINDOW_MS), DialInCaller)


def test_a_plus_that_was_not_escaped_is_one() -> None:
    for number in range(200):
        url = target(nonce=f"n{number}")
        if "%2B" in url:
            assert isinstance(SignedUrls(SECRET).admit(url.replace("%2B", "+"), NOW_MS), DialInCaller | Refusal)
            signature = url.rpartition("signature=")[2].replace("%2B", "+")
            assert isinstance(
                SignedUrls(SECRET).admit(url.rpartition("signature=")[0] + "signature=" + signature, NOW_MS),
                DialInCaller,
            )
            return
    raise AssertionError("no signature with a plus")


def test_without_a_secret_anybody_is_let_in() -> None:
    door = SignedUrls(b"")
    assert door.admit("/", NOW_MS) == DialInCaller("", "")
    assert door.admit("/?session_id=s&job_id=j", NOW_MS) == DialInCaller("s", "j")


def test_keys_tell_calls_apart() -> None:
    assert key_of("/") == ""
    assert key_of("/?" + "&".join(f"a{n}=1" for n in range(60))) == ""
    keys = [key_of(f"/?session_id={session}&job_id={job}") for session, job in (("a.b", "c"), ("a", "b.c"), ("", "a"))]
    assert len(set(keys)) == 3
    assert key_of(target()) == key_of(target(nonce="another"))
    assert "secret" not in repr(SignedUrls(SECRET))
