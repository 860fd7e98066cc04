from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import cast

import pytest

from unpod import AgentRunner, CallContext, ConfigurationError, RunnerStats, Session, UnknownEvent


async def handle_call(ctx: CallContext) -> None:
    await ctx.session.run()


class Callable_:  # noqa: N801 - a class whose instances can be called
    async def __call__(self, ctx: CallContext) -> None: ...

    async def method(self, ctx: CallContext) -> None: ...


def sync_entrypoint(ctx: CallContext) -> None: ...


async def generator(ctx: CallContext) -> AsyncIterator[None]:
    yield


def wrapped(function: Callable[[CallContext], object]) -> Callable[[CallContext], object]:
    @functools.wraps(function)
    def wrapper(ctx: CallContext) -> object:
        return function(ctx)

    return wrapper


def make(**arguments: object) -> AgentRunner:
    return AgentRunner(**{"entrypoint": handle_call, "agent_id": "my-agent", **arguments})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "entrypoint",
    [
        handle_call,
        Callable_(),
        Callable_().method,
        functools.partial(handle_call),
        wrapped(handle_call),
        lambda ctx: handle_call(ctx),  # noqa: PLW0108 - the point
    ],
    ids=["function", "object", "method", "partial", "decorated", "lambda"],
)
def test_any_async_callable_is_an_entrypoint(entrypoint: object) -> None:
    assert make(entrypoint=entrypoint).agent_id == "my-agent"


@pytest.mark.parametrize(
    ("entrypoint", "says"),
    [
        (sync_entrypoint, "async def sync_entrypoint"),
        (generator, "without `yield`"),
        (None, "give the function"),
        ("handle_call", "give the function"),
        (handle_call.__code__, "give the function"),
    ],
)
def test_what_is_no_entrypoint_is_said(entrypoint: object, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        make(entrypoint=entrypoint)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"agent_id": ""}, ConfigurationError, "agent_id is empty"),
        ({"agent_id": "  "}, ConfigurationError, "agent_id is empty"),
        ({"agent_id": "my-agent@dev"}, ConfigurationError, "dev_mode=True"),
        ({"agent_id": 7}, TypeError, "agent_id is a string"),
        ({"max_sessions": -1}, ConfigurationError, "max_sessions=-1"),
        ({"max_sessions": 1.5}, TypeError, "max_sessions is a whole number"),
        ({"max_sessions": True}, TypeError, "max_sessions"),
        ({"max_concurrent_calls": -1}, ConfigurationError, "max_concurrent_calls=-1"),
        ({"permits_per_minute": -1}, ConfigurationError, "permits_per_minute=-1"),
        ({"permits_per_minute": float("nan")}, ConfigurationError, "permits_per_minute"),
        ({"permits_per_minute": "many"}, TypeError, "permits_per_minute is a number"),
        ({"drain_timeout_s": -0.1}, ConfigurationError, "drain_timeout_s"),
        ({"drain_timeout_s": float("inf")}, ConfigurationError, "drain_timeout_s"),
        ({"silence_timeout_s": 0}, ConfigurationError, "silence_timeout_s"),
        ({"hook_timeout_s": 0}, ConfigurationError, "hook_timeout_s"),
        ({"hook_grace_s": -1}, ConfigurationError, "hook_grace_s"),
        ({"reply_timeout_s": 0}, ConfigurationError, "reply_timeout_s"),
        ({"max_reply_chars": 1.5}, TypeError, "max_reply_chars"),
        ({"max_call_duration_s": -5}, ConfigurationError, "max_call_duration_s"),
        ({"api_key": b"key"}, TypeError, "api_key is a string"),
        ({"agent_secret": b"key"}, TypeError, "agent_secret is a string"),
        ({"platform_token": b"key"}, TypeError, "platform_token is a string"),
        ({"transport": "telepathy"}, ConfigurationError, "transport='telepathy': give one of dial_out, serve"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(arguments: dict[str, object], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says) as caught:
        make(**arguments)
    assert "\n" not in str(caught.value)


def test_the_arguments_have_the_order_that_users_know() -> None:
    runner = AgentRunner(handle_call, "a", "key", 7, 3, 60, 5, True, "ws://x", "nats://y")  # noqa: FBT003 - the point
    assert runner.stats().capacity == 3
    assert "@dev" in repr(runner)


def test_the_serve_transports_arguments_are_taken_and_deprecated() -> None:
    serving = {"transport": "serve", "serving_url": "ws://me", "agent_secret": "hush"}
    for arguments in (serving, {"serving_url": "ws://me"}, {"agent_secret": "hush"}):
        with pytest.warns(DeprecationWarning, match="UNPOD_RUNNER_URL") as warned:
            runner = make(**arguments, api_key="key")
        assert "hush" not in f"{runner!r}{warned[0].message}"
    assert make(transport="dial_out").agent_id == "my-agent"  # its default, and no reason to warn


def test_a_context_can_be_made_with_what_a_test_needs() -> None:
    session = cast("Session", object())
    ctx = CallContext(call_id="c1", session=session)
    assert (ctx.session_id, ctx.direction, ctx.user_number, ctx.instructions) == ("c1", "inbound", "", None)
    ctx.data["customer"] = 7
    assert CallContext(call_id="c2", session=session).data == {}
    assert CallContext(call_id="c1", session_id="s1", session=session).session_id == "s1"


def test_figures_become_dicts_as_those_of_the_unpod_sdk_do() -> None:
    assert make().stats().model_dump()["capacity"] == 50


def test_max_concurrent_calls_overrides_max_sessions() -> None:
    assert make(max_sessions=5).stats().capacity == 5
    assert make(max_sessions=5, max_concurrent_calls=9).stats().capacity == 9
    assert make(max_sessions=5, max_concurrent_calls=0).stats().capacity == 0


def test_before_it_runs_there_is_nothing_to_tell() -> None:
    runner = make()
    assert runner.stats() == RunnerStats(0, 0, 50, 0, 0, 0.0)
    assert runner.active_calls() == []


def test_each_runner_has_an_id_of_its_own() -> None:
    assert make().runner_id != make().runner_id


def test_an_unknown_hook_is_told_the_known_ones() -> None:
    with pytest.raises(UnknownEvent, match=r"call_start.*call_end"):
        make().on("call_started")  # type: ignore[call-overload]  # that is it


async def test_shutdown_of_what_does_not_run_returns_at_once() -> None:
    await make().shutdown()


async def test_start_within_a_loop_says_what_to_do() -> None:
    with pytest.raises(ConfigurationError, match=r"await runner\.run\(\)"):
        make().start()


def no_nats(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("UNPOD_API_KEY", "UNPOD_NATS_URL", "NATS_URL", "NATS_CONTEXT", "UNPOD_LOG_LEVEL"):
        monkeypatch.delenv(name, raising=False)


def test_start_without_a_key_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    no_nats(monkeypatch)
    with pytest.raises(SystemExit) as exited:
        make().start()
    assert exited.value.code == 2
    said = capsys.readouterr()
    assert "UNPOD_API_KEY" in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


async def test_run_without_a_key_raises_and_starts_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    no_nats(monkeypatch)
    with pytest.raises(ConfigurationError, match="UNPOD_API_KEY"):
        await make(data_dir=tmp_path / "data").run()
    assert not (tmp_path / "data").exists()


def test_nothing_that_is_shown_of_a_runner_holds_its_key() -> None:
    assert "sk_secret" not in repr(make(api_key="sk_secret"))
