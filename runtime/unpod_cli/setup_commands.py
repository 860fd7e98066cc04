"""The commands that set a fleet up and look whether it is: `streams init`, `streams check`, `doctor`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import click

F = TypeVar("F", bound=Callable[..., object])

_STREAMS_EXAMPLE: Final = """\b
Example:
  unpod streams init --replicas 3
"""
_INIT_EXAMPLE: Final = """\b
Examples:
  unpod streams init --nats-url nats://n1:4222,nats://n2:4222 --replicas 3
  unpod streams init --size 512MiB
"""
_CHECK_EXAMPLE: Final = """\b
Example:
  unpod streams check --replicas 3 --json
"""
_DOCTOR_EXAMPLE: Final = """\b
Examples:
  unpod doctor
  unpod doctor --agent my-agent --json
"""


def _url(command: F) -> F:
    return click.option("--nats-url", metavar="URL", help="The NATS servers; else UNPOD_NATS_URL or NATS_URL.")(command)


def _json(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(command)


def _wanted(command: F) -> F:
    replicas = click.option(
        "--replicas", type=click.Choice(["1", "3", "5"]), help="On how many nodes; else UNPOD_STREAM_REPLICAS, else 1."
    )
    size = click.option("--size", metavar="SIZE", help="How large the log may be; else UNPOD_STREAM_SIZE, else 8GiB.")
    return _url(replicas(size(_json(command))))


@click.group(short_help="Create the streams of a fleet, and check them.", epilog=_STREAMS_EXAMPLE)
def streams() -> None:
    """Create the streams of a fleet, and check them.

    There are two: the log of all calls, and the bridges' job records. Bridges and runners that find none make them by
    themselves; these commands are for choosing their size and replicas, and for roles that may not.
    """


@streams.command(short_help="Create what is missing.", epilog=_INIT_EXAMPLE)
@_wanted
def init(*, nats_url: str | None, replicas: str | None, size: str | None, as_json: bool) -> int:
    """Create the streams that are missing, and say how those that are there differ from what they must be.

    What is there is never changed and never deleted. The exit status is 1 if something differs.
    """
    from unpod_cli.streams import Request, run_streams  # noqa: PLC0415 - slow to import

    return run_streams(Request(nats_url, replicas, size, create=True), as_json=as_json)


@streams.command(short_help="Say what differs.", epilog=_CHECK_EXAMPLE)
@_wanted
def check(*, nats_url: str | None, replicas: str | None, size: str | None, as_json: bool) -> int:
    """Say how the streams differ from what they must be, and what sets that right; change nothing.

    Size and replicas are compared where they are given. The exit status is 1 if something differs or is missing.
    """
    from unpod_cli.streams import Request, run_streams  # noqa: PLC0415 - slow to import

    return run_streams(Request(nats_url, replicas, size, create=False), as_json=as_json)


@click.command(short_help="Find what is wrong with a set-up.", epilog=_DOCTOR_EXAMPLE)
@_url
@click.option("--agent", metavar="ID", help="Whose runners and bridges must be there.")
@_json
def doctor(*, nats_url: str | None, agent: str | None, as_json: bool) -> int:
    """Check everything that can be wrong with a set-up, and say how to mend what is.

    It looks at the settings, the installed extras, the orchestrator, NATS, the streams, the clock, and at which runners
    and bridges are there. It changes nothing. The exit status is 1 if something is wrong; warnings leave it at 0.
    """
    from unpod_cli.doctor import run_doctor  # noqa: PLC0415 - slow to import

    return run_doctor(nats_url=nats_url, agent=agent, as_json=as_json)


ALL: Final = (streams, doctor)
