"""One bridge or runner as a real process, with the signals that a test sends it and what it writes."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

from unpod.processes import ChildProcess, spawn_child

ROOT: Final = Path(__file__).parents[2]
PATIENCE_S: Final = 20.0
_POLL_S: Final = 0.01
_NAME: Final = re.compile(r"\b((?:bridge|runner)-[0-9a-f]{8})\b")


class Process:
    """A child that ends with the test at the latest; `label` is what a report calls it."""

    def __init__(self, label: str, child: ChildProcess, output: Path, environment: Mapping[str, str]) -> None:
        self.label = label
        self.environment = environment
        self.frozen = False
        self._child = child
        self._output = output
        self._id = ""

    def __repr__(self) -> str:
        return f"<{self.label} {self.id or '?'} pid {self.pid}>"

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended, stopped or not."""
        return self._child.returncode is None

    @property
    def text(self) -> str:
        """All that it has written to stdout and stderr."""
        return self._output.read_text(errors="replace")

    @property
    def id(self) -> str:
        """Its name in the log, `runner-…` or `bridge-…`; "" before it has told it."""
        if not self._id:
            found = _NAME.search(self.text)
            self._id = found[1] if found else ""
        return self._id

    @property
    def rss_mb(self) -> float:
        """Its resident memory in MiB."""
        shown = subprocess.run(
            ["ps", "-o", "rss=", "-p", str(self.pid)],  # noqa: S607 - on every machine, not always at the same place
            capture_output=True,
            text=True,
            check=False,
        )
        return int(shown.stdout or 0) / 1024

    # ------------------------------------------------------------------------------------------------------- signals

    async def kill(self) -> int:
        """SIGKILL it; return its exit status once it is gone."""
        self._child.kill()
        return await self.exited()

    def freeze(self) -> None:
        """SIGSTOP it: its sockets stay, and nobody is there."""
        self.frozen = True
        self._child.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT it."""
        self.frozen = False
        self._child.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        """SIGTERM it: it drains."""
        self._child.terminate()

    def ask(self) -> None:
        """SIGUSR2: it tells what it holds, where it is watched (`tests.faults.watched`)."""
        self._child.send_signal(signal.SIGUSR2)

    async def exited(self, within_s: float = PATIENCE_S) -> int:
        """Return its exit status once it has ended."""
        async with asyncio.timeout(within_s):
            return await self._child.wait()

    async def said(self, text: str, within_s: float = PATIENCE_S) -> None:
        """Return once it has written a text."""
        await until(
            lambda: text in self.text or not self.alive,
            f"{self.label} says {text!r}",
            within_s,
            lambda: self.text[-2000:],
        )
        if text not in self.text:
            raise RuntimeError(f"{self!r} has died without saying {text!r}: {self.text[-2000:]}")


async def start(label: str, module: str, output: Path, environment: Mapping[str, str]) -> Process:
    """Start `python -m module` in this repository; of unpod and NATS its environment has only what is given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("UNPOD_", "NATS_", "OTEL_"))}
    with output.open("wb") as file:
        child = await spawn_child(
            [sys.executable, "-m", module], env={**kept, **environment}, cwd=ROOT, output=file.fileno()
        )
    return Process(label, child, output, environment)


async def until(
    holds: Callable[[], bool], awaited: str, within_s: float = PATIENCE_S, otherwise: Callable[[], str] = lambda: ""
) -> None:
    """Return once something holds that nobody tells us about: what another process writes or does."""

    async def look() -> bool:
        return holds()

    await eventually(look, awaited, within_s, otherwise)


async def eventually(
    holds: Callable[[], Awaitable[bool]],
    awaited: str,
    within_s: float = PATIENCE_S,
    otherwise: Callable[[], str] = lambda: "",
) -> None:
    """Return once something holds that has to be asked for, as what stands in the log."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while not await holds():
        if loop.time() > deadline:
            raise TimeoutError(f"waited {within_s:g} s for: {awaited}\n{otherwise()}".rstrip())
        await asyncio.sleep(_POLL_S)
