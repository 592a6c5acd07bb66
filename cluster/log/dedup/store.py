"""Where a deduplicator keeps its runs: names, the manifest, ownership, deletion. Used by `dedup`.

The manifest names the valid files, and is the word of a place (`cluster.state`): it is replaced in one step, and only
by the place's owner. A file that it does not name does not count. A former owner that wakes up again is refused.
All of it is synced before it is named, and has a checksum: a torn or altered file is found out, and the cache is empty.
"""

from __future__ import annotations

import json
import secrets
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from eagleray.cluster.log.dedup.journal import IdJournal, JournalMark
from eagleray.cluster.log.dedup.run import IdRun
from eagleray.cluster.state.protocol import Claim, Fenced, Place

_VERSION = 3


@dataclass(frozen=True)
class Manifest:
    """What a place holds: ids of all records below `complete`. Exact for restores to an offset from `floor` on.

    `log` is the identity of the log that the records are of; ids that are older than `horizon_us` may be missing.
    """

    log: str = ""
    horizon_us: int = 0
    complete: int = 0
    floor: int = 0
    runs: list[str] = field(default_factory=list)  # oldest first
    journal: JournalMark | None = None  # newer than all runs
    version: int = _VERSION


class IdStore:
    """The runs of one deduplicator, in a place (`take_over`) or private to this process (`private`)."""

    def __init__(self, directory: Path, claim: Claim | None, manifest: Manifest) -> None:
        """Use `take_over` or `private`."""
        self.directory = directory
        self.manifest = manifest
        self._claim = claim  # None: private
        self._garbage: list[IdRun | IdJournal] = []

    @classmethod
    def private(cls) -> IdStore:
        """A directory that goes when this object goes."""
        store = cls(Path(tempfile.mkdtemp(prefix="eagleray-ids-")), None, Manifest())
        weakref.finalize(store, shutil.rmtree, store.directory, ignore_errors=True)
        return store

    @classmethod
    def take_over(cls, place: Place) -> IdStore:
        """Become the owner of `place`; `manifest` is what the last one left. Raises OSError."""
        claim = place.claim()
        return cls(claim.directory, claim, _parsed(claim.word))

    @property
    def owned(self) -> bool:
        """Whether it is in a place, for a successor."""
        return self._claim is not None

    def path(self, first: int, end: int) -> Path:
        """A new name for a run with ids of records in [first, end)."""
        return self.directory / f"{first:020d}-{end:020d}-{secrets.token_hex(4)}.ids"

    def journal_path(self, first: int) -> Path:
        """A new name for a journal of ids of records from `first` on."""
        return self.directory / f"{first:020d}-{secrets.token_hex(4)}.journal"

    def fetch(self, name: str, size: int | None = None) -> Path:
        """A file that the manifest names, with `size` bytes; raises OSError."""
        return self.directory / name if self._claim is None else self._claim.fetch(name, size)

    def discard(self, files: Sequence[IdRun | IdJournal]) -> None:
        """Delete these after the next `publish`, which no longer names them."""
        self._garbage += files

    def publish(self, manifest: Manifest, runs: Sequence[IdRun], journal: IdJournal | None) -> bool:
        """Make these files the valid ones; False if another one owns the place now. Raises OSError.

        `manifest` is without files.
        """
        if self._claim is not None:
            manifest = replace(
                manifest, runs=[run.path.name for run in runs], journal=journal.mark if journal else None
            )
            for run in runs:
                self._claim.store(run.path.name, run.size)
            if journal is not None:
                self._claim.store(journal.path.name, journal.mark.size)
            try:
                self._claim.publish(json.dumps(asdict(manifest)))
            except Fenced:
                return False
            self.manifest = manifest
        garbage, self._garbage = self._garbage, []
        for file in garbage:
            file.close()
            file.path.unlink(missing_ok=True)
            if self._claim is not None:
                self._claim.remove(file.path.name)
        return True

    def sweep(self) -> None:
        """Delete files that the manifest does not name: left by a killed or a former owner. Raises OSError, Fenced."""
        if self._claim is not None:
            self._claim.sweep({*self.manifest.runs, *([self.manifest.journal.name] if self.manifest.journal else ())})


def _parsed(word: str | None) -> Manifest:
    """The manifest; an empty one where there is none that this version can use."""
    try:
        found = json.loads(word or "")
        journal = found.pop("journal")
        manifest = Manifest(**found, journal=JournalMark(**journal) if journal else None)
    except (ValueError, TypeError, KeyError, AttributeError):
        return Manifest()
    return manifest if manifest.version == _VERSION else Manifest()
