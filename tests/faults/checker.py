"""Compares what was acked with what the tables hold, and windows with a recomputation. Judges as a process of its own.

Reads the lake through its catalog, not through the platform, so that it works on a running, a stopped and a killed one,
and shares no code with what it judges. Findings are sentences; none means that all of this holds:

- every acked event is in `events` once, every rejected one in `dead_letters` with its original bytes;
- nothing is in `events` that was not sent, nothing twice, and a producer's events are in one partition in their order;
- every row of every window's table equals a recomputation from `events` without `late`, and none is missing;
- `late` names each event once per window, holds every event that came behind its partition's watermark, and no other
  that could not have been behind the watermark of all.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.catalog.sql import SqlCatalog

SECOND = 1_000_000
DISORDER, LATENESS, GAP = 2 * SECOND, 1 * SECOND, 400_000
FIRST_CLOSING_SEQ = 900_000_000  # events from here on only close windows

# Each window as rows of (table's columns) recomputed from `counted(window)`: events that are not late for it.
SLIDING = {"kinds": (5 * SECOND, 5 * SECOND), "producers": (10 * SECOND, 2 * SECOND), "total": (2 * SECOND, 2 * SECOND)}
COLUMNS = {
    "kinds": ("kind", "count(*), sum(amount), max(amount)", "events, amount, largest"),
    "producers": ("producer", "count(*)", "events"),
    "total": ("", "count(*), sum(amount)", "events, amount"),
    "visits": ("producer", "count(*), sum(amount)", "events, amount"),
}


@dataclass(frozen=True)
class Acked:
    """What the load process wrote down."""

    seqs: dict[int, set[int]]  # producer → accepted numbers
    rejected: list[tuple[str, str]]  # original line, reason
    sent: dict[int, int]  # producer → the number after the last one sent
    wrong: list[str]

    @classmethod
    def read(cls, directory: Path) -> Acked:
        """Read sent.jsonl and acked.jsonl; a last line cut short is not counted."""
        seqs: dict[int, set[int]] = {}
        rejected: list[tuple[str, str]] = []
        wrong: list[str] = []
        for note in _notes(directory / "acked.jsonl"):
            seqs.setdefault(note.get("producer", -1), set()).update(note.get("seqs", ()))
            rejected += [(line, reason) for line, reason in note.get("rejected", ())]
            wrong += [note["wrong"]] if "wrong" in note else []
        sent: dict[int, int] = {}
        for note in _notes(directory / "sent.jsonl"):
            sent[note["producer"]] = max(sent.get(note["producer"], 0), note["first"] + note["rows"])
        return cls(seqs, rejected, sent, wrong)


def _notes(file: Path) -> list[dict[str, Any]]:
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return [json.loads(line) for line in lines]


def read_lake(data: Path, stream: str, catalog: dict[str, str] | None = None) -> dict[str, pa.Table]:
    """Every table of the stream as it stands, by name; `catalog`: pyiceberg's properties, if it is not in `data`."""
    uri = data / "catalog.db"
    if catalog is None:
        with sqlite3.connect(f"file:{uri}?mode=ro", uri=True) as database:
            (name,) = database.execute("SELECT DISTINCT catalog_name FROM iceberg_tables").fetchone()
        lake: Catalog = SqlCatalog(name, uri=f"sqlite:///{uri}", warehouse=str(data / "lake"))
    else:
        lake = load_catalog("eagleray", **catalog)
    tables = {name: lake.load_table((stream, name)).scan().to_arrow() for _, name in lake.list_tables(stream)}
    lake.close()
    return tables


class Checker:
    """Holds the tables in a database of its own; `findings` grows with each check."""

    def __init__(self, tables: dict[str, pa.Table], acked: Acked) -> None:
        """`tables` as from `read_lake`."""
        self.acked = acked
        self.findings: list[str] = list(acked.wrong)
        self.db = duckdb.connect(config={"threads": 1})
        self.db.execute("SET TimeZone = 'UTC'")
        for name, table in tables.items():
            self.db.register(f"{name}_read", table)
            self.db.execute(f"CREATE TABLE {name}_ AS SELECT * FROM {name}_read")
        self.db.execute(
            f"CREATE VIEW real AS SELECT *, epoch_us(time) AS t FROM events_ WHERE seq < {FIRST_CLOSING_SEQ}"
        )

    def check(self) -> list[str]:
        """All checks; returns the findings."""
        self.events()
        self.order()
        self.rejected()
        for window in (*SLIDING, "visits"):
            self.window(window)
        self.late()
        return self.findings

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        return self.db.execute(query).fetchall()

    def _find(self, what: str, rows: list[Any]) -> None:
        if rows:
            self.findings.append(f"{what}: {len(rows)}, such as {rows[:5]}")

    def events(self) -> None:
        """Acked ⊆ stored ⊆ sent, each once."""
        stored: dict[int, set[int]] = {}
        for producer, seq in self._rows("SELECT producer, seq FROM real"):
            stored.setdefault(producer, set()).add(seq)
        self._find("stored twice", self._rows("SELECT id, count(*) FROM real GROUP BY id HAVING count(*) > 1"))
        for producer, seqs in self.acked.seqs.items():
            self._find(f"acked by {producer} and lost", sorted(seqs - stored.get(producer, set())))
        for producer, seqs in stored.items():
            unknown = [seq for seq in seqs if seq >= self.acked.sent.get(producer, 0)]
            self._find(f"stored for {producer} and never sent", sorted(unknown))

    def order(self) -> None:
        """A key's events are in one partition, in the order in which they were sent."""
        several = self._rows("SELECT producer FROM real GROUP BY producer HAVING count(DISTINCT _partition) > 1")
        self._find("producers in several partitions", several)
        swapped = """
            SELECT id, before FROM (SELECT id, seq, lag(seq) OVER log AS before FROM real
                WINDOW log AS (PARTITION BY producer ORDER BY _partition, _offset, _row))
            WHERE before >= seq"""
        self._find("out of order within a key", self._rows(swapped))
        double = "SELECT _partition, _offset, _row FROM real GROUP BY ALL HAVING count(*) > 1"
        self._find("positions stored twice", self._rows(double))

    def rejected(self) -> None:
        """Every rejected line is in the dead letters, with its bytes and its reason."""
        rows = self._rows("SELECT original, reason FROM dead_letters_")
        letters = {(bytes(original).decode(errors="replace"), reason) for original, reason in rows}
        self._find("rejected and not in dead_letters", [pair for pair in self.acked.rejected if pair not in letters])
        sql = f"SELECT id FROM real WHERE time > _ingested_at + INTERVAL 2 HOUR AND seq < {FIRST_CLOSING_SEQ}"
        self._find("of the far future and stored", self._rows(sql))

    def window(self, window: str) -> None:
        """The window's table equals what `events` without `late` give, row by row."""
        group, aggregates, names = COLUMNS[window]
        comma = f", {group}" if group else ""
        self.db.execute(self._counted(window))
        if window in SLIDING:
            spans = f"SELECT start, start + {SLIDING[window][0]} AS stop{comma}, {aggregates} FROM counted GROUP BY ALL"
        else:
            spans = f"""
                SELECT min(t) AS start, max(t) + {GAP} AS stop{comma}, {aggregates} FROM (
                    SELECT *, sum(fresh) OVER (PARTITION BY producer ORDER BY t ROWS UNBOUNDED PRECEDING) AS nth FROM (
                        SELECT *, CASE WHEN t - lag(t) OVER own <= {GAP} THEN 0 ELSE 1 END AS fresh FROM counted
                        WINDOW own AS (PARTITION BY producer ORDER BY t)))
                GROUP BY producer, nth"""
        found = f"""
            SELECT epoch_us(window_start), epoch_us(window_end){comma}, {names} FROM {window}_
            WHERE window_start <= (SELECT max(time) FROM real)"""
        self._find(f"rows of {window} missing or too low", self._rows(f"({spans}) EXCEPT ALL ({found})"))
        self._find(f"rows of {window} doubled or wrong", self._rows(f"({found}) EXCEPT ALL ({spans})"))

    def _counted(self, window: str) -> str:
        position = "late_._partition = e._partition AND late_._offset = e._offset AND late_._row = e._row"
        missed = f"SELECT 1 FROM late_ WHERE late_.\"window\" = '{window}' AND {position}"
        if window not in SLIDING:
            return f"CREATE OR REPLACE TABLE counted AS SELECT * FROM real e WHERE NOT EXISTS ({missed})"
        size, every = SLIDING[window]
        return f"""
            CREATE OR REPLACE TABLE counted AS SELECT * FROM (
                SELECT *, unnest(range(t // {every} * {every}, t - {size}, -{every})) AS start FROM real) e
            WHERE NOT EXISTS ({missed} AND epoch_us(late_.window_start) = e.start)"""

    def late(self) -> None:
        """Late rows are once per event and window, complete, and never for an event that nothing was ahead of."""
        double = """
            SELECT "window", epoch_us(window_start), _partition, _offset, _row FROM late_
            GROUP BY ALL HAVING count(*) > 1"""
        self._find("late twice", self._rows(double))
        self.db.execute(f"""
            CREATE OR REPLACE TABLE behind AS SELECT *,
                max(t) OVER (log ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) - {DISORDER} AS wm,
                max(t) OVER (ORDER BY _ingested_at RANGE UNBOUNDED PRECEDING) - {DISORDER} AS wm_of_all
            FROM real WINDOW log AS (PARTITION BY _partition ORDER BY _offset, _row)""")
        for window, (size, every) in SLIDING.items():
            spans = f"""
                SELECT _partition, _offset, _row, wm, wm_of_all, start, start + {size} + {LATENESS} AS closing FROM (
                    SELECT *, unnest(range(t // {every} * {every}, t - {size}, -{every})) AS start FROM behind)"""
            self._lateness(window, spans)
        self._lateness("visits", f"SELECT *, t AS start, t + {GAP} + {LATENESS} AS closing FROM behind")

    def _lateness(self, window: str, spans: str) -> None:
        must = f"SELECT _partition, _offset, _row, start FROM ({spans}) WHERE wm >= closing"
        may = f"SELECT _partition, _offset, _row, start FROM ({spans}) WHERE wm_of_all >= closing"
        found = f"""
            SELECT _partition, _offset, _row, epoch_us(window_start) FROM late_
            SEMI JOIN real USING (_partition, _offset, _row) WHERE "window" = '{window}'"""
        self._find(f"late for {window} and not in late", self._rows(f"({must}) EXCEPT ALL ({found})"))
        self._find(f"in late for {window} and not late", self._rows(f"({found}) EXCEPT ALL ({may})"))


def main(judge: type[Checker] = Checker) -> None:
    """Print what `judge` finds, one finding a line; exits 1 if there is any."""
    parser = argparse.ArgumentParser(description="Compare what was acked with what the tables hold.")
    parser.add_argument("--data", type=Path, required=True, help="the platform's data directory")
    parser.add_argument("--stream", default="orders")
    parser.add_argument("--catalog", type=json.loads, help="properties of a catalog that is not in the data directory")
    parser.add_argument("--notes", type=Path, required=True, help="where the load process wrote")
    args = parser.parse_args()
    acked = Acked.read(args.notes)
    tables = read_lake(args.data, args.stream, args.catalog)
    findings = judge(tables, acked).check()
    held = ", ".join(f"{name} {table.num_rows}" for name, table in sorted(tables.items()))
    print("\n".join([*findings, f"{sum(map(len, acked.seqs.values()))} events acked; rows: {held}"]))
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
