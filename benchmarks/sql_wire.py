#!/usr/bin/env python
"""Two million rows through each client's cursor: the lake's SQL over Postgres' protocol, and a real Postgres beside.

    benchmarks/sql_wire.py [--rows 2000000] [--clients psql,psycopg,asyncpg,pgjdbc]

Runs each client on both in turns and prints seconds, their ratio, and the most memory that the server's process had.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.servers.installed import maven_libraries  # noqa: E402
from tests.servers.postgres import postgres_server  # noqa: E402

COLUMNS = "id, name"
JAVA = """import java.sql.*;
public class Rows { public static void main(String[] w) throws Exception {
  try (Connection c = DriverManager.getConnection(w[0], w[1], w[2])) {
    c.setAutoCommit(false); Statement s = c.createStatement(); s.setFetchSize(10000);
    ResultSet r = s.executeQuery("SELECT id, name FROM shop.big"); long n = 0;
    while (r.next()) { r.getLong(1); r.getString(2); n++; }
    System.out.println(n); } } }"""

MAKE = """
import sys
from pathlib import Path
import pyarrow as pa, pyarrow.compute as pc
from eagleray.cluster.api_keys import KeyStore
from eagleray.cluster.clock import SystemClock
from eagleray.cluster.config import Config
from eagleray.cluster.lake.catalog import open_catalog
home, rows = Path(sys.argv[1]), int(sys.argv[2])
config = Config.model_validate({"data_dir": home / "data"})
config.data_dir.mkdir(parents=True)
catalog = open_catalog(config)
ids = pa.array(range(rows), pa.int64())
table = pa.table({"id": ids, "name": pc.binary_join_element_wise("name-", ids.cast(pa.string()), "")})
catalog.create_namespace("shop")
catalog.create_table("shop.big", schema=table.schema).append(table)
print(KeyStore(config.keys_file, SystemClock()).create("ann", ["read"]))
"""
SERVE = """
import sys, threading
from pathlib import Path
from eagleray.cluster.config import Config
from eagleray.sql.postgres.server import PostgresServer
home = Path(sys.argv[1])
config = Config.model_validate({"data_dir": home / "data", "sql": {"postgres": {"port": 0}}})
print(PostgresServer(config).port, flush=True)
threading.Event().wait()
"""


def psql(url: str, _: tuple[str, str, str], rows: int) -> int:
    """`FETCH_COUNT`: a cursor."""
    words = ["psql", "-X", "-At", "-v", "FETCH_COUNT=10000", "-c", f"SELECT {COLUMNS} FROM shop.big", url]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        return sum(chunk.count(b"\n") for chunk in iter(lambda: process.stdout.read(1 << 20), b""))  # type: ignore[union-attr]


def psycopg(url: str, _: tuple[str, str, str], rows: int) -> int:
    """A named cursor."""
    import psycopg

    with psycopg.connect(url) as connection, connection.cursor(name="c") as cursor:
        cursor.itersize = 10_000
        cursor.execute(f"SELECT {COLUMNS} FROM shop.big")
        return sum(1 for _ in cursor)


def asyncpg(url: str, _: tuple[str, str, str], rows: int) -> int:
    """A cursor in a transaction."""
    import asyncpg

    async def read() -> int:
        connection = await asyncpg.connect(url)
        count = 0
        async with connection.transaction():
            async for _ in connection.cursor(f"SELECT {COLUMNS} FROM shop.big", prefetch=10_000):
                count += 1
        await connection.close()
        return count

    return asyncio.run(read())


def pgjdbc(url: str, jdbc: tuple[str, str, str], rows: int) -> int:
    """`setFetchSize`, autocommit off."""
    libraries = maven_libraries("pgjdbc-42.7.8", ROOT / "tests" / "servers" / "pgjdbc.pom.xml")
    with tempfile.TemporaryDirectory() as home:
        source = Path(home) / "Rows.java"
        source.write_text(JAVA)
        command = ["java", "-Xmx256m", "-cp", f"{libraries}/*", str(source), *jdbc]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


CLIENTS: dict[str, Callable[[str, tuple[str, str, str], int], int]] = {
    "psql": psql,
    "psycopg": psycopg,
    "asyncpg": asyncpg,
    "pgjdbc": pgjdbc,
}


def peak_mb(pid: int) -> float:
    """The most resident memory a process had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--clients", default=",".join(CLIENTS))
    parser.add_argument("--turns", type=int, default=1)
    args = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="eagleray-wire-"))
    make = [sys.executable, "-c", MAKE, str(home), str(args.rows)]
    key = subprocess.run(make, capture_output=True, text=True, check=True).stdout.split()[-1]
    ours = subprocess.Popen([sys.executable, "-c", SERVE, str(home)], stdout=subprocess.PIPE, text=True)
    try:
        with postgres_server() as theirs:
            assert ours.stdout is not None
            port = ours.stdout.readline().strip()
            theirs.sql("CREATE SCHEMA shop")
            made = f"SELECT i::bigint AS id, 'name-' || i AS name FROM generate_series(0, {args.rows - 1}) i"
            theirs.sql(f"CREATE TABLE shop.big AS {made}")
            doors = {
                "postgres": (theirs.url, (f"jdbc:postgresql://127.0.0.1:{theirs.port}/postgres", "eagleray", "")),
                "eagleray": (
                    f"postgresql://ann:{key}@127.0.0.1:{port}/lake",
                    (f"jdbc:postgresql://127.0.0.1:{port}/lake", "ann", key),
                ),
            }
            for client in args.clients.split(","):
                best: dict[str, float] = {}
                for _ in range(args.turns):
                    for name, (url, jdbc) in doors.items():
                        began = time.perf_counter()
                        assert CLIENTS[client](url, jdbc, args.rows) == args.rows
                        best[name] = min(best.get(name, 1e9), time.perf_counter() - began)
                ratio = best["eagleray"] / best["postgres"]
                print(f"{client}: postgres {best['postgres']:.1f} s, eagleray {best['eagleray']:.1f} s, {ratio:.2f}")
            print(
                f"server: {peak_mb(ours.pid):.0f} MB",
                *(f"child: {peak_mb(child):.0f} MB" for child in children(ours.pid)),
            )
    finally:
        ours.kill()
        ours.wait()
        shutil.rmtree(home, ignore_errors=True)


def children(pid: int) -> list[int]:
    """Processes that `pid` has started."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
