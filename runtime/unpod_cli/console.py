"""Where output goes: rich, in at most 100 columns, in plain text where nobody wants colours."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper
from typing import Final, TextIO

from rich.console import Console

WIDEST: Final = 100


class Out(Console):
    """A console whose reader may leave: what comes then is not shown, and the command goes on."""

    def on_broken_pipe(self) -> None:
        """Show nothing more."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def make_console(*, no_color: bool = False, file: TextIO | None = None) -> Out:
    """Return a console on stdout; without a terminal it is `WIDEST` columns wide, unless COLUMNS says otherwise."""
    plain = no_color or bool(os.environ.get("NO_COLOR"))
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show a sign must not end the command
    console = Out(file=file or sys.stdout, highlight=False, no_color=plain, markup=False, emoji=False)
    if console.is_terminal:
        console.width = min(console.width, WIDEST)
    elif not os.environ.get("COLUMNS", "").isdigit():
        console.width = WIDEST
    return console
