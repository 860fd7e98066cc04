"""Whether the process of this container is well: exit status 0 or 1. What it answers on is in its environment."""

import os
import sys
import urllib.request

_PLACES = (("UNPOD_HEALTH_PORT", "/readyz"), ("OTEL_EXPORTER_PROMETHEUS_PORT", "/metrics"))


def healthy() -> bool:
    """Ask the process itself; one that answers nowhere counts as well, since it runs."""
    for variable, path in _PLACES:
        port = os.environ.get(variable)
        if port:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2).close()
            except OSError:  # an HTTP error is one
                return False
    return True


if __name__ == "__main__":
    sys.exit(0 if healthy() else 1)
