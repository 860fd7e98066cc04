"""What the tests of sessions share: an ear for hooks, and a brain that does what the test tells it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence

from unpod import CallContext, Session
from unpod.adapters.wrapping import DialogMachine
from unpod.runner.call import Entrypoint
from unpod.session.hooks import EVENTS
from unpod.testing.clock import settle

Heard = tuple[str, tuple[object, ...], dict[str, object]]


class Ear:
    """Registers for the events of a session, and keeps what it is told, in order."""

    def __init__(self) -> None:
        self.told: list[Heard] = []
        self.returned: str | None = None
        """What `run()` has returned."""

    def listen(self, session: Session, events: Sequence[str] = tuple(EVENTS)) -> None:
        """Register for `events`."""
        for event in events:
            session.on(event)(self._hook(event))  # type: ignore[call-overload]  # any event

    def _hook(self, event: str) -> Callable[..., None]:
        def hook(*args: object, **kwargs: object) -> None:
            self.told.append((event, args, kwargs))

        return hook

    @property
    def events(self) -> list[str]:
        """The events, in order."""
        return [event for event, _, _ in self.told]

    def args(self, event: str) -> list[tuple[object, ...]]:
        """What the hooks of an event were given, each time."""
        return [args for name, args, _ in self.told if name == event]

    def fields(self, event: str) -> list[dict[str, object]]:
        """What the hooks of an event were given by name, each time."""
        return [kwargs for name, _, kwargs in self.told if name == event]


class Brain:
    """Yields what the test hands it, when it does; `asked`, `marks` and `notes` are what a session told it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.marks: list[str | None] = []
        self.notes: list[str] = []
        self.happened: list[str] = []
        self._pieces: asyncio.Queue[object] = asyncio.Queue()

    async def say(self, *pieces: object) -> None:
        """Yield pieces; an exception is raised."""
        for piece in pieces:
            self._pieces.put_nowait(piece)
        await settle()

    async def finish(self, *pieces: object) -> None:
        """Yield pieces, and be done with the reply."""
        await self.say(*pieces, _END)

    async def stream(self, text: str) -> AsyncGenerator[object, None]:
        """Yield what the test hands in."""
        self.asked.append(text)
        self.happened.append(f"asked {text}")
        try:
            while (piece := await self._pieces.get()) is not _END:
                if isinstance(piece, Exception):
                    raise piece
                yield piece
        finally:
            self.happened.append(f"closed {text}")

    async def turn(self, text: str) -> str:
        """Never called on a call."""
        raise NotImplementedError

    def assist(self, note: str) -> None:
        """Take a note."""
        self.notes.append(note)
        self.happened.append("note")

    def mark_interrupted(self, heard: str | None) -> None:
        """Be told what was heard."""
        self.marks.append(heard)
        self.happened.append("marked")


_END = object()


class Plain:
    """A brain with the required methods alone; answers every text with the same pieces."""

    def __init__(self, *pieces: object) -> None:
        self._pieces = pieces
        self.notes: list[str] = []

    async def stream(self, text: str) -> AsyncGenerator[object, None]:
        """Yield the pieces; an exception is raised."""
        for piece in self._pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    async def turn(self, text: str) -> str:
        """Never called on a call."""
        raise NotImplementedError

    def assist(self, note: str) -> None:
        """Take a note."""
        self.notes.append(note)


def agent(ear: Ear | None = None, brain: DialogMachine | None = None, **chosen: float | str | None) -> Entrypoint:
    """Return an entrypoint that listens, thinks with `brain`, and runs; `chosen` is set on the session."""

    async def handle(ctx: CallContext) -> None:
        session = ctx.session
        session.dialog_machine = brain
        for name, value in chosen.items():
            setattr(session, name, value)
        if ear is not None:
            ear.listen(session)
        reason = await session.run()
        if ear is not None:
            ear.returned = reason

    return handle
