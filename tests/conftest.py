"""What holds for all tests."""

from __future__ import annotations

import gc
import os
import signal

# A run in the background of a script ignores SIGINT, and every process that a test starts would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# litellm (superdialog's) reads a price list from GitHub when it is imported, unless it is told not to.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")


def pytest_collection_finish() -> None:
    """Keep what collecting has made out of Python's collections: each full one would go through all of it."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let Python free at its end what it can: some packages report what is left."""
    gc.unfreeze()
