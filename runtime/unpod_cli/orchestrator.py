"""`unpod orchestrator`: serves until it is stopped, and says how a runner finds it."""

from __future__ import annotations

import errno
import json
import logging
import os

import click

from unpod.logs import enable_logging
from unpod_cli import loop
from unpod_cli.failure import INTERRUPTED, TERMINATED, Failure
from unpod_orchestrator import LocalOrchestrator, serve_forever


def serve(
    *, host: str, advertise: str | None, port: int, key: str, agent_secret: str | None, speed: float, as_json: bool
) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Raises:
        Failure: the port is taken, or the address cannot be used.
    """
    enable_logging(os.environ.get("UNPOD_LOG_LEVEL") or logging.INFO)

    def ready(orchestrator: LocalOrchestrator) -> None:
        environment = {"UNPOD_ORCHESTRATOR_URL": orchestrator.url, "UNPOD_API_KEY": key}
        if agent_secret:
            environment["UNPOD_AGENT_SECRET"] = agent_secret
        if as_json:
            click.echo(json.dumps({"port": orchestrator.port, "http_url": orchestrator.http_url, **environment}))
        else:
            for name, value in environment.items():
                click.echo(f"export {name}={value}")

    try:
        loop.run(
            lambda: serve_forever(
                host,
                port,
                advertised_host=advertise,
                api_keys={key},
                platform_tokens={key},  # as newer releases of the Unpod SDK show it
                agent_secret=agent_secret,
                speed=speed,
                on_ready=ready,
            )
        )
    except OSError as error:
        raise Failure(_complaint(error, host, port)) from None
    except (KeyboardInterrupt, SystemExit) as end:
        status = end.code if isinstance(end, SystemExit) else INTERRUPTED
        if status not in {INTERRUPTED, TERMINATED}:
            raise


def _complaint(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is taken: choose another with --port, or --port 0 for a free one"
    if error.errno == errno.EACCES:
        return f"port {port} may not be used: choose one from 1024 on with --port"
    return f"cannot listen on {host}: {error.strerror or error}; choose an address of this machine with --host"
