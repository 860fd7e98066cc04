"""`unpod dev` in a terminal: a prompt below, what happens above it, and what is being said in between."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Final

from prompt_toolkit import PromptSession, print_formatted_text
from prompt_toolkit.formatted_text import ANSI, StyleAndTextTuples
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.renderer import print_formatted_text as print_to
from prompt_toolkit.styles import Style
from rich.console import Console, RenderableType

from unpod_cli.dev.dev_session import DevSession
from unpod_cli.dev.screen import LABEL_WIDTH, note_line, process_line, rendered
from unpod_cli.dev.talk import NO_CALL, Commands
from unpod_cli.transcript import Item, Speaking

_STYLE: Final = Style.from_dict(
    {
        "you": "ansigreen",
        "agent": "ansicyan",
        "more": "ansibrightblack",
        "bottom-toolbar": "noreverse ansibrightblack",
    }
)
_PLAIN: Final = Style.from_dict({"bottom-toolbar": "noreverse"})


class Terminal:
    """Screen and keyboard. What is being said is part of the prompt, until it has been said."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._style = _PLAIN if console.no_color else _STYLE
        self._live = ""
        self._armed = False
        self._session: DevSession | None = None
        self._lines: asyncio.Queue[str] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._prompt: PromptSession[str] = PromptSession(
            message=self._message,
            bottom_toolbar=self._toolbar,
            key_bindings=self._keys(),
            history=InMemoryHistory(),
            style=self._style,
            erase_when_done=True,
            enable_suspend=True,
        )

    # --------------------------------------------------------------------------------------------------------- screen

    def happened(self, item: Item) -> None:
        """Show what happened on the call."""
        if isinstance(item, Speaking):
            self._live = item.text if item.who == "agent" else ""
            self._prompt.app.invalidate()
            return
        self._live = ""
        line = rendered(item)
        if line is not None:
            self._print(line)

    def wrote(self, who: str, line: str) -> None:
        """Show a line that a process wrote."""
        self._print(process_line(who, line), soft_wrap=True)

    def note(self, text: str, *, bad: bool = False) -> None:
        """Say something about this command itself."""
        self._print(note_line(text, bad=bad))

    def show(self, what: RenderableType, data: object) -> None:  # noqa: ARG002 - for people
        """Show something that was asked for."""
        self._print(what)

    def _print(self, what: RenderableType, *, soft_wrap: bool = False) -> None:
        with self._console.capture() as captured:
            self._console.print(what, soft_wrap=soft_wrap)
        app = self._prompt.app
        if not app.is_running:
            print_formatted_text(ANSI(captured.get()), end="")
            return
        # What prompt_toolkit has for this takes the terminal out of raw mode meanwhile: a Ctrl-D would get lost.
        app.renderer.erase()
        print_to(app.output, ANSI(captured.get()), self._style)
        app.renderer.request_absolute_cursor_position()
        app.invalidate()

    # ------------------------------------------------------------------------------------------------------- keyboard

    async def talk(self, session: DevSession) -> int:
        """Let the user talk until they leave; return the exit status."""
        self._session = session
        taking = asyncio.create_task(self._take_lines(session))
        try:
            # One prompt for the whole time: between two, a Ctrl-C would not reach us as a key.
            await self._prompt.prompt_async()
        except EOFError:
            return 0
        finally:
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)
        return 0

    async def _take_lines(self, session: DevSession) -> None:
        commands = Commands(session, self)
        await session.place_call()
        while True:
            line = (await self._lines.get()).strip()
            if line.startswith("/"):
                if not await commands.take(line):
                    self._leave()
            elif line and not await session.say(line):
                self.note(NO_CALL)

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("enter")
        def on_enter(event: KeyPressEvent) -> None:
            self._armed = False
            self._lines.put_nowait(event.current_buffer.text)
            event.current_buffer.reset(append_to_history=True)

        @keys.add("c-c")
        @keys.add("<sigint>")
        def on_interrupt(event: KeyPressEvent) -> None:
            armed, self._armed = self._armed, False
            if self._session is not None and self._session.busy:
                self._begin(self._session.cut_in())
            elif event.current_buffer.text:
                event.current_buffer.reset()
            elif armed:
                self._leave()
            else:
                self._armed = True
                self.note("Ctrl-C again leaves; /help lists what you can do")

        return keys

    def _leave(self) -> None:
        if self._prompt.app.is_running:
            self._prompt.app.exit(exception=EOFError)

    def _message(self) -> StyleAndTextTuples:
        parts: StyleAndTextTuples = []
        if self._live:
            label = "agent".ljust(LABEL_WIDTH + 1)
            parts += [("class:agent", label), ("", self._live), ("class:more", " …\n")]
        return [*parts, ("class:you", "you".ljust(LABEL_WIDTH - 1)), ("class:you", "> ")]

    def _toolbar(self) -> str:
        session = self._session
        if session is None or session.call is None:
            return ""
        if session.call.over:
            return f" {session.file.name} · no call: /call places one, /quit leaves"
        doing = f"{session.call.state}: Ctrl-C cuts in" if session.busy else "listening"
        return f" {session.file.name} · {doing} · /help"

    def _begin(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
