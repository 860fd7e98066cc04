"""Whom to connect as; no server needed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from unpod.errors import ConfigurationError
from unpod.jetstream import Credentials, NatsOptions, load_context, parse_urls
from unpod.jetstream.connection.credentials import take_secrets, without_secrets

if TYPE_CHECKING:
    from pathlib import Path


def test_lists_of_servers() -> None:
    assert parse_urls("nats://a:1, tls://b:2,c") == ("nats://a:1", "tls://b:2", "nats://c")


@pytest.mark.parametrize("text", ["", " , ", "http://a", "ws://a", "nats://", "nats://a:x", "nats://u:s3cret@a:99999"])
def test_lists_that_cannot_be(text: str) -> None:
    with pytest.raises(ConfigurationError, match="UNPOD_NATS_URL") as caught:
        parse_urls(text)
    assert "s3cret" not in str(caught.value)


def test_urls_are_shown_without_secrets() -> None:
    assert without_secrets("nats://u:p@ss@host:1") == "nats://host:1"
    assert without_secrets("nats://token@host") == "nats://host"
    assert without_secrets("host:1") == "nats://host:1"


def test_a_context_of_the_nats_cli(tmp_path: Path) -> None:
    folder = tmp_path / ".config" / "nats" / "context"
    folder.mkdir(parents=True)
    described = {
        "description": "x",
        "url": "nats://one:4222,nats://two:4222",
        "user": "me",
        "password": "s3cret",
        "creds": "~/me.creds",
        "ca": "/etc/ca.pem",
        "inbox_prefix": "_INBOX_me",
    }
    (folder / "prod.json").write_text(json.dumps(described))
    context = load_context("prod", {"HOME": str(tmp_path)})
    assert context.urls == ("nats://one:4222", "nats://two:4222")
    assert context.inbox_prefix == "_INBOX_me"
    assert context.credentials == Credentials(
        creds_file=f"{tmp_path}/me.creds", user="me", password="s3cret", ca_file="/etc/ca.pem"
    )
    assert "s3cret" not in repr(context)
    by_path = load_context(str(folder / "prod.json"), {})
    assert by_path.urls == context.urls
    elsewhere = load_context("prod", {"XDG_CONFIG_HOME": str(tmp_path / ".config")})
    assert elsewhere.urls == context.urls


def test_a_token_in_a_context(tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text(json.dumps({"url": "nats://one", "token": "t0ken"}))
    assert load_context(str(file), {}).credentials.token == "t0ken"
    file.write_text(json.dumps({"url": "nats://one", "user": "t0ken"}))
    assert load_context(str(file), {}).credentials.token == "t0ken"


@pytest.mark.parametrize("content", ["", "[]", '{"url": 5}', "{", '{"url": "' + "\udc80" + '"}', "[" * 100_000])
def test_a_context_that_cannot_be_read(tmp_path: Path, content: str) -> None:
    file = tmp_path / "c.json"
    file.write_text(content, errors="surrogateescape")
    with pytest.raises(ConfigurationError, match="NATS_CONTEXT"):
        load_context(str(file), {})
    with pytest.raises(ConfigurationError, match="NATS_CONTEXT"):
        load_context("missing", {"HOME": str(tmp_path)})


def test_files_that_are_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="NATS_CREDS"):
        Credentials(creds_file=str(tmp_path / "no.creds")).check()
    with pytest.raises(ConfigurationError, match="TLS files"):
        Credentials(ca_file=str(tmp_path / "no.pem")).tls()
    assert Credentials().tls() is None


def test_what_a_url_says_counts_for_all_servers() -> None:
    urls, found = take_secrets(("nats://u:p%40ss@one:1", "tls://two:2"))
    assert (urls, found) == (("nats://one:1", "tls://two:2"), Credentials(user="u", password="p@ss"))
    assert take_secrets(("nats://t0ken@one:1",))[1].token == "t0ken"
    assert "p%40ss" not in repr(NatsOptions(("nats://u:p%40ss@one:1",)))
