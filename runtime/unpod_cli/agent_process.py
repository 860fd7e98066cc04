"""`python -m unpod_cli.agent_process TARGET FD`: one runner around the user's file, which reports on a descriptor.

What `unpod dev` and `unpod demo` start. The NATS server in the environment counts, whatever the file says, and a call
in progress is never cut off for a reload.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import Final

import msgspec

from unpod.errors import UnpodError
from unpod.event_loop import run_main
from unpod.logs import enable_logging
from unpod.runner.runner import AgentRunner
from unpod.runner.stats import RunnerStats
from unpod_cli.agent_file import AgentProblem, load_agent, local_files, split_target
from unpod_cli.failure import FAILED, USAGE

_DAY_S: Final = 86_400.0


class AgentReport(msgspec.Struct, frozen=True, tag_field="report"):
    """What an agent's process tells the one that has started it."""


class Loaded(AgentReport, frozen=True, tag="loaded"):
    """The file is imported; calls for `agent` in the pool `pool` will be taken by `runner`."""

    agent: str
    pool: str
    runner: str
    files: list[str]


class Unusable(AgentReport, frozen=True, tag="unusable"):
    """The file or its runner cannot be used; `reason` is one line."""

    reason: str


class Finished(AgentReport, frozen=True, tag="finished"):
    """The runner has drained."""

    stats: RunnerStats


AnyReport = Loaded | Unusable | Finished
REPORT: Final[msgspec.json.Decoder[AnyReport]] = msgspec.json.Decoder(AnyReport)


def main(target: str, descriptor: int) -> int:
    """Load the agent and run it until SIGTERM; return the exit status."""
    os.set_inheritable(descriptor, False)  # noqa: FBT003 - what the user's code starts must not hold it open
    path, name = split_target(target)
    sys.argv = [str(path)]  # as `python AGENT.py` has it
    sys.dont_write_bytecode = True  # a .pyc is matched by length and second: a second save within it would not be seen
    try:
        runner = load_agent(path, name)
    except AgentProblem as problem:
        _report(descriptor, Unusable(str(problem)))
        return USAGE
    files = sorted(map(str, {path.absolute(), *local_files(path.absolute().parent)}))
    _report(descriptor, Loaded(runner.agent_id, _adopt(runner), runner.runner_id, files))
    enable_logging(os.environ.get("UNPOD_LOG_LEVEL") or "WARNING")
    try:
        run_main(runner.run())
    except (UnpodError, ConnectionError) as error:
        _report(descriptor, Unusable(str(error)))
        return FAILED
    _report(descriptor, Finished(runner.stats()))
    return 0


def _adopt(runner: AgentRunner) -> str:
    """Make a runner serve here, whatever it was made with; return its pool."""
    runner._nats_url = None  # noqa: SLF001 - a file may name its production servers; here the environment counts
    runner._plan = replace(runner._plan, drain_timeout_s=_DAY_S)  # noqa: SLF001 - a reload waits for the caller
    return runner._plan.agent_key  # noqa: SLF001


def _report(descriptor: int, report: AnyReport) -> None:
    os.write(descriptor, msgspec.json.encode(report) + b"\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
