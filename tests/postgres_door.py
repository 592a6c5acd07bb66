"""SQL over Postgres' protocol in the test's own process, over a lake with a few rows, with keys of different scopes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg

from eagleray.cluster.api_keys import KeyStore
from eagleray.cluster.clock import SystemClock
from eagleray.cluster.config import Config
from eagleray.cluster.lake.lake import Lake
from eagleray.sql.postgres.server import PostgresServer
from tests.lake_tables import event_rows, make_lake, make_stream
from tests.sql_lake import land

SCOPES = {"ann": ["read"], "bob": ["read:other"], "root": ["admin"]}


class Door:
    """A server over a lake, and who may come in."""

    def __init__(self, directory: Path) -> None:
        self.lake: Lake = make_lake(directory, make_stream(), make_stream(name="other"))
        land(self.lake, event_rows(20), event_rows(20, 20))
        sql = Config.model_validate({"sql": {"postgres": {"port": 0}}}).sql
        streams = {"s": make_stream().config}
        self.config = self.lake.config.model_copy(update={"sql": sql, "streams": streams})
        store = KeyStore(self.config.keys_file, SystemClock())
        self.keys = {name: store.create(name, scopes) for name, scopes in SCOPES.items()}
        self.server = PostgresServer(self.config)

    def words(self, user: str = "ann", **more: Any) -> dict[str, Any]:
        words = {"host": "127.0.0.1", "port": self.server.port, "user": user, "dbname": "lake"}
        return {**words, "password": self.keys[user], **more}

    def connect(self, user: str = "ann", **more: Any) -> psycopg.Connection[Any]:
        return psycopg.connect(**self.words(user, autocommit=True, **more))
