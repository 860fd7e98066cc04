"""The hot paths do no more than is recorded: a change that costs shows here, on any machine and under any load."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.benchmarks.hot_paths import PATHS, VERSION, Figures, recorded

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TOLERANCE = 0.15
"""What a path may do more than is recorded. `make paths` shows smaller changes, too."""


@pytest.fixture(scope="module")
def found() -> dict[str, Figures]:
    # In a process of its own: what other tests have left in this one (tracing, caches, log levels) does not count.
    command = [sys.executable, "-m", "tests.benchmarks.hot_paths", "--json"]
    answer = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=50)
    figures: dict[str, Figures] = json.loads(answer.stdout)
    return figures


@pytest.mark.parametrize("path", PATHS)
def test_a_hot_path_does_no_more_than_is_recorded(path: str, found: dict[str, Figures]) -> None:
    baseline = recorded().get(VERSION)
    record = f"record it with `{VERSION.join(('python', ''))} -m tests.benchmarks.hot_paths --record`"
    assert baseline is not None, f"nothing is recorded for Python {VERSION}: {record}"
    assert path in baseline, f"nothing is recorded for {path}: {record}"
    for kind, now in found[path].items():
        former = baseline[path][kind]
        assert now <= former * (1 + TOLERANCE) + 1, (
            f"{path} takes {now:.0f} {kind} and {former:.0f} are recorded ({now / former - 1:+.0%}); "
            f"see where with `python -m tests.benchmarks.hot_paths --profile {path}`. "
            f"If it is worth it, {record} and say so in the commit"
        )
