"""A person is forgotten in every table and in history; nobody else loses a row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from eagleray.cluster.config import Config, load_config
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.events.stream import load_streams
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.replace import Change
from eagleray.jobs.builtin import forget
from tests.lake_tables import NOON_US, TIME, catalog_commits

PROJECT = """
data_dir: ./data
streams:
  visits:
    schema: visits.schema.json
    time: time
    lake: {partition_by: ["day(time)"]}
    windows:
      by_user: {tumble: 1m, group_by: [actor.login], aggregate: {n: count()}}
      all: {tumble: 1m, aggregate: {n: count()}}
"""
SCHEMA = {
    "type": "object",
    "properties": {
        "time": {"type": "string", "format": "date-time"},
        "actor": {"type": "object", "properties": {"login": {"type": "string"}, "id": {"type": "integer"}}},
    },
    "required": ["time"],
}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "eagleray.yaml").write_text(PROJECT)
    (tmp_path / "visits.schema.json").write_text(json.dumps(SCHEMA))
    return load_config(tmp_path / "eagleray.yaml")


@pytest.fixture
def lake(config: Config) -> Lake:
    lake = Lake.open(config)
    lake.ensure(load_streams(config))
    for number, logins in enumerate([["ann", "bob"], ["bob", None], ["ann", "ann"]]):
        land(lake, "visits.events", events(logins, number))
    place = {"_ingested_at": times(3), "_partition": ints([0] * 3), "_offset": list(range(3)), "_row": ints([0] * 3)}
    texts = [json.dumps({"actor": {"login": name}}) for name in ("ann", "bob", "annette")]
    window = {"window": ["w"] * 3, "window_start": times(3), "window_end": times(3)}
    land(lake, "visits.late", pa.table({**window, "event": texts, **place}))
    originals = [
        b'{"actor": {"login": "ann"}, "time": 5}',
        b'{"note": "ann"}',
        b'{"actor": {"login": "ann"\xff',
        b"\xff\x00",
    ]
    letters = {"original": pa.array(originals, pa.binary()), "reason": ["schema"] * 4, "detail": [""] * 4}
    more = {"source": ["x"] * 4, "attempt": ints([1] * 4), "_ingested_at": times(4), "_partition": ints([0] * 4)}
    land(lake, "visits.dead_letters", pa.table({**letters, **more, "_offset": list(range(4)), "_row": ints([0] * 4)}))
    rows = {"window_start": times(2), "window_end": times(2), "actor.login": ["ann", "bob"], "n": [2, 1]}
    land(lake, "visits.by_user", pa.table(rows))
    lake.ensure_output("reports.people", pa.schema([("who", pa.string()), ("n", pa.int64())]))
    people = lake.write("reports.people", pa.table({"who": ["ann", "bob"], "n": [3, 2]}))
    lake.replace("reports.people", Change(added=people))
    lake.replace("reports.people", Change(branch="rejected"))
    return lake


def ints(values: list[int]) -> pa.Array:
    return pa.array(values, pa.int32())


def times(count: int) -> pa.Array:
    return pa.array([NOON_US + i for i in range(count)], TIME)


def events(logins: list[str | None], number: int) -> pa.Table:
    count = len(logins)
    kind = pa.struct([("login", pa.string()), ("id", pa.int64())])
    return pa.table(
        {
            "time": times(count),
            "actor": pa.array([None if name is None else {"login": name, "id": 7} for name in logins], kind),
            "_ingested_at": times(count),
            "_source": ["test"] * count,
            "_partition": ints([0] * count),
            "_offset": [number] * count,
            "_row": ints(list(range(count))),
        }
    )


def land(lake: Lake, table: str, rows: pa.Table) -> None:
    at = lake.progress(table).get("p0", 0)
    lake.commit(table, lake.write(table, rows), {"p0": at}, {"p0": at + 1})


OPTIONS = forget.ForgetOptions("visits", "actor.login", "ann", ("reports.people=who",))


def logins(lake: Lake) -> list[Any]:
    return sorted((row or {}).get("login") or "" for row in lake.read("visits.events")["actor"].to_pylist())


def test_person_is_gone_from_every_table_and_from_the_disk(config: Config, lake: Lake) -> None:
    report = forget.run(config, OPTIONS)
    counts = dict(line.split(": ") for line in report.deleted)
    assert counts == {
        "visits.events": "3",
        "visits.late": "1",
        "visits.dead_letters": "2",
        "visits.by_user": "1",
        "reports.people": "1",
    }
    assert report.rows == 8
    assert logins(lake) == ["", "bob", "bob"]
    kept = [json.loads(text)["actor"]["login"] for text in lake.read("visits.late")["event"].to_pylist()]
    assert sorted(kept) == ["annette", "bob"]
    assert set(lake.read("visits.dead_letters")["original"].to_pylist()) == {b"\xff\x00", b'{"note": "ann"}'}
    assert lake.read("reports.people")["who"].to_pylist() == ["bob"]
    assert lake.progress("visits.events") == {"p0": 3}
    on_disk = {str(path) for path in Path(config.warehouse).rglob("*.parquet")}
    now = {file for table in lake.tables() for file in lake.pin(table).plan().files}
    assert on_disk == now
    assert [line for line in report.not_reached if "event log, for 24 h" in line]
    assert forget.run(config, OPTIONS).rows == 0


def test_tag_that_still_has_the_rows_is_named(config: Config, lake: Lake) -> None:
    lake.replace("visits.events", Change(branch="audited"))
    report = forget.run(config, OPTIONS)
    assert "visits.events@audited, until the branch or tag is dropped" in report.not_reached
    assert logins(lake) == ["", "bob", "bob"]


def test_rows_that_come_while_others_are_deleted_are_found(config: Config, lake: Lake) -> None:
    def overtaken(real: Any) -> Any:
        def commit_table(*args: Any) -> Any:
            lake._catalog.commit_table = real  # type: ignore[method-assign]
            land(lake, "visits.events", events(["ann", "carl"], 9))
            return real(*args)

        return commit_table

    place = forget.places(lake, load_streams(config)["visits"], OPTIONS)[0]
    with catalog_commits(lake, overtaken):
        assert forget.delete_rows(lake, config, place) == 4
    assert logins(lake) == ["", "bob", "bob", "carl"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (forget.ForgetOptions("nope", "actor.login", "x"), "no stream is called 'nope'"),
        (forget.ForgetOptions("visits", "actor", "x"), "expected a field with one value"),
        (forget.ForgetOptions("visits", "actor.nope", "x"), "unknown field"),
        (forget.ForgetOptions("visits", "actor.login", "x", ("reports.people",)), "NAMESPACE.TABLE=COLUMN"),
        (forget.ForgetOptions("visits", "actor.login", "x", ("reports.people=nope",)), "it has who, n"),
    ],
)
def test_wrong_options_are_named(config: Config, lake: Lake, options: forget.ForgetOptions, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        forget.run(config, options)
