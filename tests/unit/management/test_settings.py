"""Where the management API is, and who asks."""

from __future__ import annotations

import pytest

from unpod.errors import ConfigurationError
from unpod.management.auth import Auth, BearerAuth, JWTAuth, TokenAuth
from unpod.management.settings import resolve


def bases(
    environ: dict[str, str] | None = None, base_url: str | None = None, orchestrator: str | None = None
) -> tuple[str, str]:
    settings = resolve("k", base_url, orchestrator, environ or {})
    return settings.base_url, settings.orchestrator_base_url


HOSTED = ("https://api.unpod.ai/platform", "https://api.unpod.ai/orchestrator")


def test_the_hosted_service_where_nothing_is_set() -> None:
    assert bases() == HOSTED


@pytest.mark.parametrize(
    ("value", "base"),
    [
        ("example.dev", "https://example.dev"),
        ("example.dev:8443", "https://example.dev:8443"),
        ("example.dev/", "https://example.dev"),
        (" https://example.dev/ ", "https://example.dev"),
        ("wss://example.dev", "https://example.dev"),
        ("HTTPS://example.dev/some/path?x=1", "https://example.dev"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("ws://127.0.0.1:8000/", "http://127.0.0.1:8000"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_every_form_of_the_base_url(value: str, base: str) -> None:
    assert bases({"UNPOD_BASE_URL": value}) == (f"{base}/platform", f"{base}/orchestrator")


@pytest.mark.parametrize("variable", ["UNPOD_BASE_URL", "UNPOD_SERVICE_BASE_URL", "UNPOD_ORCHESTRATOR_BASE_URL"])
@pytest.mark.parametrize("blank", ["", "   "])
def test_a_blank_variable_is_unset(variable: str, blank: str) -> None:
    assert bases({variable: blank}) == HOSTED


def test_the_order_of_the_management_bases() -> None:
    environ = {"UNPOD_BASE_URL": "three.dev", "UNPOD_SERVICE_BASE_URL": "https://two.dev/platform/"}
    assert bases(environ, "https://one.dev/platform")[0] == "https://one.dev/platform"
    assert bases(environ)[0] == "https://two.dev/platform"
    assert bases({"UNPOD_BASE_URL": "three.dev"})[0] == "https://three.dev/platform"
    assert bases(environ, "  ")[0] == "https://two.dev/platform"


def test_the_order_of_the_orchestrators_bases() -> None:
    environ = {"UNPOD_ORCHESTRATOR_BASE_URL": "http://two.dev:9/", "UNPOD_BASE_URL": "three.dev"}
    assert bases(environ, orchestrator="http://one.dev/o/")[1] == "http://one.dev/o"
    assert bases(environ)[1] == "http://two.dev:9"
    assert bases(base_url="https://x.dev/api/platform/")[1] == "https://x.dev/api/orchestrator"
    assert bases(base_url="https://x.dev/api")[1] == "https://x.dev/api"
    assert bases(base_url="https://x.dev/platform/api")[1] == "https://x.dev/platform/api"


@pytest.mark.parametrize("url", ["example.dev/platform", "ftp://example.dev", "https://", "http://[bad", "https:///x"])
def test_a_base_url_that_cannot_be_used_is_named(url: str) -> None:
    with pytest.raises(ConfigurationError, match="UNPOD_SERVICE_BASE_URL"):
        bases(base_url=url)
    with pytest.raises(ConfigurationError, match="UNPOD_ORCHESTRATOR_BASE_URL"):
        bases({"UNPOD_ORCHESTRATOR_BASE_URL": url})


@pytest.mark.parametrize("value", ["ftp://example.dev", "https://", "/just/a/path", "https://[bad"])
def test_an_unusable_unpod_base_url_is_named(value: str) -> None:
    with pytest.raises(ConfigurationError, match="UNPOD_BASE_URL"):
        bases({"UNPOD_BASE_URL": value})


def headers(api_key: str | None = None, **environ: str) -> dict[str, str]:
    return dict(resolve(api_key, None, None, environ).headers)


def test_a_key_is_a_bearer() -> None:
    assert headers("k") == {"Authorization": "Bearer k"}
    assert headers(UNPOD_API_KEY=" e ") == {"Authorization": "Bearer e"}
    assert headers("k", UNPOD_API_KEY="e", UNPOD_ORG_HANDLE="o") == {"Authorization": "Bearer k"}


def test_a_platform_token_wins_over_any_key() -> None:
    assert headers("k", UNPOD_API_KEY="e", UNPOD_PLATFORM_TOKEN="t") == {"Authorization": "Token t"}
    assert headers(UNPOD_PLATFORM_TOKEN="t", UNPOD_ORG_HANDLE="o") == {"Authorization": "Token t", "Org-Handle": "o"}
    assert headers("k", UNPOD_PLATFORM_TOKEN=" ") == {"Authorization": "Bearer k"}
    assert headers(UNPOD_PLATFORM_TOKEN="t", UNPOD_ORG_HANDLE="") == {"Authorization": "Token t"}


@pytest.mark.parametrize(
    ("auth", "shown"),
    [
        (BearerAuth("k"), {"Authorization": "Bearer k"}),
        (TokenAuth("t"), {"Authorization": "Token t"}),
        (TokenAuth("t", org_handle="o"), {"Authorization": "Token t", "Org-Handle": "o"}),
        (JWTAuth(token="j", org_handle="o"), {"Authorization": "JWT j", "Org-Handle": "o"}),
    ],
)
def test_what_is_given_as_auth_counts_before_everything(auth: Auth, shown: dict[str, str]) -> None:
    assert isinstance(auth, Auth)
    environ = {"UNPOD_PLATFORM_TOKEN": "other", "UNPOD_API_KEY": "e"}
    assert resolve("k2", None, None, environ, auth).headers == shown
    assert resolve(None, None, None, {}, auth).headers == shown


def test_no_credential_at_all() -> None:
    with pytest.raises(ConfigurationError, match="set UNPOD_API_KEY, or pass api_key="):
        headers(" ")


def test_a_credential_that_no_header_can_carry_is_named_and_not_shown() -> None:
    for environ in ({"UNPOD_API_KEY": "secr\net"}, {"UNPOD_PLATFORM_TOKEN": "s\u00e9cret"}):
        with pytest.raises(ConfigurationError) as caught:
            headers(**environ)
        assert next(iter(environ)) in str(caught.value)
        assert "cret" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="Authorization of auth=") as caught:
        resolve(None, None, None, {}, JWTAuth("secr\net"))
    assert "cret" not in str(caught.value)


def test_a_credential_is_in_no_repr() -> None:
    assert "secret" not in repr(resolve("secret", None, None, {}))
    assert "secret" not in f"{BearerAuth('secret')}{TokenAuth('secret')}{JWTAuth('secret')}"
