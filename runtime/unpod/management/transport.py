"""How a request of a management client gets to its server and back: HTTP, with `httpx2`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Final, Literal, TypeVar
from uuid import uuid4

import httpx2

from unpod.errors import APIError
from unpod.logs import redact
from unpod.management.rest_answers import Unreadable, payload, read, reason_of

logger = logging.getLogger("unpod.management")

T = TypeVar("T")
Method = Literal["GET", "POST"]

_RETRY_AFTER_S: Final = (0.1, 0.4)  # a GET whose connection fails is tried again after so long
_LOST = (httpx2.NetworkError, httpx2.RemoteProtocolError, httpx2.ConnectTimeout)


class HttpTransport:
    """Sends requests and returns what the answers say. Belongs to the event loop that first uses it."""

    def __init__(self, headers: Mapping[str, str], timeout_s: float) -> None:
        self._secrets = [value.rpartition(" ")[2] for name, value in headers.items() if name == "Authorization"]
        self._client = httpx2.AsyncClient(headers=dict(headers), timeout=timeout_s)

    async def request(
        self,
        method: Method,
        url: str,
        into: type[T],
        *,
        empty: object,
        body: Mapping[str, object] | None = None,
        query: Mapping[str, str] | None = None,
        request_id: str | None = None,
    ) -> T:
        """Send one request and return what the answer says; `empty` is what an empty one means.

        Only a GET is tried again, and only when its connection failed.

        Raises:
            APIError: no answer, an HTTP error, or an answer that cannot be read.
        """
        request_id = request_id or str(uuid4())
        request = self._client.build_request(
            method, url, json=body, params=query, headers={"X-Request-Id": request_id, "Accept": "application/json"}
        )
        response = await self._send(request, request_id)
        answered_id = response.headers.get("X-Request-Id", request_id)
        if not response.is_success:
            reason = reason_of(response.status_code, response.headers.get("Content-Type", ""), response.content)
            raise APIError(self._clean(reason), status=response.status_code, request_id=answered_id)
        try:
            said = payload(response.content)
            return read(empty if said is None else said, into)
        except Unreadable as error:
            raise APIError(str(error), status=response.status_code, request_id=answered_id) from None

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _send(self, request: httpx2.Request, request_id: str) -> httpx2.Response:
        for delay_s in _RETRY_AFTER_S if request.method == "GET" else ():
            try:
                return await self._client.send(request)
            except _LOST as error:
                logger.info("request %s: %s; trying again", request_id, type(error).__name__)
                await asyncio.sleep(delay_s)
            except httpx2.HTTPError as error:
                raise self._unanswered(error, request, request_id) from None
        try:
            return await self._client.send(request)
        except httpx2.HTTPError as error:
            raise self._unanswered(error, request, request_id) from None

    @staticmethod
    def _unanswered(error: httpx2.HTTPError, request: httpx2.Request, request_id: str) -> APIError:
        what = "it took too long" if isinstance(error, httpx2.TimeoutException) else "the connection failed"
        host = request.url.netloc.decode("ascii", "replace").rpartition("@")[2]
        return APIError(f"{what} ({type(error).__name__} at {host})", request_id=request_id)

    def _clean(self, reason: str) -> str:
        """Return a server's reason without the credential that it may quote."""
        for secret in self._secrets:
            reason = reason.replace(secret, "***")
        return redact(reason)
