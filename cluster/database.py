"""Connections to a Postgres that others share: pooled, tried before use, and bounded in time.

Used by the lake's catalog and the jobs' history. A server that restarts costs one failed statement at most: whoever
gets a connection afterwards gets a new one.
"""

from __future__ import annotations

import weakref
from typing import Any

import sqlalchemy
from sqlalchemy.engine import Engine

POOL = 2  # connections that a process keeps
POOL_MORE = 6  # and opens for a while, where more threads ask at once
POOL_WAIT_S = 10.0  # for one of them
CONNECT_S = 5
STATEMENT_S = 30
LOCK_S = 15  # a row that somebody else holds
UNANSWERED_S = 30  # sent, and not acknowledged by the server's machine: the connection is given up
_NOW_US = sqlalchemy.text("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")


def open_postgres(url: str, **options: Any) -> Engine:
    """An engine for `url`; nothing is connected yet. Raises ImportError without psycopg, ArgumentError for a bad URL.

    What the URL says of `connect_timeout` or `options` wins. The password may be in the file that `PGPASSFILE` or
    `?passfile=` names, as with every client of Postgres.
    """
    address = sqlalchemy.make_url(url)
    if address.drivername == "postgresql":
        address = address.set(drivername="postgresql+psycopg")
    bounds = {
        "connect_timeout": CONNECT_S,
        "options": f"-c statement_timeout={STATEMENT_S}s -c lock_timeout={LOCK_S}s",
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": UNANSWERED_S * 1000,
        "application_name": "eagleray",
    }
    own = {name: value for name, value in bounds.items() if name not in address.query}
    return sqlalchemy.create_engine(
        address,
        pool_size=POOL,
        max_overflow=POOL_MORE,
        pool_timeout=POOL_WAIT_S,
        pool_pre_ping=True,
        pool_recycle=1800,
        connect_args=own,
        **options,
    )


class DatabaseClock:
    """The server's clock. What several machines compare goes by it, for their own clocks may stand hours apart."""

    def __init__(self, engine: Engine) -> None:
        """A clock that asks `engine`, over a connection of its own, each time."""
        self._engine = engine

    def now_us(self) -> int:
        """Microseconds since the Unix epoch, UTC. Raises OperationalError where the server is away."""
        with self._engine.connect() as connection:
            return int(connection.execute(_NOW_US).scalar_one())


def close_with(owner: object, engine: Engine) -> None:
    """Close the connections of `engine` when `owner` is there no longer."""
    weakref.finalize(owner, engine.dispose)
