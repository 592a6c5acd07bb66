"""Lakes and streams for tests: a real SQLite catalog in a directory, streams made without a schema file."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from eagleray.cluster.config import Config
from eagleray.cluster.errors import CommitFailed
from eagleray.cluster.events.field_path import FieldPath
from eagleray.cluster.events.schema import EventSchema
from eagleray.cluster.events.stream import Stream
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.sections import StreamConfig
from eagleray.cluster.windowing.definition import parse_window

TIME = pa.timestamp("us", "UTC")
SCHEMA = pa.schema([pa.field("time", TIME), pa.field("user", pa.string()), pa.field("n", pa.int64())])
NOON_US = 1_442_059_200_000_000  # 2015-09-12T12:00:00Z
EVENTS = "s.events"


def make_stream(schema: pa.Schema = SCHEMA, name: str = "s", **settings: Any) -> Stream:
    """A stream of `schema`; `settings` as in the configuration."""
    config = StreamConfig.model_validate({"schema": "s.json", "time": "time", **settings})
    windows = {w: parse_window(f"streams.{name}.windows.{w}", w, c, schema) for w, c in config.windows.items()}
    id_ = FieldPath.parse(config.id) if config.id else None
    return Stream(name, config, EventSchema(schema, {}), FieldPath((config.time,)), id_, None, windows)


def make_config(directory: Path, **lake: Any) -> Config:
    """A configuration whose data lives in `directory`."""
    return Config.model_validate({"data_dir": directory / "data", "lake": lake})


def make_lake(directory: Path, *streams: Stream, **lake: Any) -> Lake:
    """An opened lake with the tables of `streams`."""
    opened = Lake.open(make_config(directory, **lake))
    opened.ensure({stream.name: stream for stream in streams or [make_stream()]})
    return opened


def event_rows(count: int, first: int = 0, **columns: Any) -> pa.Table:
    """Rows for `events`: `n` and `_offset` count from `first`, one event a second."""
    numbers = range(first, first + count)
    rows: dict[str, Any] = {
        "time": pa.array([NOON_US + i * 1_000_000 for i in numbers], TIME),
        "user": [f"user-{i % 5}" for i in numbers],
        "n": list(numbers),
        "_ingested_at": pa.array([NOON_US] * count, TIME),
        "_source": ["test"] * count,
        "_partition": pa.array([0] * count, pa.int32()),
        "_offset": list(numbers),
        "_row": pa.array([0] * count, pa.int32()),
        **columns,
    }
    return pa.table(rows)


@contextmanager
def catalog_commits(lake: Lake, around: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Within the block, the catalog's own commit is `around(commit)`."""
    catalog = lake._catalog
    real = catalog.commit_table
    catalog.commit_table = around(real)  # type: ignore[method-assign]
    try:
        yield
    finally:
        catalog.commit_table = real  # type: ignore[method-assign]


def answer_lost(error: Exception) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """For `catalog_commits`: each commit lands, and its caller gets `error`."""

    def around(real: Callable[..., Any]) -> Callable[..., Any]:
        def commit_table(*args: Any) -> Any:
            real(*args)
            raise error

        return commit_table

    return around


def race(config: Config, steps: int, won: Any, barrier: Any) -> None:
    """Commit every step from 0 to `steps` unless somebody else did; counts own steps in `won`. For a process."""
    lake = Lake.open(config)
    barrier.wait()
    while (at := lake.progress(EVENTS).get("p0", 0)) < steps:
        files = lake.write(EVENTS, event_rows(1, at))
        try:
            lake.commit(EVENTS, files, {"p0": at}, {"p0": at + 1})
        except CommitFailed:
            continue
        with won.get_lock():
            won.value += 1


def fight(config: Config, steps: int, processes: int) -> int:
    """`race` in so many processes at once; how many steps they say that they committed, together."""
    context = multiprocessing.get_context("spawn")
    won, barrier = context.Value("i", 0), context.Barrier(processes)
    racers = [context.Process(target=race, args=(config, steps, won, barrier)) for _ in range(processes)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert [racer.exitcode for racer in racers] == [0] * processes
    return won.value


def numbers(lake: Lake) -> list[int]:
    """`n` of all events, in order."""
    return sorted(lake.read(EVENTS, ["n"])["n"].to_pylist())


def in_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Start `work`; the list gets its result or its exception."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(work())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, outcome
