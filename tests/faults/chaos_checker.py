"""What holds whatever was done to a platform and its configuration: the checker's laws without fixed definitions.

`chaos.py` changes sizes, lateness and out-of-orderness while it runs, so rows are judged by their own span:

- everything that `checker` says of events, order and dead letters;
- `total` and `producers`, whose sizes never change: one row per start and group, equal to a recomputation;
- `kinds`, whose size changes, and `extra`, which comes and goes: each row equals the events of its own span, no two
  rows of a group overlap, and (for `kinds`, which is always there) each event is in one row or in `late`;
- `visits`: no event of a session is lost or counted twice: rows and `late` together are all events;
- `late` names each event once per window.
"""

from __future__ import annotations

from tests.faults.checker import FIRST_CLOSING_SEQ, Checker, main


class ChaosChecker(Checker):
    """Judges the tables of `orders` after any number of faults and changes."""

    def check(self) -> list[str]:
        """All checks; returns the findings."""
        self.events()
        self.order()
        self.rejected()
        self.window("total")
        self.window("producers")
        self.rows_by_their_span("kinds", "kind", "count(*), sum(e.amount), max(e.amount)", "events, amount, largest")
        self.each_event_once("kinds", "kind")
        if self._rows("SELECT 1 FROM duckdb_tables() WHERE table_name = 'extra_'"):
            self.rows_by_their_span("extra", "producer", "count(*)", "events")
        self.sums("visits")
        self._find("late twice", self._rows("SELECT * FROM late_ GROUP BY ALL HAVING count(*) > 1"))
        return self.findings

    def rows_by_their_span(self, window: str, group: str, aggregates: str, names: str) -> None:
        """Each row of a tumbling window's table is what the events of its own span give, and no two overlap."""
        overlapping = f"""
            SELECT a.{group}, a.window_start, a.window_end, b.window_start FROM {window}_ a JOIN {window}_ b
            ON a.{group} = b.{group} AND a.window_start < b.window_end AND b.window_start < a.window_end
            WHERE (a.window_start, a.window_end) <> (b.window_start, b.window_end)"""
        self._find(f"rows of {window} overlap", self._rows(overlapping))
        found = f"SELECT window_start, window_end, {group}, {names} FROM {window}_"
        counted = f"""
            SELECT w.window_start, w.window_end, w.{group}, {aggregates} FROM {window}_ w
            JOIN ({self._not_late(window)}) e
            ON e.{group} = w.{group} AND e.time >= w.window_start AND e.time < w.window_end GROUP BY ALL"""
        wrong = self._rows(f"({found}) EXCEPT ALL ({counted})")
        self._find(f"rows of {window} doubled or wrong", wrong)

    def each_event_once(self, window: str, group: str) -> None:
        """Each event of the load is in one row, or in `late`."""
        self._find(
            f"not in one row of {window}, nor late for it",
            self._rows(f"""
                SELECT e.id, count(w.window_start) FROM ({self._not_late(window)} AND seq < {FIRST_CLOSING_SEQ}) e
                LEFT JOIN {window}_ w
                ON e.{group} = w.{group} AND e.time >= w.window_start AND e.time < w.window_end
                GROUP BY e.id HAVING count(w.window_start) <> 1"""),
        )

    def sums(self, window: str) -> None:
        """Rows and late rows of a window that takes each event once are together as many as the events of the load."""
        (found,) = self._rows(f"""
            SELECT (SELECT coalesce(sum(events), 0)::BIGINT FROM {window}_
                    WHERE window_start <= (SELECT max(time) FROM real)),
                (SELECT count(*) FROM late_ SEMI JOIN real USING (_partition, _offset, _row)
                    WHERE "window" = '{window}'),
                (SELECT count(*) FROM real)""")
        counted, late, events = found
        if counted + late != events:
            self.findings.append(f"{window}: {counted} events in rows and {late} in late, of {events}")

    @staticmethod
    def _not_late(window: str) -> str:
        return f"""
            SELECT e.* FROM events_ e WHERE NOT EXISTS (
                SELECT 1 FROM late_ l WHERE l."window" = '{window}'
                AND l._partition = e._partition AND l._offset = e._offset AND l._row = e._row)"""


if __name__ == "__main__":
    main(ChaosChecker)
