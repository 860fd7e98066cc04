"""Runs in a child's place before the child: makes sure that the child never outlives its parent. Stdlib only.

Arguments: the parent's pid, the descriptor of a pipe whose writing end the parent keeps, and the command. On Linux the
kernel is told to kill this process when the thread that started it ends, and it becomes the command. Elsewhere it
stays, starts the command, and kills it when the pipe says that the parent is gone.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading

_PR_SET_PDEATHSIG = 1
_LINUX: bool = sys.platform.startswith("linux")


def main(parent: int, pipe: int, command: list[str]) -> int:
    """Become the command, or watch over it; return its exit status."""
    if _LINUX:
        import ctypes  # noqa: PLC0415 - only here

        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the kernel was told
            return 1
        os.close(pipe)
        os.execv(command[0], command)  # noqa: S606 - no shell is what is wanted
    return watch(pipe, command)


def watch(pipe: int, command: list[str]) -> int:
    """Start the command, pass SIGTERM on, and kill it when the pipe closes."""
    child = subprocess.Popen(command, close_fds=False)  # noqa: S603 - its parent's command, with what it shall inherit
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())

    def until_closed() -> None:
        while os.read(pipe, 1):
            pass
        with contextlib.suppress(ProcessLookupError):
            child.kill()

    threading.Thread(target=until_closed, daemon=True).start()
    return child.wait()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
