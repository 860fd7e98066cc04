"""The environment, with what stands only in a file `.env`, where python-dotenv is installed (`unpod[dotenv]`)."""

from __future__ import annotations

import os
from collections.abc import Mapping


def environment() -> Mapping[str, str]:
    """Return the process's variables, and those that only `.env` in the current directory has; neither is changed."""
    try:
        from dotenv import dotenv_values  # noqa: PLC0415 - an extra
    except ImportError:
        return os.environ
    found = dotenv_values(".env")
    return {name: value for name, value in found.items() if value is not None} | dict(os.environ)
