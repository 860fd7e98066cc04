"""The tests of superdialog's adapter; `make superdialog` runs them in an environment of their own.

litellm, which superdialog needs, is larger than everything else here together, so the other environment lacks it.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

# litellm reads a price list from GitHub when it is imported, unless it is told not to.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

collect_ignore_glob = [] if find_spec("superdialog") else ["test_*.py"]
