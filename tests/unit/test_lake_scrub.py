"""Eight changed bytes anywhere in a data file are found and the file is named; so are wrong files and records."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagleray.cli.doctor import examine
from eagleray.cluster.clock import SystemClock
from eagleray.cluster.config import Config
from eagleray.cluster.errors import LakeDamaged
from eagleray.cluster.lake.compaction import compact
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.replace import Change
from eagleray.cluster.lake.scrub import scrub_table
from eagleray.cluster.log.backends import open_log
from eagleray.cluster.log.protocol import Entry, Kind
from eagleray.jobs.builtin.scrub import ScrubOptions, run
from tests.examples import examples
from tests.lake_tables import EVENTS, event_rows, make_lake


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    lake = make_lake(tmp_path_factory.mktemp("scrub"))
    for step in range(0, 600, 300):
        lake.commit(EVENTS, lake.write(EVENTS, event_rows(300, step)), {"p0": step}, {"p0": step + 300})
    return lake


def flip(file: Path, at: int) -> bytes:
    """Change eight bytes; returns what was there."""
    content = file.read_bytes()
    changed = bytearray(content)
    for index in range(at, at + 8):
        changed[index] ^= 0x5A
    file.write_bytes(bytes(changed))
    return content


@examples(25)
@given(st.floats(0, 1))
def test_eight_flipped_bytes_anywhere_are_found_and_the_file_named(whole: Lake, where: float) -> None:
    victim = Path(whole.pin(EVENTS).plan().files[0])
    content = flip(victim, round(where * (victim.stat().st_size - 8)))
    try:
        (problem,) = scrub_table(whole, EVENTS).problems
        assert problem.startswith(str(victim)) and "checksum in its name" in problem
    finally:
        victim.write_bytes(content)
    assert not scrub_table(whole, EVENTS).problems


def test_files_without_a_checksum_in_their_name_are_found_by_those_of_their_pages(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    (file,) = lake.write(EVENTS, event_rows(2000))
    plain = Path(file.file_path).rename(Path(file.file_path).with_name("00000-0-of-another-program.parquet"))
    file[1] = str(plain)
    lake.replace(EVENTS, Change((), [file]))
    assert not scrub_table(lake, EVENTS).problems
    column = pq.ParquetFile(plain).metadata.row_group(0).column(2)  # n: its values are differences, not compressed away
    begin = column.data_page_offset
    flip(plain, begin + column.total_compressed_size // 2)
    (problem,) = scrub_table(lake, EVENTS).problems
    assert problem.startswith(str(plain))


def test_page_checksums_stop_a_compaction_from_copying_what_changed(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    for step in range(0, 40, 5):
        lake.commit(EVENTS, lake.write(EVENTS, event_rows(5, step)), {"p0": step}, {"p0": step + 5})
    victim = Path(lake.pin(EVENTS).plan().files[0])
    column = pq.ParquetFile(victim).metadata.row_group(0).column(2)
    content = bytearray(victim.read_bytes())
    content[column.data_page_offset + column.total_compressed_size - 1] ^= 1
    victim.write_bytes(bytes(content))
    with pytest.raises(OSError, match=r"CRC|crc|checksum"):
        compact(lake, EVENTS, 1 << 20, 1)
    assert len(lake.pin(EVENTS).plan().files) == 8


@pytest.mark.parametrize("what", ["missing", "cut", "manifest"])
def test_what_is_missing_or_cut_is_named_by_the_job_and_by_the_doctor(tmp_path: Path, what: str) -> None:
    lake = make_lake(tmp_path)
    lake.commit(EVENTS, lake.write(EVENTS, event_rows(5)), {"p0": 0}, {"p0": 5})
    assert run(lake.config, ScrubOptions()).files == 1
    victim = Path(lake.pin(EVENTS).plan().files[0])
    if what == "missing":
        victim.unlink()
    elif what == "cut":
        victim.write_bytes(victim.read_bytes()[:-1])
    else:
        victim = next(Path(lake.config.warehouse).rglob("events/metadata/*-m0.avro"))
        victim.write_bytes(victim.read_bytes()[:-20])
    named = EVENTS if what == "manifest" else victim.name
    with pytest.raises(LakeDamaged, match=named):
        run(lake.config, ScrubOptions((EVENTS,)))
    (tmp_path / "eagleray.yaml").write_text("data_dir: ./data\n")
    findings = {f.what: f for f in examine(tmp_path / "eagleray.yaml", SystemClock(), deep=True)}
    assert findings["files"].verdict == "bad" and named in findings["files"].found


def test_the_log_is_read_and_events_are_compared_with_it(tmp_path: Path) -> None:
    config = Config.model_validate(
        {
            "data_dir": tmp_path / "data",
            "log": {"partitions": 1},
            "streams": {"s": {"schema": "s.json", "time": "time"}},
        }
    )
    lake = Lake.open(config)
    make_lake(tmp_path)
    log = open_log(config)
    log.append("s", [Entry(0, Kind.EVENTS, 1, b"x" * 1000) for _ in range(4)])
    lake.commit(EVENTS, lake.write(EVENTS, event_rows(4)), {"p0": 0}, {"p0": 4})
    log.close()
    assert run(config, ScrubOptions()).records == 4
    lake.replace(EVENTS, Change((), lake.write(EVENTS, event_rows(1, 2))))
    with pytest.raises(LakeDamaged, match=r"s\.events: 1 rows of log partition 0 are there twice"):
        run(config, ScrubOptions())
    with closing(sqlite3.connect(config.log_dir / "s" / "records.db")) as database, database:
        database.execute("UPDATE records SET payload = ? WHERE key = 1", [random.randbytes(1000)])
    with pytest.raises(LakeDamaged, match="record 1: checksum mismatch"):
        run(config, ScrubOptions())
    assert run(config, ScrubOptions(("s.late",), log=False)).records == 0
