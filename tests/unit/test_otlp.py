"""What a process sends by OTLP, over HTTP and gRPC: spans and logs of one trace, without keys or words of errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.otlp import receiver

PROGRAM = """
import logging, pathlib, sys
from eagleray.cluster.telemetry import tracing
from eagleray.cluster.telemetry.logging import configure_file
configure_file(pathlib.Path(sys.argv[1]), "writer-0")
tracing.start("writer-0")
logger = logging.getLogger("writer")
with tracing.request("POST", "") as spans:
    logger.warning("took er_%s", "a" * 43, extra={"stream": "ui", "url": "postgresql://me:secret@host/db"})
    try:
        raise ValueError("pass" + "word")
    except ValueError:
        logger.exception("failed")
logging.getLogger("urllib3").warning("would never end")
tracing.flush()
logging.getLogger().handlers[1].flush()
print(spans.contexts[0])
"""


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_spans_and_logs_of_a_process_are_received_with_their_trace(tmp_path: Path, protocol: str) -> None:
    with receiver() as received:
        port = received.grpc_port if protocol == "grpc" else received.http_port
        environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL")}
        environ |= {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        }
        command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
        ran = subprocess.run(command, env=environ, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        trace = ran.stdout.strip()[3:35]
        assert {name: process for name, (process, _) in received.trace(trace).items()} == {"POST": "eagleray writer-0"}
        assert [record.body.string_value for _, record in received.logs] == ["took [key]", "failed"]
        assert {record.trace_id.hex() for _, record in received.logs} == {trace}
        first = {one.key: one.value.string_value for one in received.logs[0][1].attributes}
        assert first == {"logger": "writer", "stream": "ui", "url": "postgresql://[key]@host/db"}
        sent = "".join(str(record) for _, record in received.logs)
        assert "password" not in sent and "ValueError" in sent
    lines = [json.loads(line) for line in (tmp_path / "writer-0.log").read_text().splitlines()]
    assert [line.get("trace_id") for line in lines] == [trace, trace, None]


def test_a_run_its_jobs_and_their_steps_are_one_trace(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "a.sql").write_text("/* eagleray\noutput: reports.a\nmode: full\n*/\nSELECT 1 AS a\n")
    (tmp_path / "eagleray.yaml").write_text("data_dir: ./data\n")
    with receiver() as received:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL")}
        trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
        environ |= {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{received.http_port}"}
        command = [str(Path(sys.executable).parent / "eagleray"), "job", "run", "a"]
        environ["TRACEPARENT"] = f"00-{trace}-{parent}-01"
        ran = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        found = {name: span for name, (_, span) in received.trace(trace).items()}
    assert found.keys() == {"job run", "job a", "pin the inputs", "execute and publish"}
    assert found["job run"].parent_span_id.hex() == parent
    assert found["job a"].parent_span_id == found["job run"].span_id
    assert found["execute and publish"].parent_span_id == found["job a"].span_id
