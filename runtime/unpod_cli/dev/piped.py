"""`unpod dev` with its input from a pipe: each line is a turn, and the end of the input hangs up."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from typing import Final

from unpod_cli.dev.dev_session import DevSession
from unpod_cli.dev.screen import Screen
from unpod_cli.dev.talk import Commands
from unpod_cli.failure import FAILED, Failure
from unpod_orchestrator import CallOverError

_ANSWER_S: Final = 120.0
_GREETING_S: Final = 1.0
"""How long a caller listens whether somebody greets them, before they speak first."""

_BREATH_S: Final = 0.2
"""How long a caller listens whether there is more, before they speak again: what a hook does comes after the reply."""

_STDIN: Final = 0


async def talk(session: DevSession, screen: Screen) -> int:
    """Say every line of the input, each when the one before has been answered; return the exit status.

    Raises:
        Failure: the agent does not answer, or takes no call.
    """
    commands = Commands(session, screen)
    status = 0
    if not await session.place_call():
        return FAILED
    await _listen(session)
    async for line in _lines():
        if line.startswith("/"):
            if not await commands.take(line):
                break
            await _listen(session)
        elif await session.say(line):
            await _answered(session)
        else:
            screen.note(f"not said, for the call is over: {line}", bad=True)
            status = FAILED
    return status


async def _listen(session: DevSession) -> None:
    """Let the agent greet, if it does."""
    call = session.call
    if call is None or call.over or call.turn_id:
        return
    try:
        await call.connected()
        await call.observed(lambda seen: seen.state == "speaking", "a greeting", timeout_s=_GREETING_S)
        await call.silence(_ANSWER_S)
    except (TimeoutError, CallOverError):
        return


async def _answered(session: DevSession) -> None:
    """Return when the agent has said all that it has to say, or the call is over.

    Raises:
        Failure: it says nothing.
    """
    call = session.call
    if call is None:
        return
    try:
        while True:
            await call.silence(_ANSWER_S)
            try:
                await call.observed(lambda _: session.busy, "more", timeout_s=_BREATH_S)
            except TimeoutError:
                return
    except CallOverError:
        return
    except TimeoutError:
        raise Failure(f"the agent has not answered within {_ANSWER_S:g} s") from None


async def _lines() -> AsyncIterator[str]:
    """Yield the lines of stdin that are not empty; it may be a pipe, a file, or a terminal."""
    loop = asyncio.get_running_loop()
    parts: asyncio.Queue[bytes] = asyncio.Queue()

    def read() -> None:
        # No file object: a thread that waits inside one keeps its lock, and Python aborts at exit.
        data = b"?"
        while data:
            try:
                data = os.read(_STDIN, 65_536)
                loop.call_soon_threadsafe(parts.put_nowait, data)
            except (OSError, RuntimeError):  # no stdin, or nobody listens any more
                return

    threading.Thread(target=read, name="unpod-stdin", daemon=True).start()
    rest = b""
    while data := await parts.get():
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if text := line.decode("utf-8", "replace").strip():
                yield text
    if text := rest.decode("utf-8", "replace").strip():
        yield text
