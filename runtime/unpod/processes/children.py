"""Child processes that never outlive their parent, even where the parent is killed with SIGKILL.

On Linux a child asks the kernel to be killed when the *thread* that started it ends, so all are started by one thread
that lives as long as the process. A `preexec_fn` could do it without a guard, but runs Python between fork and exec
of a process with threads, which may deadlock.
"""

from __future__ import annotations

import asyncio
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from unpod.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_GUARD: Final = str(Path(__file__).with_name("_guard.py"))
_KILLED_S: Final = 5.0
_LINUX: Final = sys.platform.startswith("linux")


_Started: TypeAlias = "tuple[subprocess.Popen[bytes], int]"
"""The process, and the writing end of the pipe that its guard watches."""


class _Starter:
    """The thread that starts the children; a daemon, so it ends with the process and never before."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Callable[[], _Started], Future[_Started]]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._pid = 0

    def run(self, job: Callable[[], _Started]) -> Future[_Started]:
        """Have `job` done by the thread."""
        with self._lock:
            if self._pid != os.getpid():  # the first use, or the first after a fork, which leaves threads behind
                self._pid = os.getpid()
                threading.Thread(target=self._work, name="unpod-children", daemon=True).start()
        future: Future[_Started] = Future()
        self._jobs.put((job, future))
        return future

    def _work(self) -> None:
        while True:
            job, future = self._jobs.get()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(job())
            except BaseException as error:  # noqa: BLE001 - it belongs to whoever asked
                future.set_exception(error)


_starter = _Starter()


class ChildProcess:
    """A running child; `pid` is its own, `returncode` None while it runs."""

    def __init__(self, process: subprocess.Popen[bytes], pipe: int) -> None:
        self._process = process
        self._pipe = pipe
        self._lock = threading.Lock()
        self._loop = asyncio.get_running_loop()
        self._exited: asyncio.Future[int] = self._loop.create_future()
        self.pid = process.pid
        threading.Thread(target=self._reap, name=f"unpod-child-{self.pid}", daemon=True).start()

    @property
    def returncode(self) -> int | None:
        """Its exit status, negative for a signal, or None while it runs."""
        return self._process.returncode

    def _reap(self) -> None:
        code = self._process.wait()
        self._release()
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._on_exit, code)

    def _on_exit(self, code: int) -> None:
        if not self._exited.done():
            self._exited.set_result(code)

    async def wait(self) -> int:
        """Return its exit status once it has ended."""
        return await asyncio.shield(self._exited)

    def send_signal(self, number: int) -> None:
        """Send a signal; one to a child that has ended is ignored."""
        self._process.send_signal(number)

    def terminate(self) -> None:
        """Ask it to end (SIGTERM)."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it (SIGKILL)."""
        if _LINUX:
            self.send_signal(signal.SIGKILL)
        else:
            self._release()  # there our child is the guard, which kills the command when the pipe closes

    def _release(self) -> None:
        with self._lock:
            pipe, self._pipe = self._pipe, -1
        if pipe >= 0:
            os.close(pipe)

    async def stop(self, grace_s: float = 5.0) -> int:
        """End it, with SIGKILL after `grace_s`; return its exit status."""
        self.terminate()
        try:
            async with asyncio.timeout(grace_s):
                return await self.wait()
        except TimeoutError:
            self.kill()
            async with asyncio.timeout(_KILLED_S):
                return await self.wait()


def _absolute(program: str) -> str:
    """Return where a program stands, "" if nowhere; links stay: a virtual environment's python is one."""
    found = shutil.which(program)
    return str(Path(found).absolute()) if found else ""


async def spawn_child(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    output: int | None = None,
    pass_fds: Sequence[int] = (),
) -> ChildProcess:
    """Start `argv` as a child that ends with this process at the latest.

    It has its own process group, so a Ctrl-C reaches only the parent, which ends its children in order. `output` is
    the descriptor for its stdout and stderr; None: ours. `pass_fds` stay open in it.

    Raises:
        ConfigurationError: there is no such program.
    """
    program = _absolute(argv[0])
    if not program:
        raise ConfigurationError(f"{argv[0]!r} cannot be run: no such program")

    def start() -> _Started:
        reading, writing = os.pipe()
        guarded = [sys.executable, "-I", "-S", _GUARD, str(os.getpid()), str(reading), program, *argv[1:]]
        try:
            process = subprocess.Popen(  # noqa: S603 - the caller's command, no shell
                guarded,
                env=None if env is None else dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(reading, *pass_fds),
                start_new_session=True,
            )
        except BaseException:
            os.close(writing)
            raise
        finally:
            os.close(reading)
        return process, writing

    starting = _starter.run(start)
    try:
        return ChildProcess(*await asyncio.wrap_future(starting))
    except asyncio.CancelledError:
        starting.add_done_callback(_discard)
        raise


def _discard(starting: Future[_Started]) -> None:
    """End a child that nobody waits for any more."""
    if not starting.cancelled() and starting.exception() is None:
        process, writing = starting.result()
        process.kill()
        os.close(writing)
        process.wait()
