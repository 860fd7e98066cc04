"""SIGTERM and SIGINT, while a runner runs: heard on its event loop, and given back afterwards."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class _Listener:
    """One runner's handler for one signal; several in a process hear it one after the other."""

    def __init__(self, number: int, heard: Callable[[int], None], raw: Callable[[int], None]) -> None:
        self._number = number
        self._heard: Callable[[int], None] | None = heard
        self._raw = raw
        self._loop = asyncio.get_running_loop()
        self._before = signal.getsignal(number)
        signal.signal(number, self)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._heard is not None:
            self._raw(number)
            self._loop.call_soon_threadsafe(self._heard, number)
        if isinstance(self._before, _Listener):
            self._before(number, frame)

    def close(self) -> None:
        """Hear nothing more, and give the signal back to who had it before."""
        self._heard = None
        current = signal.getsignal(self._number)
        while isinstance(current, _Listener) and current.closed:
            current = current.before
            signal.signal(self._number, current if current is not None else signal.SIG_DFL)

    @property
    def closed(self) -> bool:
        """Whether this one hears nothing more."""
        return self._heard is None

    @property
    def before(self) -> Callable[[int, FrameType | None], object] | int | None:
        """Who had the signal before."""
        return self._before


@contextmanager
def listening(heard: Callable[[int], None], raw: Callable[[int], None]) -> Iterator[None]:
    """Within the block, call `heard(number)` on the running loop for each signal; outside the main thread do nothing.

    `raw(number)` is called before, where the signal strikes: even while something blocks the loop.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    listeners = [_Listener(number, heard, raw) for number in SIGNALS]
    try:
        yield
    finally:
        for listener in listeners:
            listener.close()
