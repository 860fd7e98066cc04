"""What holds for all tests."""

from __future__ import annotations

import gc
import signal
from pathlib import Path

import pytest

INTEGRATION = Path(__file__).parent / "integration"

# A run in the background of a script ignores SIGINT, and every process that a test starts would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what stands in `integration`: all of it talks to real processes."""
    for item in items:
        if INTEGRATION in item.path.parents:
            item.add_marker(pytest.mark.integration)


def pytest_collection_finish() -> None:
    """Keep what collecting has made out of Python's collections: each full one would go through all of it."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let Python free at its end what it can: some packages report what is left."""
    gc.unfreeze()
