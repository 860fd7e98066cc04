"""What a bridge reads from its environment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unpod.errors import ConfigurationError
from unpod_bridge.config import DEFAULT_ORCHESTRATOR, BridgeConfig, orchestrator_url, readable

KEY = {"UNPOD_API_KEY": "sk_very_secret", "UNPOD_NATS_URL": "nats://user:hidden@n1:4222"}


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("api.example", "wss://api.example"),
        ("api.example:8443", "wss://api.example:8443"),
        ("localhost:9000", "wss://localhost:9000"),
        ("https://api.example", "wss://api.example"),
        ("wss://api.example", "wss://api.example"),
        ("http://api.example", "ws://api.example"),
        ("ws://127.0.0.1:9000", "ws://127.0.0.1:9000"),
        ("HTTPS://api.example", "wss://api.example"),
        ("https://api.example/", "wss://api.example"),
        ("  https://api.example//  ", "wss://api.example"),
        ("http://[::1]:8080/", "ws://[::1]:8080"),
    ],
)
def test_every_form_of_a_base_url(text: str, url: str) -> None:
    assert orchestrator_url({"UNPOD_BASE_URL": text}) == url
    assert orchestrator_url({"UNPOD_ORCHESTRATOR_URL": text}) == url
    assert orchestrator_url({}, text) == url


def test_only_the_host_of_the_base_url_counts_but_the_whole_orchestrator_url() -> None:
    assert orchestrator_url({"UNPOD_BASE_URL": "https://api.example/platform?x=1"}) == "wss://api.example"
    assert orchestrator_url({"UNPOD_ORCHESTRATOR_URL": "https://api.example/orchestrator/"}) == (
        "wss://api.example/orchestrator"
    )


def test_the_order() -> None:
    environment = {"UNPOD_ORCHESTRATOR_URL": "wss://second", "UNPOD_BASE_URL": "https://third"}
    assert orchestrator_url(environment, "wss://first") == "wss://first"
    assert orchestrator_url(environment) == "wss://second"
    assert orchestrator_url({"UNPOD_BASE_URL": "https://third"}) == "wss://third"
    assert orchestrator_url({}) == DEFAULT_ORCHESTRATOR


@pytest.mark.parametrize("blank", ["", "  ", "\t"])
def test_blank_is_unset(blank: str) -> None:
    environment = {"UNPOD_ORCHESTRATOR_URL": blank, "UNPOD_BASE_URL": blank}
    assert orchestrator_url(environment, blank) == DEFAULT_ORCHESTRATOR


@pytest.mark.parametrize(
    "text", ["ftp://x", "wss://", "://", "wss://x:99999", "a b", "wss://x\ny", "wss://[::1", "/path"]
)
@pytest.mark.parametrize("name", ["UNPOD_ORCHESTRATOR_URL", "UNPOD_BASE_URL"])
def test_what_is_no_url_is_named(name: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        orchestrator_url({name: text})


def test_readable_has_no_secrets() -> None:
    assert readable("wss://me:secret@api.example:1/x?token=abc") == "wss://api.example:1/x"


def test_from_env() -> None:
    config = BridgeConfig.from_env({**KEY, "UNPOD_SUBJECT_PREFIX": "acme.calls", "UNPOD_LOG_LEVEL": "debug"})
    assert config.credential.headers == {"Authorization": "Bearer sk_very_secret"}
    assert config.nats.urls == ("nats://user:hidden@n1:4222",)
    assert config.nats.no_echo
    assert (config.prefix, config.log_level) == ("acme.calls", "DEBUG")
    assert "secret" not in repr(config)
    assert "hidden" not in repr(config)


def test_arguments_win() -> None:
    config = BridgeConfig.from_env(KEY, api_key="sk_mine", base_url="ws://here", nats_url="nats://n2")
    assert config.credential.headers == {"Authorization": "Bearer sk_mine"}
    assert (config.orchestrator_url, config.nats.urls) == ("ws://here", ("nats://n2",))


def test_a_platform_token_registers_where_there_is_no_key() -> None:
    token = {"UNPOD_PLATFORM_TOKEN": "tok_very_secret", "UNPOD_ORG_HANDLE": "acme", "NATS_URL": "nats://n"}
    config = BridgeConfig.from_env(token)
    assert config.credential.headers == {"Authorization": "Token tok_very_secret", "Org-Handle": "acme"}
    assert "UNPOD_PLATFORM_TOKEN" in config.credential.named
    assert "secret" not in repr(config)
    assert BridgeConfig.from_env({**token, **KEY}).credential.headers == {"Authorization": "Bearer sk_very_secret"}


@pytest.mark.parametrize(("org", "says"), [("", "UNPOD_ORG_HANDLE is not set"), ("ac\nme", "UNPOD_ORG_HANDLE holds")])
def test_a_token_needs_an_organisation_that_can_be_sent(org: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        BridgeConfig.from_env({"UNPOD_PLATFORM_TOKEN": "t", "UNPOD_ORG_HANDLE": org, "NATS_URL": "nats://n"})


def test_nats_url_is_the_second_choice() -> None:
    config = BridgeConfig.from_env({"UNPOD_API_KEY": "k", "UNPOD_NATS_URL": " ", "NATS_URL": "nats://a, nats://b"})
    assert config.nats.urls == ("nats://a", "nats://b")


def test_a_context_and_credentials(tmp_path: Path) -> None:
    context = tmp_path / "fleet.json"
    context.write_text(json.dumps({"url": "nats://ctx:4222", "user": "u", "password": "p", "inbox_prefix": "_I"}))
    config = BridgeConfig.from_env({"UNPOD_API_KEY": "k", "NATS_CONTEXT": str(context)})
    assert config.nats.urls == ("nats://ctx:4222",)
    assert (config.nats.credentials.user, config.nats.inbox_prefix) == ("u", "_I")
    assert config.nats.variable == "NATS_CONTEXT"
    both = {"UNPOD_API_KEY": "k", "NATS_CONTEXT": str(context), "NATS_URL": "nats://x", "NATS_CREDS": "/some/file"}
    assert BridgeConfig.from_env(both).nats.urls == ("nats://x",)
    assert BridgeConfig.from_env(both).nats.credentials.creds_file == "/some/file"


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({}, "UNPOD_API_KEY"),
        ({"UNPOD_API_KEY": "  ", "NATS_URL": "nats://x"}, "UNPOD_API_KEY"),
        ({"UNPOD_API_KEY": "sk\r\nX-Evil: 1", "NATS_URL": "nats://x"}, "UNPOD_API_KEY"),
        ({"UNPOD_API_KEY": "k"}, "UNPOD_NATS_URL"),
        ({**KEY, "UNPOD_NATS_URL": "http://x"}, "UNPOD_NATS_URL"),
        ({**KEY, "UNPOD_SUBJECT_PREFIX": "a b"}, "UNPOD_SUBJECT_PREFIX"),
        ({**KEY, "UNPOD_LOG_LEVEL": "loud"}, "UNPOD_LOG_LEVEL"),
        ({**KEY, "UNPOD_ORCHESTRATOR_URL": "ftp://x"}, "UNPOD_ORCHESTRATOR_URL"),
        ({**KEY, "NATS_CONTEXT": "/no/such/file.json"}, "NATS_CONTEXT"),
    ],
)
def test_what_is_missing_or_wrong_is_named(environment: dict[str, str], name: str) -> None:
    with pytest.raises(ConfigurationError, match=name) as raised:
        BridgeConfig.from_env(environment)
    assert "\n" not in str(raised.value)
    assert "Evil" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("ws://10.1.2.3:9000", "10.1.2.3", 9000),
        ("ws://10.1.2.3", "10.1.2.3", 8765),
        ("ws://[::1]:9000/path", "::1", 9000),
        ("wss://runner.example", None, 8765),
        ("https://runner.example:443/calls?x=1", None, 443),
        ("runner.example:9000", None, 9000),
    ],
)
def test_where_workers_dial_in(url: str, host: str | None, port: int) -> None:
    config = BridgeConfig.from_env({**KEY, "UNPOD_RUNNER_URL": url, "UNPOD_AGENT_SECRET": "hush"})
    assert config.serving is not None
    assert (config.serving.url, config.serving.host, config.serving.port) == (url, host, port)
    assert "hush" not in repr(config)


@pytest.mark.parametrize(
    ("environment", "serves"),
    [
        ({}, False),
        ({"UNPOD_RUNNER_URL": "ws://x"}, False),
        ({"UNPOD_RUNNER_URL": "ws://x", "UNPOD_AGENT_SECRET": "hush"}, True),
        ({"UNPOD_RUNNER_URL": "ws://x", "UNPOD_TRANSPORT": "serve"}, True),
        ({"UNPOD_RUNNER_URL": "ws://x", "UNPOD_AGENT_SECRET": "hush", "UNPOD_TRANSPORT": "dial_out"}, False),
    ],
)
def test_calls_are_dialled_out_unless_it_is_asked_otherwise(environment: dict[str, str], *, serves: bool) -> None:
    assert (BridgeConfig.from_env({**KEY, **environment}).serving is not None) == serves


def test_a_transport_that_there_is_not() -> None:
    with pytest.raises(ConfigurationError, match="UNPOD_TRANSPORT is 'telepathy': give one of dial_out, serve"):
        BridgeConfig.from_env({**KEY, "UNPOD_TRANSPORT": "telepathy"})


@pytest.mark.parametrize(
    "environment",
    [
        {"UNPOD_RUNNER_URL": "ftp://x"},
        {"UNPOD_RUNNER_URL": "ws://x:0"},
        {"UNPOD_RUNNER_URL": "ws://x:99999"},
        {"UNPOD_RUNNER_URL": "ws://x y"},
        {"UNPOD_AGENT_SECRET": "hush"},
        {"UNPOD_TRANSPORT": "serve"},
    ],
)
def test_a_runner_url_that_cannot_be_used(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="UNPOD_RUNNER_URL") as raised:
        BridgeConfig.from_env({**KEY, **environment})
    assert "hush" not in str(raised.value)
