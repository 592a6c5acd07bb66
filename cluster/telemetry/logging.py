"""Structured logs, one line each, as JSON or for people. Called once by every process as it starts.

Actors write to a file of their own, rotated and bounded; commands write to stderr.

Fields are given as `logger.info("took over", extra={"stream": name})`. Promise: what looks like an API key never leaves
the process, and callers log names and counts, never the content of events.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import re
import sys
import traceback
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import IO, Any, Literal

from eagleray.cluster.clock import iso
from eagleray.cluster.telemetry import tracing

logger = logging.getLogger(__name__)

LOG_BYTES_MAX = 8 << 20  # of one file
LOGS_KEPT = 3  # older files of the same process
CRASHES_BYTES_MAX = 1 << 20  # some hundred crashes; then the file begins anew
# Libraries that say a line for every table that is opened or request that is made: thousands an hour that say nothing.
CHATTY = ("pyiceberg", "aiokafka", "boto3", "botocore", "s3transfer", "urllib3", "requests", "filelock", "asyncio")
SENDING = "opentelemetry"  # says each try that failed while the collector is away; ERROR says what is given up
Form = Literal["json", "console"]

_SECRET = re.compile(r"er_[A-Za-z0-9_-]{8,}|(?i:bearer)\s+\S+|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def redact(text: str) -> str:
    """`text` without anything that looks like a key."""
    return _SECRET.sub("[key]", text)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    # Ray stamps every record with private fields of its own once it is imported.
    return {name: value for name, value in vars(record).items() if name not in _STANDARD and name[0] != "_"}


def _failure(record: logging.LogRecord) -> str:
    """Where it broke and what broke; not the error's own words, which may quote an event."""
    if not record.exc_info or record.exc_info[0] is None:
        return ""
    kind, _, at = record.exc_info
    return "".join(traceback.format_tb(at)) + kind.__name__


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the fields, and the trace where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Render a record; never fails on a field that JSON does not know."""
        line: dict[str, Any] = {
            "time": iso(int(record.created * 1e6)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if context := tracing.current():
            line |= {"trace_id": tracing.trace_id(context), "span_id": tracing.span_id(context)}
        if failure := _failure(record):
            line["failure"] = failure
        return redact(json.dumps(line, default=str, ensure_ascii=False))


class ConsoleFormatter(logging.Formatter):
    """Time, level, logger, message and `field=value` for people."""

    def format(self, record: logging.LogRecord) -> str:
        """Render a record."""
        fields = "".join(f" {name}={value}" for name, value in _fields(record).items())
        failure = _failure(record)
        line = f"{iso(int(record.created * 1e6))} {record.levelname:<7} {record.name}: {record.getMessage()}{fields}"
        return redact(f"{line}\n{failure}" if failure else line)


def configure(form: Form = "json", level: str = "info", stream: IO[str] | None = None) -> None:
    """Send every log of this process to `stream` (default stderr) from `level` on; replaces earlier settings."""
    _install(logging.StreamHandler(stream or sys.stderr), form, level)


def configure_file(directory: Path, process: str, level: str = "info") -> None:
    """Send every log of this process to `PROCESS.log` in `directory`, as JSON; what kills it goes to `PROCESS.crash`.

    Besides to an OTLP collector, where OpenTelemetry's variables name one (`telemetry.otlp`). Where the file cannot be
    opened, logs go to stderr: a full disk must not keep a process from starting.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = directory / f"{process}.log"
        handler = RotatingFileHandler(file, maxBytes=LOG_BYTES_MAX, backupCount=LOGS_KEPT, encoding="utf-8")
        _catch_crashes(directory / f"{process}.crash")
    except OSError as error:
        configure("json", level)
        logger.warning("logs go to stderr: %s", error)
        return
    _install(handler, "json", level)
    if tracing.wanted("logs", os.environ):
        _send(process)


def _send(process: str) -> None:
    try:
        from eagleray.cluster.telemetry.otlp import OtlpHandler

        logging.getLogger().addHandler(OtlpHandler(process, JsonFormatter().format))
    except ImportError:
        logger.warning(tracing.HINT)


def _install(handler: logging.Handler, form: Form, level: str) -> None:
    handler.setFormatter(JsonFormatter() if form == "json" else ConsoleFormatter())
    root = logging.getLogger()
    for old in root.handlers:
        if isinstance(old, RotatingFileHandler) or type(old).__module__ == f"{__package__}.otlp":
            old.close()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in CHATTY:
        logging.getLogger(name).setLevel(max(root.level, logging.WARNING))
    logging.getLogger(SENDING).setLevel(logging.ERROR)


def _catch_crashes(file: Path) -> None:
    """Let a fatal signal write the stacks of all threads to `file`, after those of earlier lives."""
    if file.exists() and file.stat().st_size > CRASHES_BYTES_MAX:
        file.unlink()
    stacks = file.open("a")
    faulthandler.enable(stacks)
    _held.append(stacks)  # faulthandler keeps only the number


_held: list[IO[str]] = []
