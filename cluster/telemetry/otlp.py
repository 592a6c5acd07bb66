"""OpenTelemetry's side: exporters, providers, and logs by OTLP. Imported only where its variables ask for an export.

What is sent of a log line is what stands in the file: message and fields without keys, the class of a failure and where
it was, never its words.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from typing import Any

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import TraceFlags

from eagleray.cluster.telemetry import tracing

SERVICE = "eagleray"
OF_EXPORT = ("opentelemetry", "urllib3", "requests", "grpc")  # loggers of what sends logs: they would never end
PLAIN = (str, bool, int, float)
Line = Callable[[logging.LogRecord], str]
"""A log record as one line of JSON."""


def tracer_provider(process: str) -> TracerProvider:
    """Sends the spans of this process; raises ImportError without the exporter."""
    provider = TracerProvider(sampler=ALWAYS_ON, resource=_resource(process))  # the coin was tossed before
    provider.add_span_processor(BatchSpanProcessor(_exporter("traces")))
    return provider


class OtlpHandler(logging.Handler):
    """Sends logs; `line` says what of a record. Raises ImportError without the exporter."""

    def __init__(self, process: str, line: Line) -> None:
        """`process` names this one."""
        super().__init__()
        self._line = line
        self._provider = LoggerProvider(resource=_resource(process))
        self._provider.add_log_record_processor(BatchLogRecordProcessor(_exporter("logs")))
        self._logger = self._provider.get_logger(SERVICE)

    def emit(self, record: logging.LogRecord) -> None:
        """Put one record into the queue of what is sent; a full queue drops it."""
        if record.name.partition(".")[0] in OF_EXPORT:
            return
        fields: dict[str, Any] = json.loads(self._line(record))
        context, message = tracing.current(), fields.pop("message")
        for name in ("time", "level", "trace_id", "span_id"):
            fields.pop(name, None)
        self._logger.emit(
            LogRecord(
                timestamp=int(record.created * 1e9),
                severity_text=record.levelname,
                severity_number=_severity(record.levelno),
                trace_id=int(tracing.trace_id(context), 16) if context else None,
                span_id=int(tracing.span_id(context), 16) if context else None,
                trace_flags=TraceFlags(TraceFlags.SAMPLED if context else TraceFlags.DEFAULT),
                body=message,
                attributes={name: value if isinstance(value, PLAIN) else str(value) for name, value in fields.items()},
            )
        )

    def flush(self) -> None:
        """Send what waits."""
        self._provider.force_flush()

    def close(self) -> None:
        """Send what waits, and end the sender's thread."""
        self._provider.shutdown()
        super().close()


def _severity(level: int) -> SeverityNumber:
    if level >= logging.ERROR:
        return SeverityNumber.FATAL if level >= logging.CRITICAL else SeverityNumber.ERROR
    if level >= logging.WARNING:
        return SeverityNumber.WARN
    return SeverityNumber.INFO if level >= logging.INFO else SeverityNumber.DEBUG


def _resource(process: str) -> Resource:
    """The service of OTEL_SERVICE_NAME, by default `eagleray`, and the process."""
    own = {SERVICE_INSTANCE_ID: process}
    if "OTEL_SERVICE_NAME" not in os.environ:
        own[SERVICE_NAME] = SERVICE
    return Resource.create(own)


def _exporter(signal: str) -> Any:
    """By OTEL_EXPORTER_OTLP_PROTOCOL, or the signal's own; `http/protobuf` is the default."""
    own = os.environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL")
    if (own or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")) == "grpc":
        return _by_grpc(signal)
    return _by_http(signal)


def _by_grpc(signal: str) -> Any:
    from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter() if signal == "traces" else OTLPLogExporter()


def _by_http(signal: str) -> Any:
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter() if signal == "traces" else OTLPLogExporter()
