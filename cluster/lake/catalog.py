"""Opens the Iceberg catalog that the configuration names. Used by `cluster.lake.lake` alone.

Default: pyiceberg's SQL catalog on a SQLite file, made safe for many processes: write-ahead log, a busy timeout instead
of "database is locked", a connection per use, one process at a time creating the tables. Any other catalog gets its
properties as they are written in `lake.catalog`.
"""

from __future__ import annotations

import fcntl
import sqlite3
from contextlib import closing
from pathlib import Path

import sqlalchemy
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.catalog.sql import IcebergTables, SqlCatalog
from sqlalchemy.pool import NullPool

from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.lake.durable_io import IMPLEMENTATION

NAME = "eagleray"
BUSY_TIMEOUT_S = 30  # a locked catalog is waited for this long before the commit counts as unknown
_SQLITE = "sqlite:///"


def open_catalog(config: Config) -> Catalog:
    """Open (and on first use create) the catalog; raises ConfigError where its properties are wrong."""
    settings = config.lake.catalog
    properties = {key: str(value) for key, value in (settings.model_extra or {}).items()}
    properties |= {"type": settings.type, "warehouse": config.warehouse}
    if "://" not in config.warehouse:
        Path(config.warehouse).mkdir(parents=True, exist_ok=True)
        properties.setdefault("py-io-impl", IMPLEMENTATION)
    if settings.type == "sql":
        properties["uri"] = config.catalog_uri
        if config.catalog_uri.startswith(_SQLITE):
            return _open_sqlite(properties)
    elif settings.uri:
        properties["uri"] = settings.uri
    try:
        return load_catalog(NAME, **properties)
    except (ValueError, ImportError) as error:
        raise ConfigError(f"{config.file}: lake.catalog", str(error)) from error


def _open_sqlite(properties: dict[str, str]) -> Catalog:
    file = Path(properties["uri"].removeprefix(_SQLITE))
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_name(f"{file.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two processes that both find no tables would both create them
        try:
            with closing(sqlite3.connect(file, timeout=BUSY_TIMEOUT_S)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")  # stays with the file
        except sqlite3.Error as error:
            advice = "the catalog cannot be opened; restore the file from a backup, or make it writable"
            raise ConfigError(f"lake.catalog: {file}", f"{error}: {advice}") from error
        catalog = load_catalog(NAME, **properties)
    assert isinstance(catalog, SqlCatalog)
    catalog.engine.dispose()
    catalog.engine = sqlalchemy.create_engine(
        properties["uri"], poolclass=NullPool, connect_args={"timeout": BUSY_TIMEOUT_S}
    )
    sqlalchemy.event.listen(catalog.engine, "connect", _durable)
    return catalog


def _durable(connection: sqlite3.Connection, _: object) -> None:
    connection.execute("PRAGMA synchronous=FULL")  # in WAL mode: fsync on each commit


def metadata_location(catalog: Catalog, namespace: str, table: str) -> str | None:
    """Where the table's current metadata is, without reading it; None where the catalog cannot tell that cheaply."""
    if not isinstance(catalog, SqlCatalog):
        return None
    query = sqlalchemy.select(IcebergTables.metadata_location).where(
        IcebergTables.catalog_name == catalog.name,
        IcebergTables.table_namespace == namespace,
        IcebergTables.table_name == table,
    )
    with catalog.engine.connect() as connection:
        return connection.execute(query).scalar()
