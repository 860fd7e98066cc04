"""Writes docs/reference/command-line.md from what the commands say of themselves.

::

    .venv/bin/python tests/docs/command_line.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from unpod_cli.main import cli

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "command-line.md"

HEAD = """\
# The command line

What each command says with `--help`. Data goes to stdout, as JSON with `--json`; everything else goes to stderr.

| exit status | |
| --- | --- |
| 0 | it did what it says |
| 1 | it failed; one line on stderr says why |
| 2 | it was called with something that cannot be: a wrong option, a missing key, a file that does not import |
| 128 + n | signal n ended it |

Settings that are not options come from the [environment](configuration.md).
"""

_WIDTH = 100


def render() -> str:
    """Return the page."""
    settings = {**cli.context_settings, "terminal_width": _WIDTH}
    return "\n".join([HEAD, *sections(cli, cli.context_class(cli, info_name="unpod", **settings))])


def sections(group: click.Group, parent: click.Context) -> Iterator[str]:
    """Yield a part of the page for each command of a group, and for those below it."""
    for name in group.list_commands(parent):
        command = group.commands[name]
        context = command.context_class(command, info_name=name, parent=parent)
        yield f"## `{context.command_path}`\n\n```text\n{command.get_help(context).rstrip()}\n```\n"
        if isinstance(command, click.Group):
            yield from sections(command, context)


if __name__ == "__main__":
    PAGE.write_text(render())
    sys.stdout.write(f"{PAGE.name} is written\n")
