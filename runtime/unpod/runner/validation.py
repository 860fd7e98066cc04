"""What `AgentRunner` may be made with; each refusal is one line that says what to do."""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING

from unpod.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

DEV_SUFFIX = "@dev"


def check_entrypoint(entrypoint: object) -> None:
    """Make sure that the entrypoint is an async callable; of a lambda, nobody can know what it returns.

    Raises:
        TypeError: it is not.
    """
    if not callable(entrypoint):
        raise TypeError(f"entrypoint={_shown(entrypoint)}: give the function, as in AgentRunner(handle_call, ...)")
    if not (_is_async(entrypoint) or _is_lambda(entrypoint)):
        name = _shown(entrypoint)
        raise TypeError(f"entrypoint={name} is not async: write `async def {name}(ctx)`, without `yield`")


def _is_async(function: Callable[..., object]) -> bool:
    candidates = (function, inspect.unwrap(function), getattr(function, "__call__", None))  # noqa: B004 - its own method
    return any(inspect.iscoroutinefunction(candidate) for candidate in candidates)


def _is_lambda(function: object) -> bool:
    return inspect.isfunction(function) and function.__name__ == "<lambda>"


def _shown(thing: object) -> str:
    return str(getattr(thing, "__name__", None) or type(thing).__name__)


def check_agent_id(agent_id: object) -> None:
    """Make sure that an agent can be found under this id.

    Raises:
        TypeError: it is no string.
        ConfigurationError: it is empty, or names the pool of dev runners.
    """
    if not isinstance(agent_id, str):
        raise TypeError(f"agent_id is a string, not {type(agent_id).__name__}")
    if not agent_id.strip():
        raise ConfigurationError("agent_id is empty: give the runner agent id of your Speech Pipe")
    if agent_id.endswith(DEV_SUFFIX):
        plain = agent_id.removesuffix(DEV_SUFFIX)
        raise ConfigurationError(f"agent_id={agent_id!r} names a pool of dev runners: give {plain!r} and dev_mode=True")


def check_count(name: str, value: object) -> None:
    """Make sure that a value is a whole number, 0 or more.

    Raises:
        TypeError: it is no whole number.
        ConfigurationError: it is negative.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is a whole number, not {type(value).__name__}")
    if value < 0:
        raise ConfigurationError(f"{name}={value}: give 0 or more")


def check_number(name: str, value: object, *, zero: bool) -> None:
    """Make sure that a value is a finite number, more than 0, or 0 too if `zero`.

    Raises:
        TypeError: it is no number.
        ConfigurationError: it is negative or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} is a number, not {type(value).__name__}")
    if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        raise ConfigurationError(f"{name}={value}: give {'0 or more' if zero else 'more than 0'}")


def check_text(name: str, value: object) -> None:
    """Make sure that a value is a string or None.

    Raises:
        TypeError: it is neither; the text does not show it, since it may be a key.
    """
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{name} is a string, not {type(value).__name__}")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Make sure that a value is one of a few.

    Raises:
        ConfigurationError: it is none of them; the text lists them.
    """
    if value not in choices:
        raise ConfigurationError(f"{name}={value!r}: give one of {', '.join(choices)}")
