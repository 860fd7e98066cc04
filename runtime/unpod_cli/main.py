"""The `unpod` command: what there is, and how its errors are told. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

import click

from unpod.errors import ConfigurationError, UnpodError
from unpod_cli import commands, session_commands, setup_commands
from unpod_cli.failure import FAILED, INTERRUPTED, USAGE, Failure

_EPILOG = """\b
Try it:
  unpod demo
  unpod dev examples/hello.py
"""


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    invoke_without_command=True,
    epilog=_EPILOG,
)
@click.option("--version", "show_version", is_flag=True, help="Show the version and exit.")
@click.pass_context
def cli(context: click.Context, *, show_version: bool) -> None:
    """Run voice agents whose calls live in a log."""
    if show_version:
        click.echo(f"unpod {_version()}")
    elif context.invoked_subcommand is None:
        click.echo(context.get_help())


for command in (*commands.ALL, *session_commands.ALL, *setup_commands.ALL):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status: 0, 1 (failed), 2 (usage), or 128 + the signal that ended it."""
    try:
        status = cli.main(arguments, prog_name="unpod", standalone_mode=False)
    except (click.ClickException, UnpodError) as error:
        return _complain(error)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has seen enough; what is left of it must not be flushed there
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return status if isinstance(status, int) else 0


def _complain(error: click.ClickException | UnpodError) -> int:
    """Say in one line on stderr what is wrong; return the exit status."""
    message = error.format_message() if isinstance(error, click.ClickException) else str(error)
    status = FAILED
    if isinstance(error, click.UsageError):
        command = "unpod" if error.ctx is None else error.ctx.command_path
        message, status = f"{message.rstrip('.')}; see {command} --help", USAGE
    elif isinstance(error, Failure):
        status = error.status
    elif isinstance(error, ConfigurationError):
        status = USAGE
    click.echo(f"Error: {' '.join(message.split())}", err=True)
    return status


def _version() -> str:
    try:
        return version("unpod")
    except PackageNotFoundError:
        return "(from a copy of the sources)"
