"""Opens the Iceberg catalog that the configuration names. Used by `cluster.lake.lake` alone.

Default: pyiceberg's SQL catalog on a SQLite file, made safe for many processes: write-ahead log, a busy timeout instead
of "database is locked", a connection per use, one process at a time creating the tables. On Postgres: a small pool of
connections that are tried before use, time-outs, and again one process at a time that creates the tables. Any other
catalog gets its properties as they are written in `lake.catalog`.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import sqlalchemy
from pyiceberg.catalog import Catalog, MetastoreCatalog, load_catalog
from pyiceberg.catalog.sql import IcebergTables, SqlCatalog
from pyiceberg.exceptions import RESTError
from sqlalchemy.exc import NoSuchModuleError, OperationalError
from sqlalchemy.pool import NullPool, SingletonThreadPool

from eagleray.cluster.config import Config
from eagleray.cluster.database import close_with, open_postgres
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.file_lock import locked_beside
from eagleray.cluster.lake.durable_io import IMPLEMENTATION
from eagleray.cluster.lake.place import Place, check_missing, check_place, check_restored, record
from eagleray.cluster.machine_errors import advice

NAME = "eagleray"
_CREATING = 7205759403793  # of Postgres' advisory locks
BUSY_TIMEOUT_S = 30  # a locked catalog is waited for this long before the commit counts as unknown
_SQLITE = "sqlite:///"


def open_catalog(config: Config) -> Catalog:
    """Open (and on first use create) the catalog; raises ConfigError where its properties are wrong.

    And where it is a copy, was moved, or lost the tables that are here (`cluster.lake.place`).
    """
    check_restored(config.data_dir)
    settings = config.lake.catalog
    properties = {key: str(value) for key, value in (settings.model_extra or {}).items()}
    properties |= {"type": settings.type, "warehouse": config.warehouse}
    properties = file_properties(config) | properties
    if "://" not in config.warehouse:
        Path(config.warehouse).mkdir(parents=True, exist_ok=True)
    if settings.type == "sql":
        properties["uri"] = config.catalog_uri
        if config.catalog_uri.startswith(_SQLITE):
            return _open_sqlite(properties, place_of(config))
    elif settings.uri:
        properties["uri"] = settings.uri
    try:
        if settings.type == "rest":
            from eagleray.cluster.lake.rest_catalog import BoundedRestCatalog

            return BoundedRestCatalog(NAME, **properties)
        return _open_postgres(properties) if is_postgres(config) else load_catalog(NAME, **properties)
    except (ValueError, ImportError, NoSuchModuleError, OperationalError, OSError, RESTError) as error:
        cause = error.orig if isinstance(error, OperationalError) else error  # the statement says nothing to a user
        raise ConfigError(f"{config.file}: lake.catalog", str(cause)) from error


def file_properties(config: Config) -> dict[str, str]:
    """The properties that make pyiceberg read and write the warehouse's files as the configuration says."""
    if "://" not in config.warehouse:
        return {"py-io-impl": IMPLEMENTATION}
    if config.warehouse.startswith("s3://"):
        try:
            from eagleray.cluster.lake.s3_file_io import properties
        except ImportError as error:
            problem = f"an s3:// warehouse needs boto3 ({error}): pip install 'eagleray[s3]'"
            raise ConfigError(f"{config.file}: lake.warehouse", problem) from error
        return properties(config)
    return {}


def is_postgres(config: Config) -> bool:
    """Whether the catalog is a Postgres database."""
    return config.lake.catalog.type == "sql" and config.catalog_uri.startswith("postgresql")


def _open_postgres(properties: dict[str, str]) -> Catalog:
    engine = open_postgres(properties["uri"])
    with engine.connect() as connection:
        connection.exec_driver_sql(f"SELECT pg_advisory_lock({_CREATING})")  # two that find no tables would both create
        try:
            address = engine.url.render_as_string(hide_password=False)
            catalog = load_catalog(NAME, **{**properties, "uri": address})
        finally:
            connection.exec_driver_sql(f"SELECT pg_advisory_unlock({_CREATING})")
    assert isinstance(catalog, SqlCatalog)
    catalog.engine.dispose()
    catalog.engine = engine
    close_with(catalog, engine)
    return catalog


def place_of(config: Config) -> Place | None:
    """Where the configured lake is; None where files or catalog are not of this machine alone."""
    if config.lake.catalog.type != "sql" or not config.catalog_uri.startswith(_SQLITE) or "://" in config.warehouse:
        return None
    return Place(Path(config.catalog_uri.removeprefix(_SQLITE)).absolute(), Path(config.warehouse))


def _open_sqlite(properties: dict[str, str], place: Place | None) -> Catalog:
    file = Path(properties["uri"].removeprefix(_SQLITE))
    file.parent.mkdir(parents=True, exist_ok=True)
    with locked_beside(file):  # two processes that both find no tables would both create them
        if place and not file.exists():
            check_missing(place)
        try:
            with closing(sqlite3.connect(file, timeout=BUSY_TIMEOUT_S)) as connection:
                settled = place is None or check_place(connection, place)
                connection.execute("PRAGMA journal_mode=WAL")  # stays with the file
                if place and not settled:
                    with connection:
                        record(connection, place)
        except sqlite3.Error as error:
            what = advice(error, file) or "restore the file from a backup, or make it writable"
            raise ConfigError(f"lake.catalog: {file}", f"{error}: the catalog cannot be opened; {what}") from error
        catalog = load_catalog(NAME, **properties)
    assert isinstance(catalog, SqlCatalog)
    catalog.engine.dispose()
    catalog.engine = sqlalchemy.create_engine(
        properties["uri"], poolclass=NullPool, connect_args={"timeout": BUSY_TIMEOUT_S}
    )
    sqlalchemy.event.listen(catalog.engine, "connect", _durable)
    return catalog


@contextmanager
def kept_connection(catalog: Catalog) -> Iterator[None]:
    """Use one connection for all that follows in this thread: a new one for each use costs a third of a first start."""
    if not isinstance(catalog, SqlCatalog) or catalog.engine.dialect.name != "sqlite":
        yield
        return
    each = catalog.engine
    catalog.engine = sqlalchemy.create_engine(
        each.url, poolclass=SingletonThreadPool, connect_args={"timeout": BUSY_TIMEOUT_S}
    )
    sqlalchemy.event.listen(catalog.engine, "connect", _durable)
    try:
        yield
    finally:
        catalog.engine.dispose()
        catalog.engine = each


def _durable(connection: sqlite3.Connection, _: object) -> None:
    connection.execute("PRAGMA synchronous=FULL")  # in WAL mode: fsync on each commit


def free_location(catalog: Catalog, namespace: str, table: str) -> str | None:
    """Where a new table's files go where its own place is not free, for a renamed table has it; None: it is free."""
    if not isinstance(catalog, MetastoreCatalog):  # a REST server chooses places itself, and calls them so
        names = (name for space in catalog.list_namespaces() for name in catalog.list_tables(space))
        places = (catalog.load_table(name).location().rstrip("/") for name in names)
        own = next((place for place in places if place.endswith(f"/{namespace}/{table}")), None)
        return f"{own}-{uuid.uuid4().hex[:8]}" if own else None
    place = catalog._resolve_table_location(None, namespace, table)
    taken = _has_metadata_under(catalog, f"{place}/")
    return f"{place}-{uuid.uuid4().hex[:8]}" if taken else None


def _has_metadata_under(catalog: Catalog, place: str) -> bool:
    if isinstance(catalog, SqlCatalog):
        query = sqlalchemy.select(IcebergTables.table_name).where(
            IcebergTables.catalog_name == catalog.name,
            IcebergTables.metadata_location.startswith(place, autoescape=True),
        )
        with catalog.engine.connect() as connection:
            return connection.execute(query.limit(1)).first() is not None
    names = (name for space in catalog.list_namespaces() for name in catalog.list_tables(space))
    return any(catalog.load_table(name).metadata_location.startswith(place) for name in names)


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
