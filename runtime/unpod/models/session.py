"""The figures of a runner and of a call, under the Unpod SDK's import path."""

from unpod.core.metrics import CallMetrics
from unpod.runner.stats import RunnerStats

__all__ = ["CallMetrics", "RunnerStats"]
