"""Says which file of the lake is damaged where reading fails: parsers name a byte, or nothing at all.

Used by `lake`, `pin`, `scan` and `schema_evolution`. A file that is not there stays a FileNotFoundError, for it may
have been expired meanwhile, and whoever pinned the table looks again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyiceberg.exceptions import NoSuchTableError, RESTError
from pyiceberg.exceptions import ValidationError as IcebergError
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot

from eagleray.cluster.errors import EaglerayError, LakeDamaged

ADVICE = "restore it from a backup (`eagleray restore`); `eagleray doctor --deep` names all that is damaged"
_NOT_DAMAGE = (EaglerayError, OSError, MemoryError, NoSuchTableError, RESTError)


def missing(error: FileNotFoundError) -> str:
    """Which file is not there, whether Python or Arrow says so."""
    found = error.filename or next(iter(re.findall(r"local file '(.+?)'", str(error))), None)
    return f"{found} is missing" if found else str(error)


@contextmanager
def metadata_of(table: str, location: str | None = None) -> Iterator[None]:
    """Raise LakeDamaged where the metadata of `table`, in the file at `location`, is not what it should be."""
    try:
        yield
    except _NOT_DAMAGE:
        raise
    except (ValueError, EOFError, TypeError, KeyError, IcebergError) as error:  # pydantic's errors are ValueErrors
        problem = " ".join(str(error).split())[:200]
        file = f" {location}" if location else ""
        raise LakeDamaged(f"the metadata{file} of table {table} is cut or damaged ({problem}); {ADVICE}") from error


@contextmanager
def manifests_of(name: str, table: Table, snapshot: Snapshot | None) -> Iterator[None]:
    """Raise LakeDamaged where a manifest of the snapshot cannot be read; other errors come through."""
    try:
        yield
    except _NOT_DAMAGE:
        raise
    except Exception as error:
        if (damaged := _unreadable(table, snapshot)) is None:
            raise
        path, cause = damaged
        problem = f"{path} of table {name} is cut or damaged ({type(cause).__name__}: {cause})"
        raise LakeDamaged(f"{problem}; {ADVICE}") from error


def _unreadable(table: Table, snapshot: Snapshot | None) -> tuple[str, Exception] | None:
    """The first manifest that cannot be read, and why."""
    if snapshot is None:
        return None
    try:
        manifests: list[Any] = snapshot.manifests(table.io)
    except Exception as error:
        return snapshot.manifest_list, error
    for manifest in manifests:
        try:
            manifest.fetch_manifest_entry(table.io)
        except Exception as error:
            return manifest.manifest_path, error
    return None
