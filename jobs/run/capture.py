"""Sends what an attempt prints or logs into its log: Python's streams, and what C libraries write to 1 and 2.

Standard input is empty meanwhile: a job that asks for a word gets the end of the file, and does not wait for ever.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TextIO, cast

from eagleray.cluster.masking import Mask, MaskedText
from eagleray.cluster.telemetry.logging import ConsoleFormatter

_CHATTY = ("pyiceberg", "py4j", "ray", "urllib3")  # what they say at level info concerns nobody


@contextmanager
def captured(log: Path, mask: Mask) -> Iterator[TextIO]:
    """Within the block, standard output and error of this process are appended to `log`.

    Python's own are masked as they come, what other programs and C libraries write at the end.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    begin = log.stat().st_size if log.exists() else 0
    with log.open("a", buffering=1, encoding="utf-8", errors="backslashreplace") as raw:
        file = cast(TextIO, MaskedText(raw, mask))
        handler = logging.StreamHandler(file)
        handler.setFormatter(ConsoleFormatter())
        handler.addFilter(lambda record: record.levelno > logging.INFO or not record.name.startswith(_CHATTY))
        root = logging.getLogger()
        level = root.level
        root.addHandler(handler)
        root.setLevel(min(level, logging.INFO))
        try:
            with _nothing_to_read(), _descriptors(file.fileno()), redirect_stdout(file), redirect_stderr(file):
                yield file
        finally:
            root.removeHandler(handler)
            root.setLevel(level)
            file.flush()
            mask.file(log, begin)


@contextmanager
def _nothing_to_read() -> Iterator[None]:
    nothing, saved, stdin = os.open(os.devnull, os.O_RDONLY), _kept(0), sys.stdin
    try:
        os.dup2(nothing, 0)
        with open(os.devnull) as sys.stdin:
            yield
    finally:
        sys.stdin = stdin
        if saved is not None:
            os.dup2(saved, 0)
            os.close(saved)
        os.close(nothing)


def _kept(number: int) -> int | None:
    """A second handle of a descriptor; None where it is closed."""
    try:
        return os.dup(number)
    except OSError:
        return None


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
