"""How a command fails: one line on stderr that says what to do, and an exit status."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import click

FAILED: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 128 + signal.SIGINT
TERMINATED: Final = 128 + signal.SIGTERM

_EXTRAS: Final = {
    "aiohttp": "dev",
    "prompt_toolkit": "dev",
    "watchfiles": "dev",
    "openai": "openai",
    "opentelemetry": "consumers",
    "prometheus_client": "consumers",
    "pyarrow": "analytics",
}


class Failure(click.ClickException):
    """The command cannot go on; the message is one line, for people."""

    def __init__(self, message: str, *, status: int = FAILED) -> None:
        super().__init__(" ".join(message.split()))
        self.status = status


@contextmanager
def extras() -> Iterator[None]:
    """Within the block, a package that is not installed becomes one line that says what to install.

    Raises:
        Failure: the package is not there.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        raise Failure(f'{package} is not installed: pip install "unpod[{_EXTRAS[package]}]"') from None
