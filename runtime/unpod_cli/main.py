"""The `unpod` command: what there is, and how its errors are told. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

import click

from unpod.errors import ConfigurationError, UnpodError
from unpod_cli import commands
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


for command in commands.ALL:
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status: 0, 1 (failed), 2 (usage), or 128 + the signal that ended it."""
    try:
        status = cli.main(arguments, prog_name="unpod", standalone_mode=False)
    except click.UsageError as error:
        return _complain(f"{error.format_message().rstrip('.')}; see {_path(error)} --help", USAGE)
    except Failure as failure:
        return _complain(failure.message, failure.status)
    except click.ClickException as error:
        return _complain(error.format_message(), FAILED)
    except UnpodError as error:
        return _complain(str(error), USAGE if isinstance(error, ConfigurationError) else FAILED)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has seen enough
        sys.stderr.close()
        return FAILED
    return status if isinstance(status, int) else 0


def _path(error: click.UsageError) -> str:
    return "unpod" if error.ctx is None else error.ctx.command_path


def _complain(message: str, status: int) -> int:
    click.echo(f"Error: {' '.join(message.split())}", err=True)
    return status


def _version() -> str:
    try:
        return version("unpod")
    except PackageNotFoundError:
        return "(from a copy of the sources)"
