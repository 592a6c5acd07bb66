"""The real OpenTelemetry Collector gets the trace of an event from every process, by gRPC, and the logs beside it."""

from __future__ import annotations

import json
import secrets
from datetime import UTC, datetime
from pathlib import Path

from tests.running_platform import RunningPlatform, eventually, running
from tests.servers.collector import collector

PROJECT = Path(__file__).parent / "project"
WAY = {"POST", "read the body", "wait until it is durable", "validate", "append to the log", "write", "commit"}


def test_a_collector_receives_the_trace_of_an_event(tmp_path: Path) -> None:
    with collector(tmp_path) as server:
        environ = {
            "OTEL_SDK_DISABLED": "false",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{server.grpc_port}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": "0",
        }
        with running(RunningPlatform(tmp_path / "platform", PROJECT, environ)) as platform:
            trace, parent = secrets.token_hex(16), secrets.token_hex(8)
            now = datetime.now(UTC).isoformat()  # noqa: TID251
            body = json.dumps([{"time": now, "id": "a", "user": "u"}]).encode()
            headers = {"Content-Type": "application/json", "traceparent": f"00-{trace}-{parent}-01"}
            status, _, _ = platform.request("POST", "/v1/streams/clicks/events", body, headers)
            assert status == 200
            found = eventually(lambda: (made := server.spans(trace)).keys() >= WAY and made)
            assert found["POST"]["parentSpanId"] == parent
            assert found["commit"]["parentSpanId"] == found["write"]["spanId"]
            assert any("edge listens" in record["body"]["stringValue"] for record in server.logs())
