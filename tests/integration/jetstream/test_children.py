"""Children that never outlive their parent."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.integration.jetstream.servers import until

from unpod.errors import ConfigurationError
from unpod.processes import _guard, spawn_child

PARENT = """
import asyncio, sys
from unpod.processes import spawn_child
async def main():
    child = await spawn_child([sys.executable, "-c", "import time; time.sleep(600)"])
    print(child.pid, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
ANSWERS = """
import signal, time
signal.signal(signal.SIGUSR1, lambda *_: print("alive", flush=True))
print("ready", flush=True)
while True: time.sleep(600)
"""
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_a_child_dies_with_a_parent_that_is_killed(directory: Path) -> None:
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", PARENT, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    assert runs(pid)
    parent.kill()
    await parent.wait()
    await until(lambda: not runs(pid), 2)


async def test_where_the_kernel_cannot_be_asked_a_guard_watches(directory: Path) -> None:
    # What other systems than Linux do.
    script = "import sys; from unpod.processes import _guard; sys.exit(_guard.watch(int(sys.argv[1]), sys.argv[2:]))"
    reading, writing = os.pipe()
    show = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    guard = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script, str(reading), sys.executable, "-c", show),
        stdout=asyncio.subprocess.PIPE,
        pass_fds=(reading,),
    )
    os.close(reading)
    assert guard.stdout is not None
    pid = int(await guard.stdout.readline())
    assert runs(pid)
    os.close(writing)  # what the kernel does when the parent is gone
    await guard.wait()
    assert not runs(pid)


def test_a_parent_that_is_gone_already_gets_no_child() -> None:
    reading, writing = os.pipe()
    guard = [sys.executable, "-I", "-S", _guard.__file__, "1", str(reading), "/bin/echo", "alive"]
    done = subprocess.run(guard, stdout=subprocess.PIPE, pass_fds=(reading,), check=False)
    os.close(reading)
    os.close(writing)
    assert (done.returncode, done.stdout) == (1, b"")


async def test_a_thread_that_ends_takes_no_child_with_it(directory: Path) -> None:
    # The kernel kills a child when the thread that started it ends, whatever becomes of the process.
    children = []
    out = directory / "out"

    async def start() -> None:
        with out.open("wb") as output:
            children.append(await spawn_child([sys.executable, "-c", ANSWERS], output=output.fileno()))
        await until(lambda: out.read_text() == "ready\n")

    thread = threading.Thread(target=lambda: asyncio.run(start()))
    thread.start()
    await asyncio.to_thread(thread.join)
    [child] = children
    child.send_signal(signal.SIGUSR1)
    await until(lambda: out.read_text() == "ready\nalive\n")
    child.kill()
    await until(lambda: child.returncode is not None)


async def test_exit_status_and_environment(directory: Path) -> None:
    with (directory / "out").open("wb") as output:
        argv = [sys.executable, "-c", "import os, sys; print(os.environ['X']); sys.exit(7)"]
        child = await spawn_child(argv, env={"X": "y"}, cwd=directory, output=output.fileno())
        assert await child.wait() == 7
    assert child.returncode == 7
    assert (directory / "out").read_text() == "y\n"


async def test_stop_asks_first_and_kills_later(directory: Path) -> None:
    polite = await spawn_child(SLEEP)
    assert await polite.stop() == -signal.SIGTERM
    out = directory / "out"
    with out.open("wb") as output:
        deaf = await spawn_child([sys.executable, "-c", DEAF], output=output.fileno())
    await until(lambda: out.read_text() == "ready\n")
    assert await deaf.stop(0.05) == -signal.SIGKILL
    assert await deaf.stop() == -signal.SIGKILL  # and once more harms nobody


async def test_a_ctrl_c_in_the_terminal_does_not_reach_it(directory: Path) -> None:
    child = await spawn_child(SLEEP)
    assert os.getpgid(child.pid) != os.getpgid(0)
    await child.stop()


async def test_a_start_that_is_given_up_leaves_nothing_running(directory: Path) -> None:
    mark = directory / "mark"
    code = f"import os, time; open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    starting = asyncio.ensure_future(spawn_child([sys.executable, "-c", code]))
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await (await spawn_child([sys.executable, "-c", ""])).wait()  # by now the one before it has been seen to
    assert not mark.exists() or not mark.read_text() or not runs(int(mark.read_text()))


async def test_no_such_program() -> None:
    with pytest.raises(ConfigurationError, match="no-such-program"):
        await spawn_child(["no-such-program"])
