"""`python -m unpod_bridge`: the bridge as a process of its own, configured by its environment."""

from __future__ import annotations

import sys

from unpod.errors import ConfigurationError
from unpod.event_loop import run_main
from unpod.logs import enable_logging
from unpod_bridge.app import run_bridge
from unpod_bridge.config import BridgeConfig

USAGE = 2


def main() -> int:
    """Run a bridge; return its exit status: 0, 1 (failed) or 2 (a setting is missing or wrong)."""
    try:
        config = BridgeConfig.from_env()
    except ConfigurationError as error:
        sys.stderr.write(f"unpod bridge: {error}\n")
        return USAGE
    enable_logging(config.log_level)
    return run_main(run_bridge(config))


if __name__ == "__main__":
    sys.exit(main())
