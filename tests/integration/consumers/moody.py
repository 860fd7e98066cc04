"""An OTLP receiver made of the official protobufs, of spans and metrics, over HTTP and gRPC, whose mood changes."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Final, Literal

import grpc  # type: ignore[import-untyped]
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import (
    MetricsServiceServicer,
    add_MetricsServiceServicer_to_server,
)
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

Mood = Literal["takes", "slow", "unavailable", "refuses", "hangs"]
Wire = Literal["grpc", "http/protobuf"]

_SLOW_S: Final = 0.3
_STATUS: Final[dict[Mood, int]] = {"unavailable": 503, "refuses": 400}
_CODES: Final = {"unavailable": grpc.StatusCode.UNAVAILABLE, "refuses": grpc.StatusCode.INVALID_ARGUMENT}


class Moody:
    """What it has taken, and how often it was asked in which mood."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._mood: Mood = "takes"
        self.spans: set[tuple[str, str, str]] = set()
        self.calls = 0
        """The newest `unpod.calls`."""
        self.asked: dict[Mood, int] = {}

    def becomes(self, mood: Mood) -> None:
        with self._changed:
            self._mood = mood
            self._changed.notify_all()

    def decide(self) -> Mood:
        """Return in what mood a request is answered; while it hangs, none is."""
        with self._changed:
            mood = self._mood
            self.asked[mood] = self.asked.get(mood, 0) + 1
            if mood == "hangs":
                self._changed.wait_for(lambda: self._mood != "hangs")
                return "unavailable"
            if mood == "slow":
                self._changed.wait(_SLOW_S)
            return mood

    def take_spans(self, request: ExportTraceServiceRequest) -> None:
        found = [span for each in request.resource_spans for scope in each.scope_spans for span in scope.spans]
        with self._changed:
            self.spans |= {(span.trace_id.hex(), span.span_id.hex(), span.name) for span in found}

    def take_metrics(self, request: ExportMetricsServiceRequest) -> None:
        for metric in request.resource_metrics[0].scope_metrics[0].metrics:
            if metric.name == "unpod.calls":
                with self._changed:
                    self.calls = sum(point.as_int for point in metric.sum.data_points)


@contextmanager
def over(moody: Moody, wire: Wire, port: int = 0) -> Iterator[str]:
    """Serve it; give its endpoint."""
    with (_grpc if wire == "grpc" else _http)(moody, port) as found:
        try:
            yield f"http://127.0.0.1:{found}"
        finally:
            moody.becomes("takes")  # nobody is left hanging


@contextmanager
def _http(moody: Moody, port: int) -> Iterator[int]:
    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = _STATUS.get(moody.decide(), 200)
            if status == 200 and self.path == "/v1/traces":
                moody.take_spans(ExportTraceServiceRequest.FromString(body))
            elif status == 200:
                moody.take_metrics(ExportMetricsServiceRequest.FromString(body))
            try:
                self.send_response(status)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()
            except OSError:
                self.close_connection = True  # whoever asked has given up

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:
                return

    with served(Handler, port) as found:
        yield found


@contextmanager
def _grpc(moody: Moody, port: int) -> Iterator[int]:
    def answer(context: grpc.ServicerContext) -> bool:
        code = _CODES.get(moody.decide())
        if code is not None:
            context.abort(code, "no")
        return True

    class Traces(TraceServiceServicer):
        def Export(  # noqa: N802 - gRPC's name
            self, request: ExportTraceServiceRequest, context: grpc.ServicerContext
        ) -> ExportTraceServiceResponse:
            if answer(context):
                moody.take_spans(request)
            return ExportTraceServiceResponse()

    class Metrics(MetricsServiceServicer):
        def Export(  # noqa: N802 - gRPC's name
            self, request: ExportMetricsServiceRequest, context: grpc.ServicerContext
        ) -> ExportMetricsServiceResponse:
            if answer(context):
                moody.take_metrics(request)
            return ExportMetricsServiceResponse()

    with ThreadPoolExecutor(8) as pool:
        server = grpc.server(pool)
        add_TraceServiceServicer_to_server(Traces(), server)  # type: ignore[no-untyped-call]
        add_MetricsServiceServicer_to_server(Metrics(), server)  # type: ignore[no-untyped-call]
        bound = server.add_insecure_port(f"127.0.0.1:{port}")
        server.start()
        try:
            yield bound
        finally:
            moody.becomes("takes")
            server.stop(None).wait()
