"""Expiry keeps progress, data and everything that a kept snapshot needs, and metadata does not grow."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from eagleray.cluster.lake import manifests
from eagleray.cluster.lake.expire import Expired, Retention
from eagleray.cluster.lake.lake import Lake
from tests.lake_tables import EVENTS, event_rows, in_thread, make_lake, make_stream


def land(lake: Lake, step: int) -> None:
    lake.commit(EVENTS, lake.write(EVENTS, event_rows(1, step)), {"p0": step}, {"p0": step + 1})


def metadata_files(lake: Lake) -> set[str]:
    return {path.name for path in Path(lake.load(EVENTS).metadata_location).parent.iterdir()}


def test_progress_and_data_survive_expiry_of_all_snapshots_but_the_head(tmp_path: Path) -> None:
    lake = make_lake(tmp_path, snapshots_kept=2)
    for step in range(7):
        land(lake, step)
    assert lake.expire(EVENTS).snapshots == 5
    lake.expire(EVENTS, Retention(1, 0, 0))
    reopened = Lake.open(lake.config)
    assert len(reopened.load(EVENTS).metadata.snapshots) == 1
    assert reopened.progress(EVENTS) == {"p0": 7}
    assert sorted(reopened.read(EVENTS)["n"].to_pylist()) == list(range(7))
    land(reopened, 7)
    assert reopened.progress(EVENTS) == {"p0": 8}


def test_kept_snapshots_stay_readable_and_nothing_else_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "MERGE_COUNT", 3)
    lake = make_lake(tmp_path, snapshots_kept=4)
    for step in range(20):
        land(lake, step)
        if step % 5 == 4:
            lake.expire(EVENTS)
    table = lake.load(EVENTS)
    used = set()
    for at, snapshot in enumerate(table.metadata.snapshots):
        assert table.scan(snapshot_id=snapshot.snapshot_id).to_arrow().num_rows == 17 + at
        used |= {Path(manifest.manifest_path).name for manifest in snapshot.manifests(table.io)}
        used.add(Path(snapshot.manifest_list).name)
    assert {name for name in metadata_files(lake) if name.endswith(".avro")} == used
    assert len(metadata_files(lake) - used) <= 8  # table metadata: the current one and a few before it


def test_expiry_that_loses_a_race_does_nothing(tmp_path: Path) -> None:
    lake = make_lake(tmp_path, snapshots_kept=2)
    for step in range(5):
        land(lake, step)
    stale = lake.load(EVENTS)
    land(lake, 5)
    before = metadata_files(lake)
    assert lake._expiry.expire(stale, Retention(2, 0, 0)) == Expired()
    assert sorted(lake.read(EVENTS)["n"].to_pylist()) == list(range(6))
    assert lake.progress(EVENTS) == {"p0": 6}
    assert len(before) > 0


def test_expiry_beside_commits_loses_neither(tmp_path: Path) -> None:
    lake = make_lake(tmp_path, snapshots_kept=2)
    thread, outcome = in_thread(lambda: [land(lake, step) for step in range(20)])
    while thread.is_alive():
        lake.expire(EVENTS)
    thread.join()
    assert outcome == [[None] * 20]
    assert sorted(lake.read(EVENTS)["n"].to_pylist()) == list(range(20))


def test_manifests_are_merged_by_tiers_and_lose_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "MERGE_COUNT", 3)
    monkeypatch.setattr(manifests, "FILES_MAX", 9)
    lake = make_lake(tmp_path, make_stream(lake={"partition_by": ["user"]}))
    for step in range(40):
        land(lake, step)
    table = lake.load(EVENTS)
    snapshot = table.current_snapshot()
    assert snapshot is not None
    assert len(snapshot.manifests(table.io)) <= 10
    rows = lake.read(EVENTS)
    assert sorted(rows["n"].to_pylist()) == list(range(40))
    assert len(list(table.scan(row_filter="user == 'user-3'").plan_files())) == 8
    added = table.inspect.entries().column("status")
    assert sorted(set(added.to_pylist())) in ([0, 1], [1], [0])


def test_idle_table_makes_no_snapshot(tmp_path: Path) -> None:
    lake = make_lake(tmp_path, snapshots_kept=2)
    land(lake, 0)
    before = lake.load(EVENTS).metadata_location
    for _ in range(100):
        assert lake.progress(EVENTS) == {"p0": 1}
        assert lake.expire(EVENTS) == Expired()
    assert lake.load(EVENTS).metadata_location == before


def test_dead_letters_keep_bytes_as_they_were(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    rows = pa.table(
        {
            "original": pa.array([b"\xff\x00{", b""], pa.binary()),
            "reason": ["json", "schema"],
            "detail": ["broken", "amount"],
            "_ingested_at": [1, 2],
            "source": ["a", "a"],
            "attempt": pa.array([1, 2], pa.int32()),
            "_partition": pa.array([0, 0], pa.int32()),
            "_offset": [0, 0],
            "_row": pa.array([0, 1], pa.int32()),
        }
    )
    lake.commit("s.dead_letters", lake.write("s.dead_letters", rows), {"p0": 0}, {"p0": 1})
    assert lake.read("s.dead_letters")["original"].to_pylist() == [b"\xff\x00{", b""]
