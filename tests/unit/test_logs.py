"""Cases 22 and 23: nothing secret in a log, and no handler that nobody asked for."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from unpod.errors import ConfigurationError
from unpod.logs import enable_logging, redact, redact_url


@pytest.fixture(autouse=True)
def logger() -> Iterator[logging.Logger]:
    found = logging.getLogger("unpod")
    handlers, level = list(found.handlers), found.level
    yield found
    found.handlers[:] = handlers
    found.setLevel(level)


def test_the_library_adds_no_handler_by_itself(logger: logging.Logger) -> None:
    import unpod.adapters  # noqa: PLC0415 - importing is what is tested
    import unpod.management  # noqa: F401, PLC0415

    assert [type(handler) for handler in logger.handlers] == [logging.NullHandler]


def test_an_unconfigured_library_prints_nothing() -> None:
    code = "import logging, unpod; logging.getLogger('unpod.area').error('a line')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_a_stream_of_the_users_own() -> None:
    first, second = io.StringIO(), io.StringIO()
    for stream in (first, second):
        enable_logging("INFO", stream)
        logging.getLogger("unpod.area").info("token=secret")
    assert first.getvalue().count("***") == second.getvalue().count("***") == 1


def test_twice_logs_once(logger: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    enable_logging()
    enable_logging()
    logging.getLogger("unpod.area").info("a line")
    assert capsys.readouterr().err.count("a line") == 1
    assert [type(handler) for handler in logger.handlers] == [logging.NullHandler, logging.StreamHandler]


def test_a_handler_of_the_users_own_is_left_alone(logger: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    own = logging.StreamHandler()
    own.setFormatter(logging.Formatter("own: %(message)s"))
    logger.addHandler(own)
    enable_logging()
    logging.getLogger("unpod.area").info("a line")
    assert own in logger.handlers
    assert capsys.readouterr().err.count("a line") == 2


@pytest.mark.parametrize(
    ("level", "shown"), [("DEBUG", True), ("debug", True), (logging.DEBUG, True), ("WARNING", False)]
)
def test_the_level(level: str | int, shown: bool, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: FBT001 - a table
    enable_logging("ERROR")
    enable_logging(level)
    logging.getLogger("unpod.area").debug("a line")
    assert ("a line" in capsys.readouterr().err) is shown


def test_a_level_that_does_not_exist_is_named() -> None:
    with pytest.raises(ConfigurationError, match="'LOUD' is no log level; it is one of DEBUG, INFO"):
        enable_logging("LOUD")


def test_a_line_says_when_how_bad_where_and_what(capsys: pytest.CaptureFixture[str]) -> None:
    enable_logging()
    logging.getLogger("unpod.bridge").warning("call %s lost", "s-1")
    line = capsys.readouterr().err
    assert line.endswith(" WARNING unpod.bridge: call s-1 lost\n")


def test_what_is_written_is_redacted_tracebacks_too(capsys: pytest.CaptureFixture[str]) -> None:
    enable_logging()
    log = logging.getLogger("unpod.area")
    try:
        raise ConnectionError("cannot dial wss://h/call?token=inTrace&x=1")
    except ConnectionError:
        log.exception("dialling %s with %s", "wss://h/call?call_token=inLine", {"api_key": "inDict"})
    written = capsys.readouterr().err
    assert "Traceback" in written
    for secret in ("inTrace", "inLine", "inDict"):
        assert secret not in written
    assert "wss://h/call?token=***&x=1" in written


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("wss://w.example/call/s-1?token=abc&x=1", "wss://w.example/call/s-1?token=***&x=1"),
        ("wss://w.example:9/c?x=1&call_token=a%2Fb", "wss://w.example:9/c?x=1&call_token=***"),
        ("wss://w/c?TOKEN=abc", "wss://w/c?TOKEN=***"),
        ("wss://w/c?%74oken=abc", "wss://w/c?%74oken=***"),
        (
            "ws://r/x?session_id=s&job_id=j&nonce=n1&ts=12&signature=a/b+c==",
            "ws://r/x?session_id=s&job_id=j&nonce=***&ts=12&signature=***",
        ),
        (
            "https://h/?api_key=1&apikey=2&key=3&access-key=4&q=5",
            "https://h/?api_key=***&apikey=***&key=***&access-key=***&q=5",
        ),
        (
            "https://h/?client_secret=1&password=2&jwt=3&sig=4&auth=5",
            "https://h/?client_secret=***&password=***&jwt=***&sig=***&auth=***",
        ),
        ("https://h/#access_token=abc&state=1", "https://h/#access_token=***&state=1"),
        ("https://h/?a=1;token=x;b=2", "https://h/?a=1;token=***;b=2"),
        ("https://h/?token=ab;cd?ef&x=1", "https://h/?token=***&x=1"),
        ("https://h/?token=with space&x=1", "https://h/?token=***&x=1"),
        ("https://h/?token=", "https://h/?token=***"),
        ("https://h/?token", "https://h/?token"),
        ("nats://user:pass@one:4222,nats://only@two:4222", "nats://***@one:4222,nats://***@two:4222"),
        ("nats://user:p@ss@host:4222", "nats://***@host:4222"),
        ("https://h/a?mail=a@b.c", "https://h/a?mail=a@b.c"),
        ("https://[::1]:80/?x=1", "https://[::1]:80/?x=1"),
        ("wss://w.example/call/s-1", "wss://w.example/call/s-1"),
        ("", ""),
    ],
)
def test_a_url_keeps_its_host_and_other_parameters(url: str, shown: str) -> None:
    assert redact_url(url) == shown


class Unprintable:
    def __str__(self) -> str:
        raise ValueError("no text of mine")


@pytest.mark.parametrize(
    "anything",
    [
        None,
        7,
        b"wss://h/?token=abc",
        b"\xff\xfe",
        "http://[bad?token=abc",
        "::::not a url::::",
        Unprintable(),
        "?" * 999,
    ],
)
def test_redacting_a_url_never_raises(anything: object) -> None:
    assert "abc" not in redact_url(anything)


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("Authorization: Bearer abc.def-1", "abc.def-1"),
        ("{'Authorization': 'Token abcdef'}", "abcdef"),
        ("authorization: basic dXNlcjpwdw==", "dXNlcjpwdw=="),
        ('{"call_token": "abcdef", "x": 1}', "abcdef"),
        ("call_token='abcdef'", "abcdef"),
        ("signature=abcdef, ts=1", "abcdef"),
        ("Incorrect API key provided: sk-proj-abcdef", "abcdef"),
        ("got wss://h/c?x=1&token=abcdef.", "abcdef"),
        ("authorization=abcdef", "abcdef"),
        ("'UNPOD_API_KEY': 'abcdef'", "abcdef"),
        ("path /c?token=abcdef HTTP/1.1", "abcdef"),
    ],
)
def test_secrets_in_a_text_are_hidden(text: str, secret: str) -> None:
    assert secret not in redact(text)
    assert "***" in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "the token has expired; a bad signature: refused",
        "tokens_in=12 tokens_out=3",
        "registered my-agent#1f2e3d4c at wss://api.unpod.ai/v1/internal/workers",
        "session s-1 owner epoch=12 key ok",
        "basic settings of the bearer",
        "risk-based routing to sk of 12",
    ],
)
def test_what_is_no_secret_stays_readable(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize("unit", ["a-", "a.", "token", "x://", "?a=", "authorization ", "'"])
def test_a_long_line_does_not_take_long(unit: str) -> None:
    started = time.process_time()
    redact(unit * (200_000 // len(unit)))
    assert time.process_time() - started < 2
