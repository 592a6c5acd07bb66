"""Shows a graph run while it goes on: a table that lives in a terminal, a line per ending anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from eagleray.jobs.run.run_state import Board, Progress

Watch = Callable[[str, Board], None]

_ORDER = {"running": 0, "failed": 1, "waiting": 2, "interrupted": 3, "skipped": 4, "succeeded": 5}
_STYLE = {"running": "cyan", "failed": "bold red", "skipped": "yellow", "succeeded": "green", "interrupted": "yellow"}


@contextmanager
def progress(count: int) -> Iterator[Watch]:
    """What to tell a runner to show; `count` is the number of nodes."""
    if not sys.stdout.isatty():
        yield Lines(count)
        return
    from rich.live import Live

    table = Screen()
    with Live(get_renderable=table.render, refresh_per_second=4, transient=True):
        yield table


class Lines:
    """A line for each node that ends, is tried again or waits for another run."""

    def __init__(self, count: int) -> None:
        """Nothing is printed before the run begins."""
        self._count = count
        self._seen: dict[str, tuple[str, int, str]] = {}
        self._ended = 0
        self._started: dict[str, float] = {}

    def __call__(self, run: str, board: Board) -> None:
        """Print what is new."""
        if not self._seen:
            print(f"run {run}: {self._count} to do", flush=True)
        for key, row in board.rows.items():
            now = (row.state, row.attempt, row.reason)
            if self._seen.get(key) == now:
                continue
            self._seen[key] = now
            if row.state == "running":
                self._started[key] = time.monotonic()
            if row.state not in ("waiting", "running"):
                self._ended += 1
            if row.state != "running" and (row.state != "waiting" or row.reason):
                print(f"{self._ended:>{len(str(self._count))}}/{self._count}  {self._line(key, row)}", flush=True)

    def _line(self, key: str, row: Progress) -> str:
        took = f"{time.monotonic() - self._started[key]:.1f} s" if key in self._started else ""
        about = f"{row.outcome.rows:,} rows" if row.outcome else _first_line(row.reason)
        state = f"attempt {row.attempt} failed" if row.state == "waiting" and row.failure else row.state
        return "  ".join(part for part in (state, key, about, took) if part)


class Screen:
    """The nodes that matter now, as many as the terminal has lines for, and the counts of all."""

    def __init__(self) -> None:
        """Nothing to show before the run begins."""
        self._board: Board | None = None
        self._run = ""
        self._since: dict[str, tuple[tuple[str, int], float]] = {}
        self._took: dict[str, float] = {}
        self._begun = time.monotonic()

    def __call__(self, run: str, board: Board) -> None:
        """Take note; the screen follows four times a second."""
        self._run, self._board = run, board
        now_s = time.monotonic()
        for key, row in board.rows.items():
            mark = (row.state, row.attempt)
            before, since_s = self._since.get(key, (None, now_s))
            if before != mark:
                if before and before[0] == "running":
                    self._took[key] = now_s - since_s
                self._since[key] = (mark, now_s)

    def render(self) -> Any:
        """The table as it is now."""
        from rich import box, get_console
        from rich.table import Table

        if self._board is None:
            return ""
        counts = ", ".join(f"{count} {state}" for state, count in sorted(self._board.counts().items()))
        elapsed = f"{time.monotonic() - self._begun:.0f} s"
        table = Table(box=box.SIMPLE_HEAD, title=f"run {self._run}", caption=f"{counts} · {elapsed}", expand=True)
        for name in ("job", "state", "rows", "time", ""):
            table.add_column(name, justify="right" if name in ("rows", "time") else "left", no_wrap=True)
        rows = sorted(self._board.rows.items(), key=lambda item: (_ORDER[item[1].state], item[1].number))
        for key, row in rows[: max(3, get_console().height - 8)]:
            table.add_row(key, row.state, *self._cells(key, row), style=_STYLE.get(row.state, ""))
        return table

    def _cells(self, key: str, row: Progress) -> tuple[str, str, str]:
        running = time.monotonic() - self._since[key][1] if row.state == "running" else None
        took = running if running is not None else self._took.get(key)
        about = _first_line(row.reason) or (f"attempt {row.attempt}" if row.attempt > 1 else "")
        return f"{row.outcome.rows:,}" if row.outcome else "", f"{took:.1f} s" if took is not None else "", about


def _first_line(text: str) -> str:
    """What went wrong, without where: `job x failed (engine)` comes first in an engine's messages."""
    lines = text.splitlines()
    if len(lines) > 1 and lines[0].startswith("job "):
        del lines[0]
    return (lines[0] if len(lines) < 2 else f"{lines[0]} …")[:160] if lines else ""
