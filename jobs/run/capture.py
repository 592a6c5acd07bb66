"""Sends what an attempt prints or logs into its log: Python's streams, and what C libraries write to 1 and 2."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TextIO

from eagleray.cluster.telemetry.logging import ConsoleFormatter

_CHATTY = ("pyiceberg", "py4j", "ray", "urllib3")  # what they say at level info concerns nobody


@contextmanager
def captured(log: Path) -> Iterator[TextIO]:
    """Within the block, standard output and error of this process are appended to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", buffering=1, encoding="utf-8", errors="backslashreplace") as file:
        handler = logging.StreamHandler(file)
        handler.setFormatter(ConsoleFormatter())
        handler.addFilter(lambda record: record.levelno > logging.INFO or not record.name.startswith(_CHATTY))
        root = logging.getLogger()
        level = root.level
        root.addHandler(handler)
        root.setLevel(min(level, logging.INFO))
        try:
            with _descriptors(file.fileno()), redirect_stdout(file), redirect_stderr(file):
                yield file
        finally:
            root.removeHandler(handler)
            root.setLevel(level)


@contextmanager
def _descriptors(target: int) -> Iterator[None]:
    kept = {}
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        stream.flush()
        kept[number] = os.dup(number)
        os.dup2(target, number)
    try:
        yield
    finally:
        for number, saved in kept.items():
            os.dup2(saved, number)
            os.close(saved)
