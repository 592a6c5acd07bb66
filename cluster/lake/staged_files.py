"""Data files that are written and not yet in a table: how old they may grow, and that a commit never adds a lost one.

A file that no snapshot names looks like an orphan (`cluster.lake.orphans`), and a writer that was stopped may come back
after it was deleted. Three rules together make every commit name files that are there:

1. An orphan is deleted only when it is at least GRACE_MIN_US old.
2. A commit adds no file that is so old or gone (`check_staged`), by a look after it read the table: what waited longer
   is written again.
3. Between finding orphans and deleting them, the table gets a new snapshot. A commit that looked at its files before
   that is refused by the catalog, and looks again.

A writer that takes longer than the grace for one result renews its files as it goes (`Renewal`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from pyarrow.fs import FileInfo, FileType
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table

from eagleray.cluster.clock import Clock
from eagleray.cluster.errors import FilesLost
from eagleray.cluster.lake.place import local_path

GRACE_MIN_US = 3_600_000_000
"""The least age at which a file without a snapshot may be deleted, and at which no commit adds it any more."""

RENEW_US = 600_000_000  # a sixth of the grace: a writer that is held up for a while is still in time


def check_staged(table: Table, files: Sequence[DataFile], now_us: int) -> None:
    """Raise FilesLost unless every one of `files` is there, whole and younger than GRACE_MIN_US."""
    if not files:
        return
    for file, found in zip(files, _looked_at(table, [file.file_path for file in files]), strict=True):
        name = ".".join(table.name())
        if found is None:
            raise FilesLost(f"{name}: {file.file_path} is gone: write its rows again")
        size, at_us = found
        if size != file.file_size_in_bytes:
            raise FilesLost(f"{name}: {file.file_path} has {size} bytes of {file.file_size_in_bytes}: write again")
        if at_us <= now_us - GRACE_MIN_US:
            raise FilesLost(f"{name}: {file.file_path} waited longer than a file may without a commit: write again")


def written_us(info: FileInfo) -> int:
    """When a file was written last; the beginning of time where the file system does not say."""
    return round(info.mtime.timestamp() * 1_000_000) if info.mtime is not None else 0


def _looked_at(table: Table, locations: Sequence[str]) -> list[tuple[int, int] | None]:
    """Of each file its size in bytes and when it was written; None where it is not there."""
    if not isinstance(table.io, PyArrowFileIO):  # `s3_file_io`
        known: list[tuple[int, int] | None] = table.io.store.looked_at(locations)  # type: ignore[attr-defined]
        return known
    scheme, netloc, _ = PyArrowFileIO.parse_location(locations[0])
    system = table.io.fs_by_scheme(scheme, netloc)
    infos = system.get_file_info([PyArrowFileIO.parse_location(location)[2] for location in locations])
    return [(info.size, written_us(info)) if info.type == FileType.File else None for info in infos]


class Renewal:
    """Keeps the finished files of a long result young while the rest is written; local files only.

    Object stores cannot: there, `orphans` with its default grace of days leaves time for any result.
    """

    def __init__(self, clock: Clock) -> None:
        """Nothing is due before RENEW_US have passed."""
        self._clock = clock
        self._at_us = clock.now_us()

    def keep(self, locations: Iterable[str]) -> None:
        """Renew the files at `locations` if it is time; raises FilesLost where that comes too late."""
        now_us = self._clock.now_us()
        if now_us - self._at_us < RENEW_US:
            return
        if now_us - self._at_us >= GRACE_MIN_US:
            raise FilesLost("the writer was held up for longer than its files may wait: write again")
        for location in locations:
            path = local_path(location)
            if path is not None:
                try:
                    os.utime(path)
                except FileNotFoundError as error:
                    raise FilesLost(f"{location} is gone: write its rows again") from error
        self._at_us = now_us
