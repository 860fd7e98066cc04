"""The commands and their options. What a command does is imported when it runs, so that `--help` is quick."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import click

from unpod_cli.failure import USAGE, Failure, extras

F = TypeVar("F", bound=Callable[..., object])

_WORKERS: Final = click.IntRange(1, 1_000)
_PORTS: Final = click.IntRange(0, 65_535)
_SPEEDS: Final = click.FloatRange(min=0.1, max=100)

_DEMO_EXAMPLE: Final = """\b
Example:
  unpod demo --speed 1
"""
_DEV_EXAMPLE: Final = """\b
Examples:
  unpod dev examples/hello.py
  printf 'hello\\nbye\\n' | unpod dev examples/hello.py
"""
_RUN_EXAMPLE: Final = """\b
Examples:
  unpod run myapp.agents:runner
  unpod run myapp.agents:runner --workers 4
"""
_BRIDGE_EXAMPLE: Final = """\b
Example:
  UNPOD_API_KEY=sk_... unpod bridge --nats-url nats://localhost:4222
"""
_CONSUME_EXAMPLE: Final = """\b
Example:
  unpod consume metrics --nats-url nats://localhost:4222
"""
_METRICS_EXAMPLE: Final = """\b
Examples:
  OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318 unpod consume metrics --nats-url nats://localhost:4222
  unpod consume metrics --since 2026-01-31T08:00:00Z
  unpod consume metrics --session demo-ada
"""
_TRACES_EXAMPLE: Final = """\b
Examples:
  OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318 unpod consume traces --nats-url nats://localhost:4222
  unpod consume traces --session demo-ada
"""
_ANALYTICS_EXAMPLE: Final = """\b
Examples:
  unpod consume analytics --nats-url nats://localhost:4222 --directory /data/analytics
  unpod consume analytics --from-start --directory /tmp/rows
  duckdb -c "select * from '/tmp/rows/turns/*/*.parquet' order by ttfa_ms desc limit 10"
"""
_ORCHESTRATOR_EXAMPLE: Final = """\b
Example:
  unpod orchestrator --port 9000
  curl -d '{"agent_id": "my-agent", "script": [{"step": "says", "text": "hi"}, {"step": "hears_reply"}]}' \\
    -H 'Authorization: Bearer sk_local' http://127.0.0.1:9000/_local/calls
"""


def _no_color(command: F) -> F:
    return click.option("--no-color", is_flag=True, help="Plain text; the variable NO_COLOR does the same.")(command)


def _json(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(command)


@click.command(short_help="See it work: six calls at once, on this machine.", epilog=_DEMO_EXAMPLE)
@click.option(
    "--speed", type=_SPEEDS, default=2.0, show_default=True, help="How much faster than in real life people speak."
)
@_no_color
@_json
def demo(*, speed: float, no_color: bool, as_json: bool) -> int:
    """Put six calls through a whole system on this machine, at once.

    Starts a local orchestrator with its speech worker, a nats-server, a bridge process and a runner process with an
    example agent; shows the conversations, then one call's event log, its metrics and its trace, and the runner's
    stats. It needs no key and no network, and leaves nothing behind. The exit status is 0 if every call went as its
    script says.
    """
    with extras():
        from unpod_cli.demo.run import run_demo  # noqa: PLC0415 - slow to import
    return run_demo(speed=speed, no_color=no_color, as_json=as_json)


@click.command(short_help="Talk to your agent in the terminal.", epilog=_DEV_EXAMPLE)
@click.argument("agent", metavar="AGENT.py[:NAME]")
@click.option(
    "--speed", type=_SPEEDS, default=3.0, show_default=True, help="How much faster than in real life people speak."
)
@_no_color
@_json
def dev(*, agent: str, speed: float, no_color: bool, as_json: bool) -> int:
    """Talk to the agent in a file: you type as the caller.

    The file defines an AgentRunner, or just `async def handle_call(ctx)`. Saving it reloads it: the next call has the
    new code. Ctrl-C while the agent speaks cuts in; /help lists what else you can do. From a pipe, each line is one
    turn, and the end of the input hangs up.
    """
    with extras():
        from unpod_cli.dev.run import run_dev  # noqa: PLC0415 - slow to import
    return run_dev(agent, speed=speed, no_color=no_color, as_json=as_json)


@click.command(short_help="Run an agent's runner.", epilog=_RUN_EXAMPLE)
@click.argument("target", metavar="MODULE:RUNNER")
@click.option(
    "--workers", type=_WORKERS, help="Run so many processes, and start one again that dies; else this process runs it."
)
def run(*, target: str, workers: int | None) -> int | None:
    """Run the AgentRunner that a module defines.

    Its settings come from the environment (UNPOD_API_KEY, UNPOD_NATS_URL, ...), as with runner.start(). SIGTERM and
    Ctrl-C drain it. With --workers, a call whose process dies goes on in another; what the runner is made with
    (max_sessions, permits_per_minute) holds for each process.
    """
    from unpod.logs import enable_logging  # noqa: PLC0415 - the rest is slow to import
    from unpod_cli.agent_file import AgentProblem, load_runner  # noqa: PLC0415

    sys.path.insert(0, str(Path.cwd()))
    try:
        runner = load_runner(target)
    except AgentProblem as problem:
        raise Failure(str(problem), status=USAGE) from None
    enable_logging(_log_level())
    if workers is not None:
        from unpod_cli.workers import run_workers  # noqa: PLC0415

        return run_workers(target, workers, runner._configuration())  # noqa: SLF001 - where its workers will be
    runner.start()
    return None


@click.command(short_help="Run a bridge, which carries the runners' calls.", epilog=_BRIDGE_EXAMPLE)
@click.option("--nats-url", metavar="URL", help="The NATS server of the runners; else UNPOD_NATS_URL or NATS_URL.")
@click.option("--orchestrator-url", metavar="URL", help="Where to register; else UNPOD_ORCHESTRATOR_URL.")
@click.option("--health-port", type=_PORTS, help="Answer /healthz and /readyz there; else UNPOD_HEALTH_PORT.")
def bridge(*, nats_url: str | None, orchestrator_url: str | None, health_port: int | None) -> int:
    """Run a bridge: it registers the runners' agents and carries their calls.

    It needs UNPOD_API_KEY. SIGTERM and Ctrl-C drain it: it ends with its last call.
    """
    from unpod.event_loop import run_main  # noqa: PLC0415 - slow to import
    from unpod.logs import enable_logging  # noqa: PLC0415
    from unpod_bridge.app import run_bridge  # noqa: PLC0415
    from unpod_bridge.config import BridgeConfig  # noqa: PLC0415

    config = BridgeConfig.from_env(base_url=orchestrator_url, nats_url=nats_url, port=health_port)
    enable_logging(config.log_level)
    return run_main(run_bridge(config))


@click.group(short_help="Derive metrics from the log.", epilog=_CONSUME_EXAMPLE)
def consume() -> None:
    """Derive something from the log of the calls; the calls do not notice."""


@consume.command(short_help="Metrics: OTLP, and a Prometheus endpoint.", epilog=_METRICS_EXAMPLE)
@click.option("--nats-url", metavar="URL", help="The NATS server of the runners; else UNPOD_NATS_URL or NATS_URL.")
@click.option("--from-start", is_flag=True, help="Print the metrics of all that is in the log, and exit.")
@click.option("--since", metavar="TIME", help="The same, of what was stored since, as 2026-01-31T08:00:00Z.")
@click.option("--session", metavar="ID", help="The same, of one session.")
def metrics(*, nats_url: str | None, from_start: bool, since: str | None, session: str | None) -> int:
    """Keep the metrics of all calls: sent by OTLP where OTEL_EXPORTER_OTLP_ENDPOINT says so, and served for Prometheus.

    Stopped or killed and started again it goes on where it was, and counts nothing twice. Run one at a time. With
    --from-start, --since or --session it prints what the log gives now, as text for Prometheus, and changes nothing.
    """
    from unpod.event_loop import run_main  # noqa: PLC0415 - slow to import
    from unpod.logs import enable_logging  # noqa: PLC0415

    with extras():
        from unpod_consumers.config import ConsumerConfig  # noqa: PLC0415
        from unpod_consumers.metrics import rewind_metrics, run_metrics  # noqa: PLC0415

    config = ConsumerConfig.from_env(nats_url=nats_url)
    enable_logging(config.log_level)
    if not (from_start or since or session):
        return run_main(run_metrics(config))
    click.echo(run_main(rewind_metrics(config, since=_moment(since), session=session or "")), nl=False)
    return 0


@consume.command(short_help="Traces: one per call, by OTLP.", epilog=_TRACES_EXAMPLE)
@click.option("--nats-url", metavar="URL", help="The NATS server of the runners; else UNPOD_NATS_URL or NATS_URL.")
@click.option("--from-start", is_flag=True, help="Send the traces of all calls that are in the log, and exit.")
@click.option("--since", metavar="TIME", help="The same, of calls that began since, as 2026-01-31T08:00:00Z.")
@click.option("--session", metavar="ID", help="The same, of one call.")
def traces(*, nats_url: str | None, from_start: bool, since: str | None, session: str | None) -> int:
    """Send a trace of each call by OTLP, as OTEL_EXPORTER_OTLP_ENDPOINT and its kin say; else to this machine.

    Run as many as you like: they share the work. Ids are derived, so what is sent twice has the same ids. With
    --from-start, --since or --session the traces are sent again, and the others that run do not notice.
    """
    from unpod.event_loop import run_main  # noqa: PLC0415 - slow to import
    from unpod.logs import enable_logging  # noqa: PLC0415

    with extras():
        from unpod_consumers.config import ConsumerConfig  # noqa: PLC0415
        from unpod_consumers.traces import rewind_traces, run_traces  # noqa: PLC0415

    config = ConsumerConfig.from_env(nats_url=nats_url)
    enable_logging(config.log_level)
    if not (from_start or since or session):
        return run_main(run_traces(config))
    calls, spans = run_main(rewind_traces(config, since=_moment(since), session=session or ""))
    click.echo(f"sent {spans} spans of {calls} calls")
    return 0


@consume.command(short_help="Analytics: rows in Parquet files.", epilog=_ANALYTICS_EXAMPLE)
@click.option("--nats-url", metavar="URL", help="The NATS server of the runners; else UNPOD_NATS_URL or NATS_URL.")
@click.option(
    "--directory",
    default="analytics",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the files go.",
)
@click.option(
    "--every",
    default=60.0,
    show_default=True,
    type=click.FloatRange(min=0.1),
    metavar="SECONDS",
    help="How long rows are gathered for a file.",
)
@click.option("--from-start", is_flag=True, help="Write the rows of all that is in the log, and exit.")
@click.option("--since", metavar="TIME", help="The same, of what was stored since, as 2026-01-31T08:00:00Z.")
@click.option("--session", metavar="ID", help="The same, of one session.")
def analytics(
    *, nats_url: str | None, directory: Path, every: float, from_start: bool, since: str | None, session: str | None
) -> int:
    """Write a row for each call, turn and tool call into Parquet files, by day: see docs/reference/analytics.md.

    Stopped or killed and started again it goes on where it was: each row is there once. Run one at a time. With
    --from-start, --since or --session it writes what the log gives now, into an empty directory, and exits.
    """
    import asyncio  # noqa: PLC0415 - slow to import

    from unpod.logs import enable_logging  # noqa: PLC0415

    with extras():
        from unpod_consumers.analytics import rewind_analytics, run_analytics  # noqa: PLC0415
        from unpod_consumers.config import ConsumerConfig  # noqa: PLC0415

    config = ConsumerConfig.from_env(nats_url=nats_url)
    enable_logging(config.log_level)
    if not (from_start or since or session):
        return asyncio.run(run_analytics(config, directory, every))
    rows = asyncio.run(rewind_analytics(config, directory, since=_moment(since), session=session or ""))
    click.echo(f"wrote {rows} rows below {directory}")
    return 0


def _moment(text: str | None) -> float:
    """Return seconds since 1970 of an RFC 3339 time, 0 of none."""
    from unpod.core.envelope import parse_time  # noqa: PLC0415
    from unpod.errors import ProtocolViolation  # noqa: PLC0415

    try:
        return parse_time(text) if text else 0.0
    except ProtocolViolation:
        raise Failure(f"--since {text!r} is no time: give one as 2026-01-31T08:00:00Z", status=USAGE) from None


@click.command(short_help="Run the local orchestrator, for development.", epilog=_ORCHESTRATOR_EXAMPLE)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--advertise", metavar="HOST", help="The host under which bridges reach it, where that is another.")
@click.option("--port", type=_PORTS, default=9000, show_default=True, help="The port; 0 takes a free one.")
@click.option("--key", default="sk_local", show_default=True, help="The API key that it accepts.")
@click.option(
    "--agent-secret",
    metavar="TEXT",
    envvar="UNPOD_AGENT_SECRET",
    help="Signs the URLs of bridges that serve; else UNPOD_AGENT_SECRET.",
)
@click.option("--speed", type=_SPEEDS, default=1.0, show_default=True, help="How much faster than real speech is.")
@_json
def orchestrator(
    *, host: str, advertise: str | None, port: int, key: str, agent_secret: str | None, speed: float, as_json: bool
) -> None:
    """Run the local orchestrator with its speech worker: the other side, for development.

    It prints the environment that points a runner at it, and serves until Ctrl-C. Calls are placed over HTTP.
    """
    with extras():
        from unpod_cli.orchestrator import serve  # noqa: PLC0415 - slow to import
    serve(host=host, advertise=advertise, port=port, key=key, agent_secret=agent_secret, speed=speed, as_json=as_json)


def _log_level() -> str:
    """Return what `UNPOD_LOG_LEVEL` says, else INFO; the runner complains itself where it is no level."""
    import os  # noqa: PLC0415

    return os.environ.get("UNPOD_LOG_LEVEL", "").strip().upper() or "INFO"


ALL: Final = (demo, dev, run, bridge, consume, orchestrator)
