"""litellm reads a price list from GitHub when it is imported, unless it is told not to."""

import os

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
