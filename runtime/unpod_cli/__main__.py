"""`python -m unpod_cli`: the same as `unpod`."""

from __future__ import annotations

import sys

from unpod_cli.main import main

if __name__ == "__main__":
    sys.exit(main())
