"""Runners and sessions, under the Unpod SDK's import path."""

from unpod.runner.context import CallContext
from unpod.runner.runner import AgentRunner
from unpod.session.session import MetricsTracker, Session

__all__ = ["AgentRunner", "CallContext", "MetricsTracker", "Session"]
