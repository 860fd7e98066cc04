"""Child processes whose output is read line by line, and which may report to us on a pipe of their own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, Self

from unpod.processes import ChildProcess, spawn_child

LineHandler = Callable[[str], None]

_LONGEST_LINE: Final = 16_384
_LONGEST_REPORT: Final = 1 << 20
_LAST_WORDS_S: Final = 1.0


class _Pipe(asyncio.Protocol):
    """What a child writes, as lines; a longer one than `longest` bytes comes in parts."""

    def __init__(self, on_line: LineHandler, longest: int = _LONGEST_LINE) -> None:
        self._on_line = on_line
        self._longest = longest
        self._rest = b""
        self._transport: asyncio.BaseTransport | None = None
        self.closed = asyncio.Event()
        self._writing = -1

    async def open(self) -> int:
        """Return the descriptor for the child to write to."""
        reading, self._writing = os.pipe()
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.connect_read_pipe(lambda: self, os.fdopen(reading, "rb", 0))
        return self._writing

    def handed_over(self) -> None:
        """The child has its descriptor: ours is closed, so that the end of the child is the end of the pipe."""
        writing, self._writing = self._writing, -1
        if writing >= 0:
            os.close(writing)

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > self._longest:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            self._on_line(line.decode("utf-8", "replace").rstrip("\r"))

    def connection_lost(self, _: Exception | None) -> None:
        if self._rest:
            self._on_line(self._rest.decode("utf-8", "replace"))
            self._rest = b""
        self.closed.set()

    def close(self) -> None:
        """Read no more."""
        self.handed_over()
        if self._transport is not None:
            self._transport.close()


class Process:
    """A child that ends with this process at the latest; `last_line` is the last that it wrote."""

    def __init__(self, on_line: LineHandler) -> None:
        self._tell = on_line
        self._output = _Pipe(self._on_line)
        self._status: _Pipe | None = None
        self._child: ChildProcess | None = None
        self._asked = False
        self.last_line = ""

    @property
    def pid(self) -> int:
        """Its process id."""
        return 0 if self._child is None else self._child.pid

    async def start(
        self, argv: Sequence[str], environment: Mapping[str, str], *, on_status: LineHandler | None = None
    ) -> Self:
        """Start it. With `on_status` it gets a pipe for reports, whose descriptor is appended to `argv`.

        Raises:
            ConfigurationError: there is no such program.
        """
        output = await self._output.open()
        passed: list[int] = []
        if on_status is not None:
            self._status = _Pipe(on_status, _LONGEST_REPORT)
            passed = [await self._status.open()]
        try:
            self._child = await spawn_child([*argv, *map(str, passed)], env=environment, output=output, pass_fds=passed)
        except BaseException:
            self._close()
            raise
        for pipe in self._pipes():
            pipe.handed_over()
        return self

    async def wait(self) -> int:
        """Return its exit status, once it has ended and all that it wrote has been read."""
        if self._child is None:
            return 0
        status = await self._child.wait()
        with suppress(TimeoutError):  # somebody that it has started may have its output still
            async with asyncio.timeout(_LAST_WORDS_S):
                for pipe in self._pipes():
                    await pipe.closed.wait()
        return status

    def terminate(self) -> None:
        """Ask it to end, once: a second request would mean "at once" to a runner."""
        if self._child is not None and not self._asked:
            self._asked = True
            self._child.terminate()

    async def stop(self, grace_s: float) -> int:
        """End it, with SIGKILL after `grace_s`; return its exit status."""
        self.terminate()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    return await self.wait()
            if self._child is not None:
                self._child.kill()
            return await self.wait()
        finally:
            self._close()

    def _pipes(self) -> list[_Pipe]:
        return [self._output] if self._status is None else [self._output, self._status]

    def _on_line(self, line: str) -> None:
        if line.strip():
            self.last_line = line.strip()
        self._tell(line)

    def _close(self) -> None:
        for pipe in self._pipes():
            pipe.close()
