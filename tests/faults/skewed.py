"""`python -m tests.faults.skewed`: another module, with a clock that is wrong by `UNPOD_FAULTS_SKEW_S` seconds."""

from __future__ import annotations

import os
import runpy
import time


def main() -> None:
    """Put the clock wrong, and run the module."""
    offset_s = float(os.environ["UNPOD_FAULTS_SKEW_S"])
    true_time, true_time_ns = time.time, time.time_ns
    time.time = lambda: true_time() + offset_s
    time.time_ns = lambda: true_time_ns() + int(offset_s * 1e9)
    runpy.run_module(os.environ["UNPOD_FAULTS_MODULE"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
