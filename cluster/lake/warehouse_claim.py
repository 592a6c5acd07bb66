"""A bucket's folder belongs to one catalog: the one whose id stands in an object beside the tables.

Two machines that each have a catalog of their own, such as a SQLite file, over one `s3://` warehouse would not see each
other's tables, and one would delete the other's files as orphans. The first writes its id under If-None-Match; the
other is refused with what to do. Called by `cluster.lake.lake` before tables are made. REST and Glue catalogs keep an
order of their own, and are not asked.
"""

from __future__ import annotations

import json
import socket
from uuid import uuid4

import sqlalchemy
from pyiceberg.catalog import Catalog
from pyiceberg.catalog.sql import SqlCatalog

from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.lake.s3_file_io import S3FileIO, properties

CLAIM = "eagleray.catalog.json"

_TABLE = "CREATE TABLE IF NOT EXISTS eagleray_catalog (key VARCHAR(40) PRIMARY KEY, value VARCHAR(40) NOT NULL)"


def claim(config: Config, catalog: Catalog) -> None:
    """Make sure that the warehouse belongs to `catalog`; raises ConfigError where it is another's, OSError."""
    if not isinstance(catalog, SqlCatalog):
        return
    own = _catalog_id(catalog)
    store, location = S3FileIO(properties(config)).store, f"{config.warehouse.rstrip('/')}/{CLAIM}"
    try:
        found = store.get(location)
    except FileNotFoundError:
        found = json.dumps({"catalog": own, "made_on": socket.gethostname()}).encode()
        try:
            store.put(location, found, overwrite=False)
        except FileExistsError:  # another came first
            found = store.get(location)
    said = json.loads(found)
    if said["catalog"] != own:
        raise ConfigError(
            f"{config.file}: lake.catalog.uri",
            f"{config.warehouse} belongs to another catalog, made on {said['made_on']}: machines that share a warehouse"
            f" share a catalog, in Postgres; or choose another lake.warehouse (delete {location} if that one is lost)",
        )


def _catalog_id(catalog: SqlCatalog) -> str:
    """The id of the catalog's database, made on first use."""
    select = sqlalchemy.text("SELECT value FROM eagleray_catalog WHERE key = 'id'")
    insert = sqlalchemy.text(
        "INSERT INTO eagleray_catalog (key, value) VALUES ('id', :id) ON CONFLICT (key) DO NOTHING"
    )
    with catalog.engine.begin() as connection:
        connection.exec_driver_sql(_TABLE)
        connection.execute(insert, {"id": uuid4().hex})
        return str(connection.execute(select).scalar_one())
