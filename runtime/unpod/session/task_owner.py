"""Whose code runs: which session a task belongs to. It may be asked from another thread than the tasks' own."""

from __future__ import annotations

import asyncio
from typing import Any

from unpod.user_code import owners


def belongs(task: asyncio.Task[Any], session_id: str) -> None:
    """Take note that a task runs code of a session."""
    owners[task] = session_id


def session_at_work(loop: asyncio.AbstractEventLoop) -> str:
    """Return the session whose code an event loop is in at this moment, "" where that is not known."""
    task = asyncio.current_task(loop)
    return "" if task is None else owners.get(task, "")
