from __future__ import annotations

import json
from pathlib import Path

import pytest

from unpod.errors import ConfigurationError
from unpod.runner.config import read_config

KEY = "sk_live_of_nobody"
ALONE = {"UNPOD_API_KEY": KEY}


def test_with_a_key_alone_the_runner_is_a_system_of_its_own() -> None:
    config = read_config(environment={**ALONE, "PATH": "/bin"})
    assert config.nats is None
    assert config.data_dir == Path(".unpod")
    assert config.prefix == "unpod"
    assert config.bridge_environment == {"UNPOD_API_KEY": KEY, "PATH": "/bin"}


@pytest.mark.parametrize("environment", [{}, {"UNPOD_API_KEY": "  "}])
def test_without_a_key_it_says_which_variable(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="UNPOD_API_KEY"):
        read_config(environment=environment)


def test_a_platform_token_with_its_organisation_does_in_place_of_a_key() -> None:
    named = {"UNPOD_PLATFORM_TOKEN": "tok", "UNPOD_ORG_HANDLE": "acme"}
    assert read_config(environment=named).bridge_environment == named
    assert read_config(platform_token="tok", org_handle="acme", environment={}).bridge_environment == named
    # An argument wins over a variable, of the other kind, too; a key wins over a token beside it.
    assert read_config(platform_token="tok", org_handle="acme", environment=ALONE).bridge_environment == named
    assert read_config(environment={**ALONE, **named}).bridge_environment == {**ALONE, **named}
    for blank in (None, " "):
        with pytest.raises(ConfigurationError, match="UNPOD_ORG_HANDLE"):
            read_config(platform_token="tok", org_handle=blank, environment=ALONE)


def test_a_fleet_needs_no_key_here() -> None:
    config = read_config(environment={"UNPOD_NATS_URL": "nats://a:4222, b"})
    assert config.nats is not None
    assert config.nats.urls == ("nats://a:4222", "nats://b")
    assert config.nats.no_echo
    assert config.bridge_environment == {}
    assert config.connection("me").name == "me"


def test_the_order_of_what_names_the_server() -> None:
    environment = {"UNPOD_NATS_URL": "nats://second:1", "NATS_URL": "nats://third:1"}
    for argument, expected in (("nats://first:1", "first"), (None, "second"), ("  ", "second")):
        nats = read_config(nats_url=argument, environment=environment).nats
        assert nats is not None
        assert nats.urls == (f"nats://{expected}:1",)
    nats = read_config(environment={"UNPOD_NATS_URL": " ", "NATS_URL": "nats://third:1"}).nats
    assert nats is not None
    assert nats.urls == ("nats://third:1",)
    assert nats.variable == "NATS_URL"


def test_a_blank_variable_is_an_unset_one() -> None:
    names = ("UNPOD_NATS_URL", "NATS_URL", "NATS_CREDS", "NATS_CONTEXT", "UNPOD_SUBJECT_PREFIX", "UNPOD_DATA_DIR")
    config = read_config(environment={**ALONE, **dict.fromkeys(names, " "), "UNPOD_LOG_LEVEL": ""})
    assert config.nats is None
    assert (config.prefix, config.data_dir, config.log_level) == ("unpod", Path(".unpod"), "")


def test_credentials_come_from_the_context_or_the_file(tmp_path: Path) -> None:
    context = tmp_path / "nats" / "context" / "prod.json"
    context.parent.mkdir(parents=True)
    context.write_text(json.dumps({"url": "nats://ctx:4222", "user": "u", "password": "p", "inbox_prefix": "_INBOX_u"}))
    environment = {"NATS_CONTEXT": "prod", "XDG_CONFIG_HOME": str(tmp_path)}
    nats = read_config(environment=environment).nats
    assert nats is not None
    assert (nats.urls, nats.credentials.user, nats.inbox_prefix) == (("nats://ctx:4222",), "u", "_INBOX_u")
    nats = read_config(nats_url="nats://other:1", environment={**environment, "NATS_CREDS": "/x.creds"}).nats
    assert nats is not None
    assert (nats.urls, nats.credentials.user, nats.credentials.creds_file) == (("nats://other:1",), "", "/x.creds")


def test_the_bridge_gets_what_it_needs_and_nothing_of_another_nats() -> None:
    environment = {
        "UNPOD_API_KEY": "old",
        "NATS_CREDS": "/x.creds",
        "UNPOD_ORCHESTRATOR_URL": "wss://theirs",
        "HOME": "/h",
    }
    config = read_config(api_key=KEY, base_url="ws://here:1", environment=environment)
    assert config.bridge_environment == {
        "UNPOD_API_KEY": KEY,
        "UNPOD_ORCHESTRATOR_URL": "ws://here:1",
        "HOME": "/h",
    }
    config = read_config(environment=ALONE, transport="serve", serving_url="ws://me:8765", agent_secret="hush")
    assert config.bridge_environment == {
        **ALONE,
        "UNPOD_TRANSPORT": "serve",
        "UNPOD_RUNNER_URL": "ws://me:8765",
        "UNPOD_AGENT_SECRET": "hush",
    }
    assert "hush" not in repr(config)
    kept = read_config(environment={**ALONE, "UNPOD_ORCHESTRATOR_URL": "wss://theirs"}).bridge_environment
    assert kept["UNPOD_ORCHESTRATOR_URL"] == "wss://theirs"


def test_arguments_win_over_variables(tmp_path: Path) -> None:
    environment = {**ALONE, "UNPOD_DATA_DIR": "/elsewhere"}
    assert read_config(environment=environment).data_dir == Path("/elsewhere")
    assert read_config(data_dir=tmp_path, environment=environment).data_dir == tmp_path


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("UNPOD_SUBJECT_PREFIX", "a*b"),
        ("UNPOD_NATS_URL", "http://nope"),
        ("NATS_CONTEXT", "/no/such/file.json"),
        ("UNPOD_LOG_LEVEL", "loud"),
    ],
)
def test_what_cannot_be_used_is_named(variable: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=variable):
        read_config(environment={**ALONE, variable: value})


def test_no_secret_is_shown() -> None:
    environment = {**ALONE, "UNPOD_PLATFORM_TOKEN": "tkn-secret"}
    alone = read_config(environment=environment)
    fleet = read_config(environment={**environment, "UNPOD_NATS_URL": "nats://user:hunter2@host:4222"})
    for config in (alone, fleet):
        assert not any(secret in repr(config) for secret in (KEY, "tkn-secret", "hunter2"))
