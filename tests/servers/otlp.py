"""A receiver of OpenTelemetry's protocol, HTTP and gRPC, that keeps what it gets: CI's stand-in for a Collector."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as traces

KINDS: dict[str, Any] = {
    "/v1/traces": (traces, traces.ExportTraceServiceRequest, traces.ExportTraceServiceResponse),
    "/v1/logs": (logs, logs.ExportLogsServiceRequest, logs.ExportLogsServiceResponse),
}


class Received:
    """Spans and logs, as protobuf, each with the process that sent it."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.spans: list[tuple[str, Any]] = []
        self.logs: list[tuple[str, Any]] = []
        self.http_port = self.grpc_port = 0

    def keep(self, message: Any) -> None:
        """Take one request's."""
        for group in [*getattr(message, "resource_spans", ()), *getattr(message, "resource_logs", ())]:
            about = {one.key: one.value.string_value for one in group.resource.attributes}
            process = f"{about['service.name']} {about['service.instance.id']}"
            for scope in getattr(group, "scope_spans", ()):
                self.spans += [(process, span) for span in scope.spans]
            for scope in getattr(group, "scope_logs", ()):
                self.logs += [(process, record) for record in scope.log_records]

    def trace(self, trace_id: str) -> dict[str, tuple[str, Any]]:
        """The spans of a trace, by name."""
        return {span.name: (process, span) for process, span in self.spans if span.trace_id.hex() == trace_id}


def _handler(received: Received) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            _, ask, answer = KINDS[self.path]
            received.keep(ask.FromString(self.rfile.read(int(self.headers["Content-Length"]))))
            body = answer().SerializeToString()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler


def _grpc(received: Received) -> Any:
    server = grpc.server(ThreadPoolExecutor(2))
    for service, ask, answer in KINDS.values():

        def export(message: Any, _: object, answer: Any = answer) -> Any:
            received.keep(message)
            return answer()

        name = next(iter(service.DESCRIPTOR.services_by_name.values())).full_name
        method = grpc.unary_unary_rpc_method_handler(export, ask.FromString, answer.SerializeToString)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"Export": method}),))
    received.grpc_port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server


@contextmanager
def receiver() -> Iterator[Received]:
    """Listens on two free ports of this machine."""
    received = Received()
    http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(received))
    received.http_port = http.server_address[1]
    by_grpc = _grpc(received)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield received
    finally:
        http.shutdown()
        http.server_close()
        by_grpc.stop(0).wait()
        thread.join()
