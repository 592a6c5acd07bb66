"""Pinned tables: every reader of the catalog sees the same, and a pin does not move."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.pin import Snapshots, _CatalogSnapshots, open_snapshots
from eagleray.cluster.lake.predicate import All, Any, Compare, In, IsNull, Predicate
from tests.lake_tables import EVENTS, event_rows, make_config, make_lake
from tests.sql_lake import land

NAMES = ["s.dead_letters", "s.events", "s.late"]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    made = make_lake(tmp_path)
    land(made, *(event_rows(3, first) for first in (0, 3, 6)))
    return made


@pytest.fixture(params=["read directly", "through pyiceberg"])
def snapshots(request: pytest.FixtureRequest, lake: Lake) -> Snapshots:
    return open_snapshots(lake.config) if request.param == "read directly" else _CatalogSnapshots(lake.config)


def test_every_reader_sees_the_same_tables(lake: Lake, snapshots: Snapshots) -> None:
    assert snapshots.names() == lake.tables() == NAMES
    pinned = snapshots.pin([*NAMES, "s.nix", "nix.nix"])
    assert sorted(pinned) == NAMES
    assert [column.name for column in pinned[EVENTS].columns] == lake.read(EVENTS).column_names
    assert pinned["s.late"].snapshot_id is None
    assert pinned["s.late"].plan().files == ()


def test_a_pinned_table_does_not_move(lake: Lake, snapshots: Snapshots) -> None:
    pinned = snapshots.pin([EVENTS])[EVENTS]
    before = pinned.plan()
    land(lake, event_rows(3, 9))
    assert pinned.plan() == before
    assert (before.rows, len(before.files)) == (9, 3)
    assert snapshots.pin([EVENTS])[EVENTS].plan().rows == 12


@pytest.mark.parametrize(
    ("predicate", "rows"),
    [
        (Compare("n", "=", 4), 3),
        (Compare("n", ">", 2), 6),
        (Compare("n", "!=", 4), 9),
        (In("n", (0, 8)), 6),
        (IsNull("user"), 0),
        (IsNull("user", negated=True), 9),
        (All((Compare("n", ">=", 3), Compare("n", "<=", 5))), 3),
        (Any((Compare("n", "<", 3), Compare("n", ">", 5))), 6),
        (Any((Compare("user", "=", "user-4"), In("n", tuple(range(1000))))), 9),
        (All(()), 9),
    ],
)
def test_a_plan_holds_the_files_that_may_match(lake: Lake, predicate: Predicate, rows: int) -> None:
    assert open_snapshots(lake.config).pin([EVENTS])[EVENTS].plan(predicate).rows == rows


def test_iceberg_s_own_reader_gives_the_same_rows(lake: Lake) -> None:
    plan = open_snapshots(lake.config).pin([EVENTS])[EVENTS].plan(Compare("n", ">", 5))
    found = [row for batch in plan.batches(["n", "user"]) for row in batch.to_pylist()]
    assert sorted(found, key=lambda row: row["n"]) == [{"n": n, "user": f"user-{n % 5}"} for n in (6, 7, 8)]


def test_a_catalog_without_tables_is_empty(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    config.data_dir.mkdir()
    sqlite3.connect(config.data_dir / "catalog.db").close()
    assert open_snapshots(config).names() == []


def test_a_catalog_that_is_no_database_is_an_error(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    config.data_dir.mkdir()
    (config.data_dir / "catalog.db").write_text("nonsense " * 100)
    with pytest.raises(OSError, match="cannot be read"):
        open_snapshots(config).names()
