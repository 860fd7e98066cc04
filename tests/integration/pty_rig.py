"""Commands as a user runs them: as processes of their own, with pipes or in a terminal."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import struct
import sys
import termios
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple, Self

UNPOD: Final = (sys.executable, "-m", "unpod_cli")

_ESCAPES: Final = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07]*\x07|[@-Z\\-_=>])")
_PATIENCE_S: Final = 25.0
_ROWS_AND_COLUMNS: Final = struct.pack("HHHH", 40, 100, 0, 0)


class Finished(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


def environment(**changes: str) -> dict[str, str]:
    """Return an environment in which nothing points at another system, or tells of another terminal."""
    ours = ("UNPOD_", "NATS_", "COLUMNS", "LINES", "NO_COLOR")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return kept | {"PROMPT_TOOLKIT_NO_CPR": "1", "TERM": "xterm-256color"} | changes


async def run(*arguments: str, given: str = "", cwd: Path | None = None, env: dict[str, str] | None = None) -> Finished:
    """Run `unpod` to its end, with `given` as its input."""
    process = await asyncio.create_subprocess_exec(
        *UNPOD,
        *arguments,
        cwd=cwd,
        env=env or environment(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate(given.encode())
    assert process.returncode is not None
    return Finished(process.returncode, out.decode(), err.decode())


class Piped:
    """A command that goes on while we look at its output."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.seen = ""

    @classmethod
    async def start(cls, *arguments: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> Self:
        """Start `unpod`; stderr comes with stdout."""
        return cls(
            await asyncio.create_subprocess_exec(
                *UNPOD,
                *arguments,
                cwd=cwd,
                env=env or environment(),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
        )

    async def until(self, text: str) -> str:
        """Return all output so far, once `text` stands in it."""
        assert self.process.stdout is not None
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while text not in self.seen:
                    data = await self.process.stdout.read(65_536)
                    assert data, f"{text!r} never came:\n{self.seen}"
                    self.seen += data.decode()
        except TimeoutError:
            raise AssertionError(f"{text!r} never came:\n{self.seen}") from None
        return self.seen

    def type(self, line: str) -> None:
        """Give it a line of input."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())

    def leave(self) -> None:
        """Read no more, as `head` does."""
        transport = self.process._transport.get_pipe_transport(1)  # type: ignore[attr-defined]
        transport.close()

    async def end(self) -> Finished:
        """Close its input; return how it ends."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return await self.ended()

    async def ended(self) -> Finished:
        """Return how it ended."""
        assert self.process.stdout is not None
        async with asyncio.timeout(_PATIENCE_S):
            self.seen += (await self.process.stdout.read()).decode()
            return Finished(await self.process.wait(), self.seen, "")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.communicate()


class Terminal:
    """A command in a terminal: what it shows (`raw`, and `text` without escapes), and keys to press."""

    def __init__(self) -> None:
        self.text = ""
        self._from = 0
        self.raw = b""
        self._news = asyncio.Event()
        self._master = -1
        self._process: asyncio.subprocess.Process | None = None

    @classmethod
    async def start(cls, *arguments: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> Self:
        """Start `unpod` in a terminal of 40 rows and 100 columns."""
        self = cls()
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, _ROWS_AND_COLUMNS)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *UNPOD,
                *arguments,
                cwd=cwd,
                env=env or environment(),
                stdin=slave,
                stdout=slave,
                stderr=slave,
                start_new_session=True,
            )
        finally:
            os.close(slave)
        os.set_blocking(self._master, False)
        asyncio.get_running_loop().add_reader(self._master, self._read)
        return self

    @property
    def pid(self) -> int:
        """The command's process id."""
        assert self._process is not None
        return self._process.pid

    def _read(self) -> None:
        try:
            data = os.read(self._master, 65_536)
        except OSError:  # Linux says so where others say end of file
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._master)
        self.raw += data
        self.text = _ESCAPES.sub("", self.raw.decode("utf-8", "ignore"))
        self._news.set()

    async def until(self, text: str) -> str:
        """Return what was shown since the last `until`, once `text` stands in it."""
        at = -1
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while (at := self.text.find(text, self._from)) < 0:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"{text!r} never came:\n{self.text[self._from :]}") from None
        shown = self.text[self._from : at + len(text)]
        self._from = at + len(text)
        return shown

    def press(self, keys: str) -> None:
        """Press keys; carriage return is enter."""
        os.write(self._master, keys.encode())

    def say(self, line: str) -> None:
        """Type a line and press enter."""
        self.press(f"{line}\r")

    async def ended(self) -> int:
        """Return its exit status, once it has ended."""
        assert self._process is not None
        async with asyncio.timeout(_PATIENCE_S):
            return await self._process.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        asyncio.get_running_loop().remove_reader(self._master)
        os.close(self._master)


def left_in(folder: Path) -> list[str]:
    """Return what is in a folder."""
    return sorted(entry.name for entry in folder.iterdir())


def descendants(pid: int) -> set[int]:
    """Return the processes below one, from /proc."""
    below: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                below.setdefault(parent, []).append(int(entry.name))
    found: set[int] = set()
    todo = [pid]
    while todo:
        children = below.get(todo.pop(), [])
        found.update(children)
        todo.extend(children)
    return found


async def gone(pids: set[int]) -> None:
    """Return when none of these processes is there any more."""
    async with asyncio.timeout(_PATIENCE_S):
        await asyncio.gather(*map(_gone, pids))


async def _gone(pid: int) -> None:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(handle, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)


def alive(pids: set[int]) -> set[int]:
    """Return those that are still there and no zombies."""
    found = set()
    for pid in pids:
        with suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.add(pid)
    return found
