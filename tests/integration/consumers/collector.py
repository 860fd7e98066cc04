"""An OTLP receiver made of the official protobufs, over HTTP and gRPC, that can be slow to start, away or in error."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING

import grpc  # type: ignore[import-untyped]
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import (
    MetricsServiceServicer,
    add_MetricsServiceServicer_to_server,
)
from tests.integration.consumers.http_server import Quiet, served

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric


class Received:
    """What came, newest last; the first `refusals` requests are answered with an error."""

    def __init__(self, refusals: int = 0) -> None:
        self._lock = threading.Lock()
        self._refusals = refusals
        self.requests: list[ExportMetricsServiceRequest] = []
        self.refused = 0

    def take(self, request: ExportMetricsServiceRequest) -> bool:
        with self._lock:
            if self.refused < self._refusals:
                self.refused += 1
                return False
            self.requests.append(request)
            return True

    def metrics(self) -> dict[str, Metric]:
        """The newest export, by name."""
        with self._lock:
            if not self.requests:
                return {}
            return {one.name: one for one in self.requests[-1].resource_metrics[0].scope_metrics[0].metrics}


@contextmanager
def over_http(received: Received) -> Iterator[str]:
    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            taken = self.path == "/v1/metrics" and received.take(ExportMetricsServiceRequest.FromString(body))
            answer = ExportMetricsServiceResponse().SerializeToString()
            self.send_response(200 if taken else 400)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

    with served(Handler) as port:
        yield f"http://127.0.0.1:{port}"


@contextmanager
def over_grpc(received: Received) -> Iterator[str]:
    class Service(MetricsServiceServicer):
        def Export(  # noqa: N802 - gRPC's name
            self, request: ExportMetricsServiceRequest, context: grpc.ServicerContext
        ) -> ExportMetricsServiceResponse:
            if not received.take(request):
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no")
            return ExportMetricsServiceResponse()

    server = grpc.server(ThreadPoolExecutor(2))
    add_MetricsServiceServicer_to_server(Service(), server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
