"""Compaction, expiry and orphans keep exactly the rows, and take exactly what nobody needs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyiceberg.manifest import DataFile
from pyiceberg.typedef import Record

from eagleray.cluster.clock import ManualClock, SystemClock
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.lake import bin_packing as packing
from eagleray.cluster.lake import compaction
from eagleray.cluster.lake.compaction import compact as compact_table
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.replace import Change
from eagleray.jobs.builtin import compact, expire, orphans
from tests.lake_tables import EVENTS, TIME, catalog_commits, event_rows, make_lake, make_stream, numbers

DAY_US = 86_400_000_000


def land(lake: Lake, step: int, count: int = 5) -> None:
    lake.commit(EVENTS, lake.write(EVENTS, event_rows(count, step)), {"p0": step}, {"p0": step + count})


def parquet(lake: Lake) -> set[Path]:
    return set(Path(lake.config.warehouse).rglob("*.parquet"))


def test_small_files_become_one_for_each_partition_sorted(tmp_path: Path) -> None:
    lake = make_lake(tmp_path, make_stream(lake={"partition_by": ["user"], "sort_by": ["n desc"]}))
    for step in range(0, 30, 5):
        land(lake, step)
    report = compact.run(lake.config, compact.CompactOptions())
    assert (report.tables, report.files_before, report.files_after) == ((EVENTS,), 30, 5)
    assert numbers(lake) == list(range(30))
    for batch in lake.pin(EVENTS).plan().batches(["n"]):
        assert batch["n"].to_pylist() == sorted(batch["n"].to_pylist(), reverse=True)
    again = compact.run(lake.config, compact.CompactOptions((EVENTS,)))
    assert (again.files_before, again.tables) == (0, ())
    assert lake.progress(EVENTS) == {"p0": 30}
    with pytest.raises(ConfigError, match=r"no table 's.event'; did you mean s.events"):
        compact.run(lake.config, compact.CompactOptions(("s.event",)))


def test_files_of_earlier_schemas_and_partitions_are_rewritten_as_of_now(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    for step in range(0, 15, 5):
        land(lake, step)
    wider = pa.schema([("time", TIME), ("user", pa.string()), ("n", pa.int64()), ("more", pa.string())])
    lake = make_lake(tmp_path, make_stream(wider, lake={"partition_by": ["user"]}))
    for step in range(15, 45, 5):
        land(lake, step)
    compact_table(lake, EVENTS, 1 << 20, 2)
    earlier = lake.pin(EVENTS).plan().only(lambda file: file.spec_id != lake.pin(EVENTS).spec_id)
    assert len(earlier.files) == 3  # too few to be worth it
    land(lake, 45)
    packing_min, packing.FILES_MIN = packing.FILES_MIN, 2
    try:
        compact_table(lake, EVENTS, 1 << 20, 2)
    finally:
        packing.FILES_MIN = packing_min
    assert {file.spec_id for file in lake.pin(EVENTS).plan().data_files} == {lake.pin(EVENTS).spec_id}
    rows = lake.read(EVENTS)
    assert sorted(rows["n"].to_pylist()) == list(range(50))
    assert rows["more"].null_count == 50
    assert len(lake.pin(EVENTS).plan().files) == 10  # those of the earlier partitions, and five for what there was


def test_compaction_that_another_made_void_looks_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "FILES_MIN", 2)
    lake = make_lake(tmp_path)
    for step in range(0, 20, 5):
        land(lake, step)
    other = Lake.open(lake.config)

    def overtaken(real: Any) -> Any:
        def commit_table(*args: Any) -> Any:
            lake._catalog.commit_table = real  # type: ignore[method-assign]
            plan = other.pin(EVENTS).plan().only(lambda file: file.lower_bounds[3] == (0).to_bytes(8, "little"))
            other.replace(EVENTS, Change(plan.data_files, other.write(EVENTS, event_rows(5))))
            return real(*args)

        return commit_table

    with catalog_commits(lake, overtaken):
        done = compact_table(lake, EVENTS, 1 << 20, 1)
    assert done.refused == 1
    assert len(lake.pin(EVENTS).plan().files) == 1
    assert numbers(lake) == list(range(20))


def test_groups_are_committed_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "COMMIT_BYTES", 1)
    lake = make_lake(tmp_path, make_stream(lake={"partition_by": ["user"]}))
    for step in range(0, 25, 5):
        land(lake, step)
    assert len(compact_table(lake, EVENTS, 1 << 20, 2).snapshots) == 5
    assert numbers(lake) == list(range(25))


def _file(number: int, size: int, partition: str) -> DataFile:
    file = DataFile.from_args(file_path=str(number), file_size_in_bytes=size, partition=Record(partition))
    file.spec_id = 0
    return file


@given(sizes=st.lists(st.tuples(st.integers(1, 120), st.sampled_from("ab")), max_size=40))
def test_bins_hold_files_of_one_partition_up_to_the_target(sizes: list[tuple[int, str]]) -> None:
    files = [_file(number, size, partition) for number, (size, partition) in enumerate(sizes)]
    packed = packing.bins(files, 100, lambda file: file.file_path)
    named = [file.file_path for one in packed for file in one]
    assert len(named) == len(set(named))
    for one in packed:
        assert len({file.partition[0] for file in one}) == 1
        assert len(one) > 1
        assert sum(file.file_size_in_bytes for file in one) <= 100
        assert all(file.file_size_in_bytes < 75 for file in one)


def test_expired_files_leave_the_disk_and_kept_snapshots_stay_whole(tmp_path: Path) -> None:
    clock = ManualClock(SystemClock().now_us())
    lake = make_lake(tmp_path)
    for step in range(0, 25, 5):
        land(lake, step)
    compact.run(lake.config, compact.CompactOptions())
    assert expire.run(lake.config, expire.ExpireOptions(), clock) == expire.ExpireReport(
        0, 0, 0
    )  # all of them are young
    clock.advance(6 * DAY_US)
    report = expire.run(lake.config, expire.ExpireOptions(keep=2), clock)
    assert (report.snapshots, report.files) == (4, 0)  # the snapshot before the compaction still has its files
    report = expire.run(lake.config, expire.ExpireOptions(), clock)
    assert (report.snapshots, report.files) == (1, 5)
    land(lake, 25)
    assert expire.run(lake.config, expire.ExpireOptions(), clock) == expire.ExpireReport(1, 0, 0)
    assert {str(path) for path in parquet(lake)} == set(lake.pin(EVENTS).plan().files)
    assert numbers(lake) == list(range(30))
    with pytest.raises(ConfigError, match="at least 1"):
        expire.run(lake.config, expire.ExpireOptions(keep=0))


def test_orphans_go_after_the_grace_and_files_in_flight_never(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    land(lake, 0)
    stray = {Path(file.file_path) for file in lake.write(EVENTS, event_rows(3, 90))}  # its writer was killed
    old_us = SystemClock().now_us() - 4 * DAY_US
    for path in stray:
        os.utime(path, (old_us / 1e6, old_us / 1e6))
    staged = lake.write(EVENTS, event_rows(5, 5))  # not yet committed
    used = parquet(lake) - stray
    report = orphans.run(lake.config, orphans.OrphansOptions(dry_run=True))
    assert (report.files, parquet(lake)) == (1, used | stray)
    assert orphans.run(lake.config, orphans.OrphansOptions()).files == 1
    assert parquet(lake) == used
    lake.commit(EVENTS, staged, {"p0": 5}, {"p0": 10})
    assert numbers(lake) == list(range(10))
    with pytest.raises(ConfigError, match="at least 1h"):
        orphans.run(lake.config, orphans.OrphansOptions(grace_us=1))


def test_files_whose_commit_is_held_up_for_days_are_no_orphans(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    land(lake, 0)
    staged = lake.write(EVENTS, event_rows(5, 5))  # and then the catalog is away
    clock = ManualClock(SystemClock().now_us() + 30 * DAY_US)
    assert orphans.run(lake.config, orphans.OrphansOptions(), clock).files == 0
    lake.commit(EVENTS, staged, {"p0": 5}, {"p0": 10})
    assert numbers(lake) == list(range(10))


def test_orphaned_metadata_goes_and_the_table_stays_readable(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    for step in range(0, 40, 5):
        land(lake, step)
    metadata = Path(lake.load(EVENTS).metadata_location).parent
    (metadata / "left-over-m0.avro").write_bytes(b"x")
    for path in metadata.iterdir():
        os.utime(path, (1, 1))
    assert orphans.run(lake.config, orphans.OrphansOptions((EVENTS,))).files == 1
    assert numbers(Lake.open(lake.config)) == list(range(40))
    for snapshot in lake.load(EVENTS).metadata.snapshots:
        assert lake.pin(EVENTS, snapshot.snapshot_id).plan().rows > 0
