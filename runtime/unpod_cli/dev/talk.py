"""What a typed line does: a text is said, a line that begins with a slash is a command."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from unpod_cli.dev.dev_session import DevSession
from unpod_cli.dev.screen import Screen
from unpod_cli.layout import facts

HELP: Final = (
    ("type a line", "say it, as the caller"),
    ("Ctrl-C", "cut in while the agent speaks; twice while it is silent leaves"),
    ("/hangup", "hang up"),
    ("/call", "place another call"),
    ("/log", "show the event log of the call"),
    ("/metrics", "show the metrics of the call"),
    ("/help", "show this"),
    ("/quit", "leave; Ctrl-D does, too"),
)

NO_CALL: Final = "there is no call: /call places one"


class Commands:
    """The slash commands."""

    def __init__(self, session: DevSession, screen: Screen) -> None:
        self._session = session
        self._screen = screen
        self._verbs: dict[str, Callable[[], Awaitable[object]]] = {
            "/hangup": self._hang_up,
            "/call": session.place_call,
            "/log": session.show_log,
            "/metrics": session.show_metrics,
            "/help": self._help,
        }

    async def take(self, line: str) -> bool:
        """Carry out a command; return whether to go on."""
        if line in {"/quit", "/exit"}:
            return False
        verb = self._verbs.get(line)
        if verb is None:
            self._screen.note(f"there is no command {line}; /help lists them", bad=True)
        else:
            await verb()
        return True

    async def _hang_up(self) -> None:
        if not await self._session.hang_up():
            self._screen.note(NO_CALL)

    async def _help(self) -> None:
        self._screen.show(facts(*HELP), dict(HELP))
