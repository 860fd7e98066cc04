"""The development API, `/_local`: for driving calls from another process. Local only, and no part of the wire.

POST /_local/calls       {"agent_id", "metadata", "session_id", "pool", "script": [steps]}   places a call
GET  /_local/calls                                                                        the calls that it knows
GET  /_local/calls/{id}                                                                   its state and frames
POST /_local/calls/{id}/script   {"script": [steps]}                                      plays more steps
GET  /_local/workers                                                                      who is registered
"""

import asyncio
from collections.abc import Sequence

import msgspec
from aiohttp import web

from unpod_orchestrator.auth import KeyRing
from unpod_orchestrator.calls.call import LocalCall
from unpod_orchestrator.calls.call_index import CallIndex
from unpod_orchestrator.control.job_offers import CallRefused
from unpod_orchestrator.control.registry import Registry
from unpod_orchestrator.http.rest import RestError, guarded, json_response, read_body
from unpod_orchestrator.script.scenario import PlacesCalls, Scenario, ScenarioResult
from unpod_orchestrator.script.steps import AnyStep
from unpod_orchestrator.wire.call_frames import RawFrame


class PlaceBody(msgspec.Struct, frozen=True):
    """What a call is placed with; without a script it stays up until somebody ends it."""

    agent_id: str
    metadata: RawFrame | None = None
    session_id: str | None = None
    pool: str | None = None
    script: list[AnyStep] | None = None


class ScriptBody(msgspec.Struct, frozen=True):
    """More steps for a call."""

    script: list[AnyStep]


class LocalApi:
    """The endpoints, and the scripts that are being played."""

    def __init__(
        self, orchestrator: PlacesCalls, calls: CallIndex, workers: Registry, keys: KeyRing, keep_results: int = 1_000
    ) -> None:
        self._orchestrator = orchestrator
        self._calls = calls
        self._workers = workers
        self._keys = keys
        self._keep_results = keep_results
        self._playing: dict[str, asyncio.Task[None]] = {}
        self._results: dict[str, ScenarioResult] = {}

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Adds the endpoints."""
        router.add_get("/_local/workers", guarded(self._keys, self._list_workers))
        router.add_get("/_local/calls", guarded(self._keys, self._list_calls))
        router.add_post("/_local/calls", guarded(self._keys, self._place))
        router.add_get("/_local/calls/{id:[^/]+}", guarded(self._keys, self._show))
        router.add_post("/_local/calls/{id:[^/]+}/script", guarded(self._keys, self._play_more))

    async def stop(self) -> None:
        """Gives up every script."""
        tasks = list(self._playing.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _list_workers(self, _request: web.Request) -> web.Response:
        workers = [
            {
                "worker_id": worker.worker_id,
                "pool": worker.pool,
                "max_concurrent": worker.capabilities.max_concurrent,
                "active_jobs": worker.active_jobs,
                "jobs": sorted(worker.jobs),
                "heartbeats": worker.heartbeats,
            }
            for worker in self._workers.all()
        ]
        return json_response(200, {"workers": workers})

    async def _list_calls(self, _request: web.Request) -> web.Response:
        calls = [
            {
                "session_id": call.session_id,
                "job_id": call.job_id,
                "agent_id": call.agent_id,
                "worker_id": call.worker_id,
                "live": call.live,
                "state": call.state,
                "outcome": call.outcome,
            }
            for call in self._calls
        ]
        return json_response(200, {"calls": calls})

    async def _place(self, request: web.Request) -> web.Response:
        body = await read_body(request, PlaceBody)
        try:
            call = await self._orchestrator.place_call(
                body.agent_id, metadata=body.metadata, session_id=body.session_id, pool=body.pool
            )
        except CallRefused as refused:
            raise RestError(503, "refused", str(refused)) from None
        except ValueError as error:
            raise RestError(422, "invalid", str(error)) from None
        if body.script is not None:
            self._play(call, body.script)
        return json_response(201, {"session_id": call.session_id, "job_id": call.job_id, "call_id": call.call_id})

    async def _play_more(self, request: web.Request) -> web.Response:
        call = self._known(request)
        body = await read_body(request, ScriptBody)
        if call.over or call.session_id in self._playing:
            raise RestError(409, "busy", "the call is over, or a script is being played on it")
        self._play(call, body.script)
        return json_response(202, {"session_id": call.session_id})

    async def _show(self, request: web.Request) -> web.Response:
        call = self._known(request)
        result = self._results.get(call.session_id)
        return json_response(
            200,
            {
                "session_id": call.session_id,
                "job_id": call.job_id,
                "worker_id": call.worker_id,
                "live": call.live,
                "state": call.state,
                "recording": call.recording,
                "outcome": call.outcome,
                "violations": call.violations,
                "transcript": call.transcript,
                "transfers": call.transfers,
                "dials": call.dials,
                "ends_owed": call.ends_owed,
                "replies": [{"turn_id": reply.turn_id, "text": reply.text} for reply in call.replies],
                "playing": call.session_id in self._playing,
                "script": None if result is None else {"ok": result.ok, "failures": result.failures},
                "frames": call.frames,
            },
        )

    def _known(self, request: web.Request) -> LocalCall:
        call = self._calls.session(request.match_info["id"])
        if call is None:
            raise RestError(404, "session_not_found", "there is no such session")
        return call

    def _play(self, call: LocalCall, script: Sequence[AnyStep]) -> None:
        task = asyncio.create_task(self._run(call, Scenario("script", script)))
        self._playing[call.session_id] = task
        task.add_done_callback(lambda _: self._playing.pop(call.session_id, None))

    async def _run(self, call: LocalCall, scenario: Scenario) -> None:
        result = await scenario.play_on(call)
        self._results[call.session_id] = result
        if len(self._results) > self._keep_results:
            del self._results[next(iter(self._results))]
