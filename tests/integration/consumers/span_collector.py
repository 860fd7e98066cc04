"""An OTLP receiver of spans made of the official protobufs, over HTTP and gRPC, that can answer with errors."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING

import grpc  # type: ignore[import-untyped]
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from tests.integration.consumers.http_server import Quiet, served

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Spans:
    """All spans that came; the first `refusals` requests are answered with an error."""

    def __init__(self, refusals: int = 0) -> None:
        self._lock = threading.Lock()
        self._refusals = refusals
        self._spans: list[Span] = []
        self.refused = 0

    def take(self, request: ExportTraceServiceRequest) -> bool:
        with self._lock:
            if self.refused < self._refusals:
                self.refused += 1
                return False
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    self._spans += scope.spans
            return True

    def all(self) -> list[Span]:
        with self._lock:
            return list(self._spans)

    def ids(self) -> set[tuple[str, str, str]]:
        """Trace, span and name of each span, repeats left out."""
        return {(span.trace_id.hex(), span.span_id.hex(), span.name) for span in self.all()}


@contextmanager
def over_http(received: Spans) -> Iterator[str]:
    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            taken = self.path == "/v1/traces" and received.take(ExportTraceServiceRequest.FromString(body))
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200 if taken else 400)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

    with served(Handler) as port:
        yield f"http://127.0.0.1:{port}"


@contextmanager
def over_grpc(received: Spans) -> Iterator[str]:
    class Service(TraceServiceServicer):
        def Export(  # noqa: N802 - gRPC's name
            self, request: ExportTraceServiceRequest, context: grpc.ServicerContext
        ) -> ExportTraceServiceResponse:
            if not received.take(request):
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no")
            return ExportTraceServiceResponse()

    server = grpc.server(ThreadPoolExecutor(2))
    add_TraceServiceServicer_to_server(Service(), server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
