"""`AgentRunner`: the long-lived process that takes an agent's calls."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final, Literal, NoReturn, TypeVar, overload

from unpod.core.decision import ADAPTER_APOLOGY, RESUME_APOLOGY
from unpod.core.envelope import parse_time
from unpod.core.metrics import CallMetrics
from unpod.core.replay.resume import OnResume
from unpod.core.subjects import Subjects
from unpod.errors import ConfigurationError, RunnerBroken, UnpodError
from unpod.event_loop import run_main
from unpod.jetstream.connection.connection import Nats, connect
from unpod.jetstream.connection.options import NatsOptions
from unpod.jetstream.connection.rights import check_rights
from unpod.jetstream.log.clock import LogClock
from unpod.jetstream.log.event_log import open_log
from unpod.jetstream.streams.topology import embedded_topology, ensure, info
from unpod.logs import enable_logging, is_set_up
from unpod.processes.embedded import EmbeddedOptions, EmbeddedServer
from unpod.runner.admin import Admin
from unpod.runner.calls import InCall
from unpod.runner.children import BridgeChild
from unpod.runner.config import RunnerConfig, read_config
from unpod.runner.drain import DrainMode, RunnerStop
from unpod.runner.liveness import PulseThread
from unpod.runner.rights import runner_rights
from unpod.runner.runner_hooks import FinalState, RunnerHooks
from unpod.runner.service import RunnerOptions, RunnerPorts, Service
from unpod.runner.signals import listening
from unpod.runner.stats import LastHour, RunnerStats
from unpod.runner.validation import (
    check_agent_id,
    check_choice,
    check_count,
    check_entrypoint,
    check_number,
    check_text,
)
from unpod.session.hooks import HookFunction
from unpod.session.settings import SessionSettings

if TYPE_CHECKING:
    from unpod.runner.call import Entrypoint
    from unpod.runner.context import CallContext

F = TypeVar("F", bound=HookFunction)
StartHook = TypeVar("StartHook", bound="Callable[[CallContext], object]")
MetricHook = TypeVar("MetricHook", bound="Callable[[CallContext, CallMetrics], object]")
EndHook = TypeVar("EndHook", bound="Callable[[CallContext, FinalState], object]")

_BRIDGE_GRACE_S: Final = 5.0
_FORCED_S: Final = 2.0
_FAILED: Final = 1
_USAGE: Final = 2
_SIGNALLED: Final = 128
_SERVING_IS_THE_BRIDGES: Final = (
    "transport, serving_url and agent_secret are deprecated: workers dial a bridge, which reads UNPOD_TRANSPORT, "
    "UNPOD_RUNNER_URL and UNPOD_AGENT_SECRET; calls are dialled out unless it is told to serve"
)


class AgentRunner:
    """Takes the calls of one agent and runs `entrypoint` for each, in this process.

    With a NATS URL (`nats_url`, `UNPOD_NATS_URL`, `NATS_URL` or `NATS_CONTEXT`) it joins the fleet there. Without, it
    is a whole system: it starts a NATS server (data under `data_dir`, `UNPOD_DATA_DIR`, else `.unpod`) and a bridge,
    which registers with `api_key` (else `UNPOD_API_KEY`) at `base_url` (else `UNPOD_ORCHESTRATOR_URL`).

    `max_concurrent_calls` overrides `max_sessions`. `permits_per_minute` is how many new calls may begin in a minute,
    but a runner that was idle may be filled at once; None is no limit, and 0 takes no call. `silence_timeout_s` and
    `max_call_duration_s` hold for each session (None: none); `hook_timeout_s` is how long a call waits for the hooks of
    one event (None: 10 for `call_start` and `user_turn`, 1 for the others), and `hook_grace_s` how long those that took
    longer still have at the call's end. A reply fails whose adapter says nothing for `reply_timeout_s` (None: no
    limit), or that is longer than `max_reply_chars`. Times in seconds.

    `drain` says what SIGTERM does to calls in progress: `wait` for their end for `drain_timeout_s` and hand the rest
    over to other runners, or `handoff` all at once. `on_resume` says what becomes of a reply that the death of another
    runner cut off: `continue`, `apologise` with `resume_apology`, or `repeat`. `on_adapter_error` is the phrase that
    ends a reply whose adapter has failed, or `end`: the call is ended with `error`; None does neither.

    `transport`, `serving_url` and `agent_secret` are deprecated: they are its bridge's, which reads `UNPOD_TRANSPORT`,
    `UNPOD_RUNNER_URL` and `UNPOD_AGENT_SECRET`.

    With `health_port` (else `UNPOD_HEALTH_PORT`; 0 takes a free one) `/healthz` and `/readyz` are answered there.

    Raises:
        ConfigurationError: a value that cannot be.
        TypeError: an argument of the wrong kind, such as an entrypoint that is not async.
    """

    def __init__(  # noqa: PLR0917 - as users know it
        self,
        entrypoint: Entrypoint,
        agent_id: str,
        api_key: str | None = None,
        max_sessions: int = 50,
        max_concurrent_calls: int | None = None,
        permits_per_minute: float | None = 120,
        drain_timeout_s: float = 60,
        dev_mode: bool = False,  # noqa: FBT001, FBT002 - as users know it
        base_url: str | None = None,
        nats_url: str | None = None,
        *,
        silence_timeout_s: float | None = 10.0,
        hook_timeout_s: float | None = None,
        hook_grace_s: float = 10.0,
        reply_timeout_s: float | None = 30.0,
        max_reply_chars: int = 20_000,
        max_call_duration_s: float | None = None,
        data_dir: str | os.PathLike[str] | None = None,
        health_port: int | None = None,
        drain: DrainMode = "wait",
        on_resume: OnResume = "continue",
        resume_apology: str = RESUME_APOLOGY,
        on_adapter_error: str | None = ADAPTER_APOLOGY,
        transport: str | None = None,
        serving_url: str | None = None,
        agent_secret: str | None = None,
        platform_token: str | None = None,
        org_handle: str | None = None,
    ) -> None:
        check_entrypoint(entrypoint)
        check_agent_id(agent_id)
        check_count("max_sessions", max_sessions)
        if max_concurrent_calls is not None:
            check_count("max_concurrent_calls", max_concurrent_calls)
        if permits_per_minute is not None:
            check_number("permits_per_minute", permits_per_minute, zero=True)
        check_number("drain_timeout_s", drain_timeout_s, zero=True)
        check_number("hook_grace_s", hook_grace_s, zero=True)
        check_count("max_reply_chars", max_reply_chars)
        for name, seconds in (
            ("silence_timeout_s", silence_timeout_s),
            ("hook_timeout_s", hook_timeout_s),
            ("reply_timeout_s", reply_timeout_s),
            ("max_call_duration_s", max_call_duration_s),
        ):
            if seconds is not None:
                check_number(name, seconds, zero=False)
        for name, text in (
            ("api_key", api_key),
            ("base_url", base_url),
            ("nats_url", nats_url),
            ("serving_url", serving_url),
            ("agent_secret", agent_secret),
            ("platform_token", platform_token),
            ("org_handle", org_handle),
        ):
            check_text(name, text)
        if transport is not None:
            check_choice("transport", transport, ("dial_out", "serve"))
        if transport == "serve" or serving_url or agent_secret:
            warnings.warn(_SERVING_IS_THE_BRIDGES, DeprecationWarning, stacklevel=2)
        check_choice("drain", drain, ("wait", "handoff"))
        check_choice("on_resume", on_resume, ("continue", "apologise", "repeat"))
        check_text("resume_apology", resume_apology)
        check_text("on_adapter_error", on_adapter_error)
        self._plan = RunnerOptions(
            entrypoint=entrypoint,
            agent_id=agent_id,
            capacity=max_sessions if max_concurrent_calls is None else max_concurrent_calls,
            permits_per_minute=permits_per_minute,
            drain_timeout_s=drain_timeout_s,
            dev=bool(dev_mode),
            settings=SessionSettings(
                silence_timeout_s=silence_timeout_s,
                hook_timeout_s=hook_timeout_s,
                hook_grace_s=hook_grace_s,
                reply_timeout_s=reply_timeout_s,
                max_reply_chars=max_reply_chars,
                max_duration_s=max_call_duration_s,
                on_resume=on_resume,
                resume_apology=resume_apology,
                on_adapter_error=on_adapter_error,
            ),
            drain=drain,
            version=_version(),
        )
        self._api_key, self._base_url, self._nats_url = api_key, base_url, nats_url
        self._platform_token, self._org_handle = platform_token, org_handle
        self._data_dir, self._health_port = data_dir, health_port
        self._transport, self._serving_url, self._agent_secret = transport, serving_url, agent_secret
        self._hooks = RunnerHooks(hook_timeout_s)
        self._last_hour = LastHour()
        self._clock = LogClock()
        self._inside = InCall()
        self._service: Service | None = None
        self._stop: RunnerStop | None = None
        self._owns_process = False
        self._signals: list[int] = []
        self.runner_id = f"runner-{secrets.token_hex(4)}"
        """This runner's id, in logs and in the event log."""

    def __repr__(self) -> str:
        return f"<AgentRunner {self._plan.agent_key} {self.runner_id}>"

    @property
    def agent_id(self) -> str:
        """The agent whose calls it takes."""
        return self._plan.agent_id

    @overload
    def on(self, event: Literal["call_start"]) -> Callable[[StartHook], StartHook]: ...
    @overload
    def on(self, event: Literal["metric"]) -> Callable[[MetricHook], MetricHook]: ...
    @overload
    def on(self, event: Literal["call_end"]) -> Callable[[EndHook], EndHook]: ...
    def on(self, event: str) -> Callable[[F], F]:
        """Return a decorator that registers a hook, sync or async.

        `call_start(ctx)`; `metric(ctx, metrics)` with the call's `CallMetrics`, whenever the speech worker sends its
        figures; `call_end(ctx, final_state)`, `ended` or `failed`. Several per event run in order of registration; one
        that raises is logged by its name and harms nothing.

        Raises:
            UnknownEvent: there is no such event; the text lists those there are.
        """
        return self._hooks.on(event)

    def stats(self) -> RunnerStats:
        """Return the figures as of now."""
        if self._service is not None:
            return self._service.stats()
        return self._last_hour.snapshot(self._clock.now(), in_flight=0, queued=0, capacity=self._plan.capacity)

    def active_calls(self) -> list[CallContext]:
        """Return the contexts of the calls that are running."""
        return [] if self._service is None else self._service.contexts()

    # ------------------------------------------------------------------------------------------------- life and death

    def start(self) -> None:
        """Run until SIGTERM or SIGINT, and drain; a second signal ends the process at once (status 128 + signal).

        Where the program has set up no logging, warnings go to stderr. What stops it from running is told in one line
        on stderr, with exit status 1, or 2 where a setting is wrong.

        Raises:
            ConfigurationError: called within a running event loop.
        """
        if _loop_is_running():
            raise ConfigurationError("start() blocks: within a running event loop, use `await runner.run()`")
        self._owns_process = True
        try:
            run_main(self.run())
        except ConfigurationError as error:
            _exit(f"unpod: {error}", _USAGE)
        except (UnpodError, ConnectionError) as error:
            _exit(f"unpod: {error}", _FAILED)
        finally:
            self._owns_process = False
        if len(self._signals) > 1:
            raise SystemExit(_SIGNALLED + self._signals[-1])

    async def run(self) -> None:
        """Run until `shutdown()`, SIGTERM or SIGINT, and drain; a second signal abandons what is left.

        Signals are heard where this runs in the main thread, and given back afterwards.

        Raises:
            RunnerAuthError: the orchestrator refuses the key.
            OrchestratorTooOld: the orchestrator does not speak our transport.
            ConfigurationError: a setting is missing or wrong, or it runs already.
            LogError: NATS does not do what a runner needs.
            RunnerBroken: what it cannot do without has stopped by itself.
        """
        if self._stop is not None:
            raise ConfigurationError(f"{self!r} runs already")
        config = self._configuration()
        if self._owns_process and (config.log_level or not is_set_up()):
            enable_logging(config.log_level or "WARNING")
        self._stop = stop = RunnerStop()
        self._signals.clear()
        try:
            with listening(stop.on_signal, self._on_raw_signal):
                await self._run(config, stop)
            if stop.failure is not None:  # perhaps before it served
                raise stop.failure
        finally:
            self._stop = None
            stop.finished.set()

    async def shutdown(self) -> None:
        """Drain as SIGTERM does, and return when `run()` is over; from inside a call, return at once."""
        stop = self._stop
        if stop is None:
            return
        stop.requested.set()
        if not self._inside:
            await stop.finished.wait()

    def _configuration(self) -> RunnerConfig:
        """Return how it would run now: what it was made with, and the environment.

        Raises:
            ConfigurationError: a setting is missing or wrong.
        """
        return read_config(
            api_key=self._api_key,
            platform_token=self._platform_token,
            org_handle=self._org_handle,
            base_url=self._base_url,
            nats_url=self._nats_url,
            data_dir=self._data_dir,
            port=self._health_port,
            transport=self._transport,
            serving_url=self._serving_url,
            agent_secret=self._agent_secret,
        )

    async def _run(self, config: RunnerConfig, stop: RunnerStop) -> None:
        async with AsyncExitStack() as stack:
            service = await stop.unless_requested(self._open(stack, config, stop))
            if service is not None:
                self._service = service
                try:
                    await service.serve(stop)
                finally:
                    self._service = None

    async def _open(self, stack: AsyncExitStack, config: RunnerConfig, stop: RunnerStop) -> Service:
        """Start what is needed; `stack` ends it in the opposite order."""
        server = None
        if config.nats is None:
            server = await stack.enter_async_context(EmbeddedServer(EmbeddedOptions(config.data_dir)))
        options = self._options(config, server)
        nats = await stack.enter_async_context(connect(options))
        streams = config.streams.topology(config.prefix)
        if server is not None:
            streams = embedded_topology(config.prefix)
            await ensure(nats, streams.jobs)
        else:
            plan, calls = self._plan, streams.calls.name
            subjects = Subjects(config.prefix)
            await check_rights(nats, runner_rights(subjects, calls, plan.agent_id, plan.agent_key, self.runner_id))
        log = await open_log(nats, streams.calls)
        await self._anchor(nats, streams.calls.name)
        ports = RunnerPorts(log, nats, self._clock, Subjects(config.prefix))
        service = Service(
            self._plan, ports, self.runner_id, hooks=self._hooks, last_hour=self._last_hour, inside=self._inside
        )
        child = None
        if server is not None:
            environment = {
                **config.bridge_environment,
                "UNPOD_NATS_URL": server.url,
                "UNPOD_NATS_SYSTEM_URL": server.system_url,
            }
            child = BridgeChild(environment, died=service.bridge_died, hold_back=service.hold_back)
            stack.push_async_callback(self._end_bridge, child, stop)
        stack.callback(nats.on_state(service.connected))

        def cut_off(reason: RunnerBroken) -> None:
            service.fail(reason)
            stop.failure = reason
            stop.abort()  # other runners get the calls, and the sooner the better

        stack.callback(nats.on_given_up(lambda reason: cut_off(RunnerBroken(str(reason)))))
        ping = f"{ports.subjects.runner(self.runner_id)}.ping"
        liveness = PulseThread(options, ping, self.runner_id, service.find, cut_off)
        stack.push_async_callback(service.close)
        stack.push_async_callback(liveness.stop)  # before it says that it is gone: bridges look whether that is so
        admin = Admin(service, nats, ports.subjects, stop, config.health_port)
        stack.push_async_callback(admin.close)
        await liveness.start()
        await service.open()
        await admin.open()
        if child is not None:
            await child.start()
        return service

    def _options(self, config: RunnerConfig, server: EmbeddedServer | None) -> NatsOptions:
        name = f"unpod {self.runner_id}"
        return config.connection(name) if server is None else replace(server.connection(name), no_echo=True)

    async def _anchor(self, nats: Nats, stream: str) -> None:
        """Go by the log's time, whatever this machine's clock says."""
        found = await info(nats, stream)
        if found is not None and isinstance(found.get("ts"), str):
            self._clock.anchor(int(parse_time(found["ts"]) * 1e9))

    async def _end_bridge(self, child: BridgeChild, stop: RunnerStop) -> None:
        await child.stop(0.0 if stop.aborted.is_set() else _BRIDGE_GRACE_S)

    def _on_raw_signal(self, number: int) -> None:
        # Called between two bytecodes of whatever runs: the user's code that blocks the event loop, perhaps for good.
        self._signals.append(number)
        if self._owns_process and len(self._signals) == 2:  # noqa: PLR2004 - the second
            timer = threading.Timer(_FORCED_S, os._exit, (_SIGNALLED + number,))
            timer.daemon = True
            timer.start()


def _version() -> str:
    try:
        return version("unpod")
    except PackageNotFoundError:  # run from a copy of the sources
        return ""


def _loop_is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _exit(line: str, status: int) -> NoReturn:
    sys.stderr.write(line.replace("\n", " ") + "\n")
    raise SystemExit(status) from None
