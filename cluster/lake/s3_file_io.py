"""pyiceberg's file access for `s3://` warehouses, over `s3_store` and `file_cache`.

Every process that opens the lake has one store and one cache for each set of properties. Objects are written with
If-None-Match where they must not replace another, such as a table's metadata.
"""

from __future__ import annotations

import io
import os
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, cast

from pyiceberg.io import FileIO, InputFile, InputStream, OutputFile, OutputStream
from pyiceberg.typedef import EMPTY_DICT, Properties

from eagleray.cluster.config import Config
from eagleray.cluster.lake import s3_store
from eagleray.cluster.lake.file_cache import FileCache, Ranges
from eagleray.cluster.lake.range_file import FileStream
from eagleray.cluster.lake.s3_store import S3Store, S3Upload

IMPLEMENTATION = "eagleray.cluster.lake.s3_file_io.S3FileIO"
"""For pyiceberg's property `py-io-impl`."""

_CACHE, _CACHE_BYTES = "eagleray.cache.directory", "eagleray.cache.bytes"
_WHOLE = (".json", ".avro")  # read as a whole: metadata, manifests and their lists
_OWN = ("s3.", "client.", "eagleray.s3.")  # a table's properties are among those given, and change with each commit


def properties(config: Config) -> dict[str, str]:
    """The catalog properties that make pyiceberg use this module for the warehouse of `config`."""
    cache = {_CACHE: str(config.cache_dir), _CACHE_BYTES: str(config.lake.cache_bytes_max)}
    return {"py-io-impl": IMPLEMENTATION, **cache, **s3_store.properties(config)}


class S3FileIO(FileIO):
    """Files of a lake in an S3-compatible store. Pickles."""

    def __init__(self, properties: Properties = EMPTY_DICT) -> None:
        """`properties` of the catalog, and those that a REST catalog hands out with a table."""
        super().__init__(properties)
        own = tuple(sorted((k, str(v)) for k, v in properties.items() if k.startswith(_OWN) and v is not None))
        self._key = (os.getpid(), own)

    def __reduce__(self) -> tuple[Any, ...]:
        return S3FileIO, (dict(self.properties),)

    @property
    def store(self) -> S3Store:
        """The store behind."""
        return _store(*self._key)

    def new_input(self, location: str) -> InputFile:
        """The file at `location`."""
        return _Input(location, self.store, _cache(self.properties.get(_CACHE), self.properties.get(_CACHE_BYTES)))

    def new_output(self, location: str) -> OutputFile:
        """A file to be written at `location`."""
        return _Output(location, self, _cache(self.properties.get(_CACHE), self.properties.get(_CACHE_BYTES)))

    def delete(self, location: str | InputFile | OutputFile) -> None:
        """Delete the file; raises OSError where the store refuses."""
        self.store.delete(location if isinstance(location, str) else location.location)


@lru_cache(maxsize=16)
def _store(_process: int, own: tuple[tuple[str, str], ...]) -> S3Store:
    return S3Store(dict(own))


@lru_cache(maxsize=4)
def _cache(directory: str | None, bytes_max: str | None) -> FileCache | None:
    return FileCache(Path(directory), int(bytes_max or 0)) if directory else None


class _Input(InputFile):
    """A file to read."""

    def __init__(self, location: str, store: S3Store, cache: FileCache | None) -> None:
        super().__init__(location)
        self._store = store
        self._cache = cache

    def __len__(self) -> int:
        return self._store.size(self.location)

    def exists(self) -> bool:
        """Whether it is there."""
        return self._store.exists(self.location)

    def open(self, seekable: bool = True) -> InputStream:
        """A stream of it; metadata is read at once, other files by ranges."""
        if self.location.endswith(_WHOLE):
            return io.BytesIO(self._whole())
        return cast(InputStream, FileStream(self.ranges(len(self))))

    def _whole(self) -> bytes:
        if self._cache is None:
            return self._store.get(self.location)
        return self._cache.whole(self.location, lambda: self._store.get(self.location))

    def ranges(self, size: int) -> Ranges:
        """The file, known to have `size` bytes, to be read in ranges."""
        location, store = self.location, self._store

        def fetch(start: int, length: int) -> bytes:
            return store.get(location, start, length)

        assert self._cache is not None, "opened with the properties of a configuration"
        return self._cache.open(location, size, fetch)


class _Output(OutputFile):
    """A file to write."""

    def __init__(self, location: str, own: S3FileIO, cache: FileCache | None) -> None:
        super().__init__(location)
        self._own = own
        self._cache = cache
        self._upload: S3Upload | None = None

    def __len__(self) -> int:
        if self._upload is not None and self._upload.confirmed:  # by its checksum
            return self._upload.tell()
        return self._own.store.size(self.location)

    def exists(self) -> bool:
        """Whether it is there."""
        return self._own.store.exists(self.location)

    def to_input_file(self) -> InputFile:
        """The same to be read."""
        return self._own.new_input(self.location)

    def create(self, overwrite: bool = False) -> OutputStream:
        """A stream into it. Unless `overwrite`, closing it raises FileExistsError where another file is there."""
        kept = partial(self._cache.keep, self.location) if self._cache and self.location.endswith(_WHOLE) else None
        self._upload = self._own.store.upload(self.location, overwrite, kept)
        return self._upload
