"""A process under test dies where it is told to, and nowhere else."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from unpod.errors import ConfigurationError
from unpod.failpoints import VARIABLE, read

PROGRAM = (
    "from unpod.failpoints import reached\nfor n in range(5): print(n, flush=True); reached('here'); reached('there')"
)


def test_what_the_variable_says() -> None:
    assert read({}) == {}
    assert read({VARIABLE: " here=kill@3, there=kill,"}) == {"here": 3, "there": 1}


@pytest.mark.parametrize("text", ["here", "here=", "here=stop", "=kill", "here=kill@0", "here=kill@x", "here=kill@-1"])
def test_what_is_not_understood(text: str) -> None:
    with pytest.raises(ConfigurationError, match=VARIABLE):
        read({VARIABLE: text})


@pytest.mark.parametrize(
    ("said", "lines", "status"),
    [("here=kill@3", 3, -signal.SIGKILL), ("there=kill", 1, -signal.SIGKILL), ("elsewhere=kill", 5, 0), ("", 5, 0)],
)
def test_a_process_dies_there(said: str, lines: int, status: int) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], env={VARIABLE: said}, capture_output=True, check=False)
    assert (len(done.stdout.splitlines()), done.returncode) == (lines, status)
