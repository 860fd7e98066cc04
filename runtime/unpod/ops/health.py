"""`/healthz` and `/readyz` over HTTP, from a thread of their own: they must answer when code blocks the event loop.

`/healthz` is 200 while the event loop turns, and 503 once it has stood still for `STUCK_S`: restart the process.
`/readyz` is 200 while new calls can be taken, and 503 with the reasons while they cannot: send them elsewhere.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from unpod.errors import ConfigurationError
from unpod.event_loop import in_thread

logger = logging.getLogger("unpod.ops")

VARIABLE: Final = "UNPOD_HEALTH_PORT"
STUCK_S: Final = 30.0
"""For how many seconds the event loop stands still before `/healthz` is 503; its calls were moved after 5 s."""
BEAT_S: Final = 0.25
_LATE_S: Final = 5.0
_POLL_S: Final = 0.05
_MOST: Final = 65_535

Missing = Callable[[], list[str]]
"""What is missing for new calls to be taken, [] for nothing. Called from another thread: it may only read."""


def health_port(found: Mapping[str, str], argument: int | None = None) -> int | None:
    """Return the port that is asked for, None where none is: then nothing listens. 0 takes a free one.

    Raises:
        ConfigurationError: it is no port.
    """
    text = found.get(VARIABLE, "") if argument is None else str(argument)
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or int(text) > _MOST:
        raise ConfigurationError(f"{VARIABLE} is {text[:40]!r}: give a port, 0 for a free one, or leave it unset")
    return int(text)


class HealthServer:
    """Serves both paths on all interfaces, for as long as it is open; made on the event loop that it watches."""

    def __init__(self, port: int, missing: Missing, *, stuck_s: float = STUCK_S) -> None:
        self._asked = port
        self._missing = missing
        self._stuck_s = stuck_s
        self._loop = asyncio.get_running_loop()
        self._beat_at = time.monotonic()
        self._beat: asyncio.TimerHandle | None = None
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port that it listens on, 0 while it does not."""
        return 0 if self._server is None else int(self._server.server_address[1])

    def open(self) -> None:
        """Listen from now on.

        Raises:
            ConfigurationError: the port is taken, or is not ours to take.
        """
        try:
            self._server = _Server(("", self._asked), self)
        except OSError as error:
            raise ConfigurationError(
                f"{VARIABLE}: port {self._asked} cannot be listened on ({error.strerror}): choose another"
            ) from None
        self._turn()
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_S,), name="unpod-health", daemon=True
        )
        self._thread.start()
        logger.info("health is told on port %d: /healthz and /readyz", self.port)

    async def close(self) -> None:
        """Listen no more."""
        if self._beat is not None:
            self._beat.cancel()
        server, self._server = self._server, None
        if server is not None and self._thread is not None:
            await in_thread(server.shutdown)
            self._thread.join()
            server.server_close()

    def _turn(self) -> None:
        self._beat_at = time.monotonic()
        self._beat = self._loop.call_later(BEAT_S, self._turn)

    # --- from the thread ----------------------------------------------------------------------------------------------

    def answer(self, path: str) -> tuple[HTTPStatus, dict[str, object]]:
        """Return the status and the body for a path."""
        lag_s = max(0.0, time.monotonic() - self._beat_at - BEAT_S)
        match path.partition("?")[0]:
            case "/healthz":
                alive = lag_s < self._stuck_s
                return _status(good=alive), {"alive": alive, "lag_s": round(lag_s, 3)}
            case "/readyz":
                missing = self._missing()
                if lag_s > _LATE_S:
                    missing = [*missing, f"the event loop stands still for {lag_s:.0f} s"]
                return _status(good=not missing), {"ready": not missing, "missing": missing}
            case _:
                return HTTPStatus.NOT_FOUND, {"paths": ["/healthz", "/readyz"]}


def _status(*, good: bool) -> HTTPStatus:
    return HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a probe that hangs must not hold the process

    def __init__(self, address: tuple[str, int], health: HealthServer) -> None:
        self.health = health
        super().__init__(address, _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a probe that went away."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 5.0
    server_version = "unpod"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer a probe."""
        status, body = self.server.health.answer(self.path)
        data = json.dumps(body).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_HEAD = do_GET  # noqa: N815 - as http.server looks for it

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Probes come every few seconds: not worth a line."""
