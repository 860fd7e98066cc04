"""`unpod dev` from start to end: looks at the file, starts the system, and lets the user talk."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from rich.console import Console
from rich.text import Text

from unpod_cli import loop
from unpod_cli.agent_file import AgentProblem, check_file, readable, split_target
from unpod_cli.console import make_console
from unpod_cli.dev import piped
from unpod_cli.dev.dev_session import DevSession
from unpod_cli.dev.screen import JsonLines, Lines, Screen
from unpod_cli.failure import USAGE, Failure
from unpod_cli.stack import Stack

Talk = Callable[[DevSession], Awaitable[int]]


def run_dev(target: str, *, speed: float, no_color: bool, as_json: bool) -> int:
    """Talk to the agent that `target` names; return the exit status.

    Raises:
        Failure: the file cannot be used, or the system does not come up.
    """
    path, _ = split_target(target)
    try:
        check_file(path)
    except AgentProblem as problem:
        raise Failure(str(problem), status=USAGE) from None
    console = make_console(no_color=no_color)
    terminal = sys.stdin.isatty() and sys.stdout.isatty() and not as_json
    return loop.run(lambda: _dev(target, console, speed, as_json=as_json, terminal=terminal))


async def _dev(target: str, console: Console, speed: float, *, as_json: bool, terminal: bool) -> int:
    screen, talk = _in_terminal(console) if terminal else _in_lines(console, as_json=as_json)
    with tempfile.TemporaryDirectory(prefix="unpod-dev-") as folder:
        async with Stack(Path(folder), speed=speed, said=screen.wrote) as stack:
            session = DevSession(stack, target, screen, restart=terminal)
            try:
                await session.open()
                if terminal:
                    _welcome(console, session)
                return await loop.unless(session.failed(), talk(session))
            finally:
                await session.close()


def _in_terminal(console: Console) -> tuple[Screen, Talk]:
    from unpod_cli.dev.terminal import Terminal  # noqa: PLC0415 - slow to import, and of no use to a pipe

    screen = Terminal(console)
    return screen, screen.talk


def _in_lines(console: Console, *, as_json: bool) -> tuple[Screen, Talk]:
    screen = JsonLines(console) if as_json else Lines(console)
    return screen, lambda session: piped.talk(session, screen)


def _welcome(console: Console, session: DevSession) -> None:
    console.print(Text(f"unpod dev {readable(session.file)}", style="bold"))
    console.print(Text("You are the caller: type to speak, Ctrl-C cuts in, /help lists the rest.", style="dim"))
