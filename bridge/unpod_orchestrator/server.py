"""The local orchestrator: one port with the control socket, the call sockets, REST, and its own development API."""

import asyncio
import contextlib
import ipaddress
import logging
import secrets
import uuid
from collections.abc import Awaitable, Callable, Collection
from types import TracebackType
from typing import Final, Self

from aiohttp import web

from unpod_orchestrator.auth import KeyRing
from unpod_orchestrator.calls.call import LocalCall
from unpod_orchestrator.calls.call_index import CallIndex
from unpod_orchestrator.control.job_offers import CallRefused, JobOffers
from unpod_orchestrator.control.registry import RegisteredWorker
from unpod_orchestrator.control.serve_dialer import ServeDialer
from unpod_orchestrator.control.sockets import ControlSocket, ControlSockets
from unpod_orchestrator.faults import CallFaults, ControlFaults
from unpod_orchestrator.http.local_api import LocalApi
from unpod_orchestrator.http.rest import Rest, Wrapping
from unpod_orchestrator.socket_link import SocketLink, new_socket
from unpod_orchestrator.wire import outgoing
from unpod_orchestrator.wire.call_frames import RawFrame
from unpod_orchestrator.wire.constants import (
    ALL_VERBS,
    GOING_AWAY,
    KEY_REFUSED,
    PAIRING_REFUSED,
    POLICY_VIOLATION,
)
from unpod_orchestrator.wire.frame_log import LoggedFrame
from unpod_orchestrator.wire.outgoing import CallIdentity
from unpod_orchestrator.worker.speech_worker import SpeechWorker, WorkerOptions

_log = logging.getLogger("unpod.orchestrator")

_STOP_S: Final = 0.5
_DEADLINE_MS: Final = 2_000


class LocalOrchestrator:
    """The other side of the wire, with its speech worker: for development, demos and tests.

    `speed` makes speech (15 characters a second) faster and nothing else; `port=0` takes a free one. `faults` says how
    the control sockets misbehave and may be changed at any time, `place_call(faults=...)` does the same for one call.
    Clients that serve are dialled, under `agent_secret` where it is given.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        advertised_host: str | None = None,
        api_keys: Collection[str] = frozenset({"sk_local"}),
        platform_tokens: Collection[str] = (),
        org_handle: str | None = None,
        agent_secret: str | None = None,
        offers: Collection[str] = ALL_VERBS,
        speed: float = 1.0,
        chars_per_s: float = 15.0,
        heartbeat_interval_s: int = 10,
        pairing_window_s: float = 20.0,
        redial_window_s: float = 60.0,
        cancel_grace_s: float = 5.0,
        warm_handoff_s: float = 1.0,
        retry_pause_s: float = 0.2,
        ping_interval_s: float | None = 30.0,
        allowed_numbers: Collection[str] | None = None,
        require_all_events: bool = True,
        wrapping: Wrapping = "none",
        keep_ended_calls: int = 200,
        max_frames: int = 20_000,
        faults: ControlFaults | None = None,
    ) -> None:
        self._host = host
        self._port = port
        self._advertised_host = advertised_host
        self._keys = KeyRing(api_keys, platform_tokens, org_handle)
        self._options = WorkerOptions(
            offers=tuple(verb for verb in ALL_VERBS if verb in offers),
            speed=speed,
            chars_per_s=chars_per_s,
            pairing_window_s=pairing_window_s,
            redial_window_s=redial_window_s,
            cancel_grace_s=cancel_grace_s,
            warm_handoff_s=warm_handoff_s,
            allowed_numbers=None if allowed_numbers is None else frozenset(allowed_numbers),
            require_all_events=require_all_events,
            max_frames=max_frames,
        )
        self._ping_interval_s = ping_interval_s
        self._wrapping: Wrapping = wrapping
        self.faults = ControlFaults() if faults is None else faults
        self._calls = CallIndex(keep_ended_calls)
        self._control = ControlSockets(heartbeat_interval_s, self.faults)
        self._links: set[SocketLink] = set()
        self._dialer = ServeDialer(agent_secret, self._links, ping_interval_s)
        self._offers = JobOffers(self._control, self._dialer, pause_s=retry_pause_s)
        self._local_api = LocalApi(self, self._calls, self._control.registry, self._keys)
        self._runner: web.AppRunner | None = None

    # ---- its life

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listens; `OSError` where the port is taken."""
        app = web.Application()
        app.router.add_get("/v1/internal/workers", self._serve_control)
        app.router.add_get("/v1/calls/{key}/bridge", self._serve_call)
        Rest(self._calls, self._keys, self._wrapping).add_routes(app.router)
        self._local_api.add_routes(app.router)
        # No access log: the URLs of call sockets carry tokens.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=_STOP_S)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port, reuse_address=True).start()
        except OSError:
            await self.stop()
            raise
        self._port = self._runner.addresses[0][1]
        _log.info("listening on port %d", self._port)

    async def stop(self) -> None:
        """Ends every call (1000) and closes every socket, within a second; harmless when stopped."""
        await self._local_api.stop()
        for call in self._calls:
            if not call.over:
                call.stop()
        for socket in tuple(self._control.sockets):
            socket.link.close(GOING_AWAY, "stopping")
        await self._control.changed.wait_for(lambda: not self._links, _STOP_S)
        for link in tuple(self._links):
            link.abort()
        await self._dialer.stop()
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    # ---- where it is

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._port

    @property
    def url(self) -> str:
        """The base of the control sockets: the workers' path is to be added."""
        return f"ws://{self._authority}"

    @property
    def http_url(self) -> str:
        """The base of REST and of the development API."""
        return f"http://{self._authority}"

    @property
    def _authority(self) -> str:
        host = self._advertised_host or self._host
        with contextlib.suppress(ValueError):
            address = ipaddress.ip_address(host)
            if address.is_unspecified:
                return f"127.0.0.1:{self._port}"
            if address.version == 6:  # noqa: PLR2004 -- the name of the protocol
                return f"[{host}]:{self._port}"
        return f"{host}:{self._port}"

    # ---- workers

    @property
    def workers(self) -> list[RegisteredWorker]:
        """The registered workers."""
        return self._control.registry.all()

    @property
    def control_frames(self) -> list[LoggedFrame]:
        """Every control frame both ways, tokens masked; `t_s` counts from when this object was made."""
        return list(self._control.frames)

    @property
    def violations(self) -> list[str]:
        """How control sockets' clients broke the protocol."""
        return list(self._control.violations)

    async def wait_for_worker(
        self, agent_id: str, timeout_s: float = 10.0, *, pool: str | None = None, count: int = 1
    ) -> RegisteredWorker:
        """Returns when `count` workers are registered in the pool; `TimeoutError` otherwise."""
        name = pool or agent_id

        def found() -> bool:
            return len(self._control.registry.in_pool(name)) >= count

        await self.wait_until(found, f"no worker for {name!r} registered within {timeout_s:g} s", timeout_s)
        return self._control.registry.in_pool(name)[0]

    async def wait_until(self, holds: Callable[[], bool], complaint: str, timeout_s: float = 10.0) -> None:
        """Returns when something about the workers holds, looked at whenever a control socket has news."""
        if not await self._control.changed.wait_for(holds, timeout_s):
            raise TimeoutError(complaint)

    def drop_control(self, worker_id: str | None = None) -> None:
        """Cuts a worker's control socket without a close frame; all of them for None."""
        for socket in self._sockets(worker_id):
            socket.link.abort()

    def close_control(self, code: int, worker_id: str | None = None) -> None:
        """Closes a worker's control socket with a code; all of them for None."""
        for socket in self._sockets(worker_id):
            socket.link.close(code)

    def send_control_raw(self, payload: str | bytes, worker_id: str | None = None) -> None:
        """Sends anything over a worker's control socket; over all of them for None."""
        for socket in self._sockets(worker_id):
            socket.link.send(payload, text=isinstance(payload, str))

    def pause_control(self, worker_id: str | None = None) -> None:
        """Stops reading a worker's control socket: half-open."""
        for socket in self._sockets(worker_id):
            socket.link.pause_reading()

    def _sockets(self, worker_id: str | None) -> list[ControlSocket]:
        return [socket for socket in self._control.sockets if worker_id in {None, socket.worker_id}]

    # ---- calls

    @property
    def calls(self) -> list[LocalCall]:
        """The calls that it knows, ended ones included."""
        return list(self._calls)

    def call(self, session_id: str) -> LocalCall | None:
        """The call of a session, if it is known."""
        return self._calls.session(session_id)

    async def place_call(
        self,
        agent_id: str,
        *,
        metadata: RawFrame | None = None,
        session_id: str | None = None,
        pool: str | None = None,
        voice_profile_id: str | None = None,
        deadline_ms: int = _DEADLINE_MS,
        even_if_full: bool = False,
        faults: CallFaults | None = None,
    ) -> LocalCall:
        """Places a call and returns it when a worker has taken it; `CallRefused` when none does, after three tries.

        `even_if_full` asks workers that report no room. `ValueError` for metadata that no frame can hold, or for a
        session that is there already.
        """
        name = uuid.uuid4().hex
        who = CallIdentity(
            session_id=f"session-{name}" if session_id is None else session_id,
            job_id=f"job-{uuid.uuid4().hex}",
            call_id=f"call-{name}",
            room_id=f"room-{name}",
            agent_id=agent_id,
            voice_profile_id=voice_profile_id,
            metadata={} if metadata is None else metadata,
        )
        outgoing.encode(outgoing.call_started(who))
        worker = SpeechWorker(
            who,
            self._options,
            faults or CallFaults(),
            token=secrets.token_urlsafe(24),
            now=asyncio.get_running_loop().time(),
        )
        call = LocalCall(worker, agent_id=agent_id, pool=pool or agent_id, on_over=self._call_over)
        self._calls.add(call)
        assign = self._assign(call, deadline_ms)
        try:
            await self._offers.find_worker(call, assign, deadline_ms, even_if_full=even_if_full)
        except CallRefused as refused:
            call.refused(refused.reason)
            raise
        except BaseException:
            call.refused("the placing was given up")
            raise
        _log.info("call placed: session %r", who.session_id)
        return call

    def cancel(self, job_id: str) -> None:
        """Sends `job.cancel` to the job's worker, or to every worker where nobody has such a job."""
        call = self._calls.job(job_id)
        worker = None if call is None else self._control.registry.get(call.worker_id)
        for socket in list(self._control.sockets) if worker is None else [worker.socket]:
            socket.send(outgoing.job_cancel(job_id))
        if call is not None:
            call.cancel()

    async def reassign(
        self, job_id: str, *, worker_id: str | None = None, deadline_ms: int = _DEADLINE_MS
    ) -> str | None:
        """Offers a living call's job once more, to its own worker or another; None if it is taken, else why not."""
        call = self._calls.job(job_id)
        worker = None if call is None else self._control.registry.get(worker_id or call.worker_id)
        if call is None or worker is None:
            raise ValueError("no such job, or its worker is not registered")
        assign = self._assign(call, deadline_ms)
        return await self._offers.offer(call, assign, worker, deadline_ms)

    def _assign(self, call: LocalCall, deadline_ms: int) -> RawFrame:
        return outgoing.job_assign(
            call.identity,
            agent_id=call.agent_id,
            bridge_url=f"{self.url}/v1/calls/{call.bridge_key}/bridge?side=brain",
            call_token=call.token,
            deadline_ms=deadline_ms,
        )

    def _call_over(self, call: LocalCall) -> None:
        self._control.registry.release(call.job_id)
        self._calls.ended(call)
        self._control.changed.notify()
        _log.info("call over: session %r, %s", call.session_id, call.outcome.reason if call.outcome else "")

    # ---- sockets

    async def _serve_control(self, request: web.Request) -> web.StreamResponse:
        refusal = self.faults.refuse_key
        if refusal == "http_403":
            raise web.HTTPForbidden(text="the key may not be used for this")
        if refusal == "http_401":
            raise web.HTTPUnauthorized(text="the key is unknown")
        if refusal is None and not self._keys.admits_worker(request):
            refusal = "close_4001"  # the Unpod SDK tries again for ever after anything else
        socket = new_socket(self._ping_interval_s)
        await socket.prepare(request)
        if refusal is not None:
            await socket.close(code=KEY_REFUSED if refusal == "close_4001" else POLICY_VIOLATION)
            return socket
        link = SocketLink(socket, request.transport)
        await self._while_open(link, ControlSocket(self._control, link).run)
        return socket

    async def _serve_call(self, request: web.Request) -> web.StreamResponse:
        call = self._calls.key(request.match_info["key"])
        if call is not None and call.faults.refuse_upgrades > 0:
            call.faults.refuse_upgrades -= 1
            raise web.HTTPServiceUnavailable(text="not yet")
        socket = new_socket(self._ping_interval_s)
        await socket.prepare(request)
        code = PAIRING_REFUSED if call is None else call.dialled(request.query.get("token", ""))
        if call is None or code is not None:
            await socket.close(code=code or PAIRING_REFUSED)
            return socket
        link = SocketLink(socket, request.transport)
        await self._while_open(link, lambda: call.serve(link))
        return socket

    async def _while_open(self, link: SocketLink, serve: Callable[[], Awaitable[None]]) -> None:
        self._links.add(link)
        try:
            await serve()
        finally:
            self._links.discard(link)
            self._control.changed.notify()


async def serve_forever(
    host: str = "127.0.0.1",
    port: int = 8900,
    *,
    advertised_host: str | None = None,
    api_keys: Collection[str] = frozenset({"sk_local"}),
    platform_tokens: Collection[str] = (),
    agent_secret: str | None = None,
    speed: float = 1.0,
    on_ready: Callable[[LocalOrchestrator], None] | None = None,
) -> None:
    """Serves until it is cancelled, and stops in good order then; `on_ready` is told when it listens.

    `advertised_host` stands in the URLs that workers are given, where it is not `host` that they reach it under.
    """
    orchestrator = LocalOrchestrator(
        host=host,
        port=port,
        advertised_host=advertised_host,
        api_keys=api_keys,
        platform_tokens=platform_tokens,
        agent_secret=agent_secret,
        speed=speed,
    )
    async with orchestrator:
        if on_ready is not None:
            on_ready(orchestrator)
        await asyncio.Event().wait()
