"""`python -m unpod_cli.worker_process MODULE:RUNNER FD`: one runner among several, which reports on a descriptor.

What `unpod run --workers` starts. A worker that cannot run at all says why there, so that it is not started again.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Final

import msgspec

from unpod.errors import ConfigurationError, RunnerBroken, UnpodError
from unpod.event_loop import run_main
from unpod.logs import enable_logging
from unpod_cli.agent_file import AgentProblem, load_runner
from unpod_cli.failure import FAILED, USAGE

logger = logging.getLogger("unpod.runner")


class Refused(msgspec.Struct, frozen=True):
    """The runner cannot run, and starting it again would not change that; `reason` is one line."""

    reason: str
    status: int


REFUSED: Final = msgspec.json.Decoder(Refused)


def main(target: str, descriptor: int) -> int:
    """Load the runner and run it until SIGTERM; return the exit status."""
    os.set_inheritable(descriptor, False)  # noqa: FBT003 - what the user's code starts must not hold it open
    sys.path.insert(0, str(Path.cwd()))
    try:
        runner = load_runner(target)
        enable_logging(os.environ.get("UNPOD_LOG_LEVEL") or "INFO")
        run_main(runner.run())
    except (AgentProblem, ConfigurationError) as error:
        return _refuse(descriptor, error, USAGE)
    except RunnerBroken as error:
        logger.error("%s", error)  # noqa: TRY400 - the line says it
        return FAILED
    except (UnpodError, ConnectionError) as error:
        return _refuse(descriptor, error, FAILED)
    return 0


def _refuse(descriptor: int, error: Exception, status: int) -> int:
    os.write(descriptor, msgspec.json.encode(Refused(" ".join(str(error).split()), status)))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
