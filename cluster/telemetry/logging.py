"""Structured logs on stderr, one line each, as JSON or for people. Called once by every process as it starts.

Fields are given as `logger.info("took over", extra={"stream": name})`. Promise: what looks like an API key never leaves
the process, and callers log names and counts, never the content of events.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
from typing import IO, Any, Literal

from cluster.clock import iso

Form = Literal["json", "console"]

_SECRET = re.compile(r"er_[A-Za-z0-9_-]{8,}|(?i:bearer)\s+\S+")
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
    """One JSON object a line: time, level, logger, message, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Render a record; never fails on a field that JSON does not know."""
        line: dict[str, Any] = {
            "time": iso(int(record.created * 1e6)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
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
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else ConsoleFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
