"""What a disk needs to be told so that a new or renamed file survives a power cut. Used wherever files are made."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path


def sync_directory(directory: Path) -> None:
    """Make the entries of `directory` durable; raises OSError. A file's own fsync does not cover its name."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, text: str) -> None:
    """Put `text` in the place of what is there, durably and in one step; raises OSError, and then the old text stays.

    For one writer at a time: what a killed one left aside is written over.
    """
    making = path.with_name(f"{path.name}.making")
    _write(making, text, os.O_TRUNC)
    making.replace(path)
    sync_directory(path.parent)


def write_once(path: Path, text: str) -> None:
    """Make `path` durably, unless it is there: of many who write at once, one wins. Raises OSError."""
    making = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        _write(making, text, os.O_EXCL)
        with suppress(FileExistsError):  # unlike a rename, a link fails where another was faster
            os.link(making, path)
    finally:
        making.unlink(missing_ok=True)
    sync_directory(path.parent)


def _write(path: Path, text: str, how: int) -> None:
    """A synced file for its owner alone."""
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC | how, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
