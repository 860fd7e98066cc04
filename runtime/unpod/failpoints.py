"""Named places where a process under test dies: between two steps that no random kill would part.

`UNPOD_FAILPOINTS="name=kill@3,other=kill"` has the process kill itself (SIGKILL: no cleanup, no exit handler) the third
time that it comes to `name`, or the first time that it comes to `other`. Without the variable a place costs one look at
an empty table. The places that there are, by where they stand:

====================  ==================================================================================================
`journal.published`   a runner has sent a record to the log, and has no answer yet
`step.returned`       the function of a step has returned; its result is not recorded
`step.stored`         a step's result is stored; the session's code has not seen it
`line.claim_stored`   a bridge's claim of a command is stored; the command is not written
`line.reply_ended`    a bridge has sent the end of a reply; its receipt is not stored
`line.delivered`      the worker has said that it has a command; the bridge has not recorded it
====================  ==================================================================================================
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from functools import cache
from typing import Final

from unpod.errors import ConfigurationError

VARIABLE: Final = "UNPOD_FAILPOINTS"


def read(environment: Mapping[str, str]) -> dict[str, int]:
    """Return how many times each named place may still be passed before the process dies there, counting that one.

    Raises:
        ConfigurationError: the variable is not understood.
    """
    left: dict[str, int] = {}
    for item in filter(None, environment.get(VARIABLE, "").replace(" ", "").split(",")):
        name, equals, action = item.partition("=")
        verb, _, count = action.partition("@")
        if not (name and equals and verb == "kill" and (count or "1").isdecimal() and int(count or "1") > 0):
            raise ConfigurationError(f"{VARIABLE}: {item!r} is not understood: give name=kill or name=kill@3")
        left[name] = int(count or "1")
    return left


@cache
def _left() -> dict[str, int]:
    return read(os.environ)


def armed() -> bool:
    """Whether this process was told to die anywhere."""
    return bool(_left())


def reached(name: str) -> None:
    """Die here, if this process was told to and it is time."""
    left = _left()
    if not left or name not in left:
        return
    left[name] -= 1
    if left[name] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
