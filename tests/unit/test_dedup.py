"""The deduplicator against a dictionary, whatever the batches, spills, saves, kills and restores in between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagleray.cluster.log.dedup import deduplicator as dedup
from eagleray.cluster.log.dedup import run_set as idruns
from eagleray.cluster.log.dedup.deduplicator import Deduplicator
from eagleray.cluster.state.files import OWNER, FilesPlace
from tests.examples import examples

HORIZON = 50


class Oracle:
    """(id → time it was stored), one event at a time."""

    def __init__(self, horizon_us: int) -> None:
        self.horizon_us = horizon_us
        self.stored: dict[int, int] = {}

    def fresh(self, id_: int, time: int) -> bool:
        if id_ in self.stored and time - self.stored[id_] < self.horizon_us:
            return False
        self.stored[id_] = time
        return True


def words(ids: list[int], spread: bool) -> np.ndarray:
    """Small numbers as ids: spread like hashes, or as they are, so that everything collides."""
    rows = np.zeros((len(ids), 2), np.uint64)
    for row, id_ in enumerate(ids):
        hashed = (id_ * 0x9E3779B97F4A7C15F39CC0605CEDC835) % (1 << 128)
        rows[row] = (hashed >> 64, hashed % (1 << 64)) if spread else (id_ % 3, id_)
    return rows


def record_log(records: list[tuple[int, list[int]]]) -> list[tuple[int, int, int]]:
    """(offset, time, id) of every event."""
    time, rows = 1_000, []
    for offset, (pause, ids) in enumerate(records):
        time += pause
        rows += [(offset, time, id_) for id_ in ids]
    return rows


def feed(dedup_: Deduplicator, rows: list[tuple[int, int, int]], spread: bool) -> list[bool]:
    if not rows:
        return []
    offsets, times, ids = (list(column) for column in zip(*rows, strict=True))
    return dedup_.fresh(words(ids, spread), None, np.array(times), np.array(offsets)).tolist()


def at(directory: Path) -> FilesPlace:
    return FilesPlace(directory, "ids")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that a table of a million rows does, at a handful."""
    monkeypatch.setattr(idruns, "RUNS_MAX", 3)
    monkeypatch.setattr(dedup, "_REPLAY_ROWS", 3)


RECORDS = st.lists(st.tuples(st.integers(0, 30), st.lists(st.integers(0, 40), max_size=6)), min_size=1, max_size=60)
STEPS = st.lists(
    st.tuples(st.integers(1, 12), st.sampled_from(["", "", "spill", "save", "save_behind", "kill", "merge"])),
    max_size=40,
)


@examples(50)
@given(records=RECORDS, steps=STEPS, spread=st.booleans())
def test_answers_depend_on_ids_and_times_only(
    small: None, tmp_path_factory: pytest.TempPathFactory, records: Any, steps: Any, spread: bool
) -> None:
    directory = tmp_path_factory.mktemp("ids")
    rows = record_log(records)
    oracle = Oracle(HORIZON)
    expected = [oracle.fresh(id_, time) for _, time, id_ in rows]
    subject = Deduplicator(HORIZON)
    subject.restore(at(directory), 0)
    position = safe = 0
    for count, action in steps:
        batch = [i for i, row in enumerate(rows) if position <= row[0] < position + count]
        assert feed(subject, [rows[i] for i in batch], spread) == [expected[i] for i in batch]
        position += count
        if action == "spill" and subject._table.rows:
            subject._spill()
        elif action.startswith("save"):
            safe = max(safe, position - (2 if action == "save_behind" else 0))
            subject.save(at(directory), safe)
        elif action == "merge" and subject._runs._merge:
            subject._runs._merge.join()
        elif action == "kill":  # the process is gone; its successor goes back to what was committed and reads again
            successor = Deduplicator(HORIZON)
            complete = successor.restore(at(directory), safe)
            assert complete == safe
            subject.close()
            subject, position = successor, safe
    rest = [i for i, row in enumerate(rows) if row[0] >= position]
    assert feed(subject, [rows[i] for i in rest], spread) == [expected[i] for i in rest]
    subject.close()


def random_ids(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1 << 64, (count, 2), np.uint64)


def test_memory_stays_within_its_limit_and_old_ids_are_still_found(tmp_path: Path) -> None:
    limit = 1 << 20
    subject = Deduplicator(1 << 60, memory_bytes_max=limit)
    subject.restore(at(tmp_path), 0)
    ids = random_ids(300_000)
    for start in range(0, len(ids), 5_000):
        assert subject.fresh(ids[start : start + 5_000], None, start, start).all()
        assert subject.memory_bytes <= limit + 5_000 * 80  # one batch, and the arrays double
    assert len(subject._runs.runs) <= 2 * idruns.RUNS_MAX
    assert not subject.fresh(ids[::7], None, len(ids), len(ids)).any()
    subject.close()


def test_nothing_is_added_for_records_from_the_restored_offset_on(tmp_path: Path) -> None:
    first = Deduplicator(HORIZON)
    first.restore(at(tmp_path), 0)
    ids = random_ids(10)
    first.fresh(ids, None, 5, np.arange(10))
    first.save(at(tmp_path), 10)
    second = Deduplicator(HORIZON)
    assert second.restore(at(tmp_path), 4) == 4
    assert second.fresh(ids, None, 6, 10).tolist() == [False] * 4 + [True] * 6
    first.close()
    second.close()


def test_a_former_owner_changes_nothing(tmp_path: Path) -> None:
    zombie, owner = Deduplicator(HORIZON), Deduplicator(HORIZON)
    ids = random_ids(30)
    zombie.restore(at(tmp_path), 0)
    zombie.fresh(ids[:10], None, 5, 0)
    zombie.save(at(tmp_path), 1)
    assert owner.restore(at(tmp_path), 1) == 1
    owner.fresh(ids[10:20], None, 6, 1)
    owner.save(at(tmp_path), 2)
    held = sorted(path.name for path in tmp_path.glob("0*"))
    zombie.fresh(ids[20:], None, 7, 1)
    zombie.save(at(tmp_path), 2)
    zombie.fresh(ids[20:], None, 8, 2)
    zombie.save(at(tmp_path), 3)
    zombie._spill()
    third = Deduplicator(HORIZON)
    assert set(held) <= {path.name for path in tmp_path.glob("0*")}
    assert third.restore(at(tmp_path), 9) == 2
    assert third.fresh(ids, None, 8, 2).tolist() == [False] * 20 + [True] * 10
    for each in (zombie, owner, third):
        each.close()


@pytest.mark.parametrize("kind", ["ids", "journal"])
@pytest.mark.parametrize("damage", ["flip", "cut", "missing", "directory", "manifest", "manifest is a directory"])
def test_damaged_state_is_refused_whole(tmp_path: Path, damage: str, kind: str) -> None:
    first = Deduplicator(HORIZON)
    first.restore(at(tmp_path), 0)
    first.fresh(random_ids(1000), None, 5, 0)
    if kind == "ids":
        first._spill()
    first.save(at(tmp_path), 1)
    first.close()
    (file,) = tmp_path.glob(f"*.{kind}")
    data = bytearray(file.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif damage == "cut":
        file.write_bytes(data[:-100])
    elif damage == "missing":
        file.unlink()
    elif damage == "directory":
        file.unlink()
        file.mkdir()
    elif damage == "manifest is a directory":
        (tmp_path / OWNER).unlink()
        (tmp_path / OWNER).mkdir()
    else:
        (tmp_path / OWNER).write_text('{"owner": ')
    second = Deduplicator(HORIZON)
    assert second.restore(at(tmp_path), 1) == 0
    assert second.fresh(random_ids(1000), None, 6, 0).all()
    second.close()


def test_expired_runs_are_deleted_and_an_older_position_is_refused(tmp_path: Path) -> None:
    subject = Deduplicator(HORIZON)
    subject.restore(at(tmp_path), 0)
    for offset in range(6):
        subject.fresh(random_ids(100, offset), None, offset * 40, offset)
        subject._spill()
        subject.save(at(tmp_path), offset + 1)
    assert len(list(tmp_path.glob("0*"))) <= 3
    subject.close()
    assert Deduplicator(HORIZON).restore(at(tmp_path), 2) == 0


def test_events_without_id_are_always_fresh() -> None:
    subject = Deduplicator(HORIZON)
    ids = np.zeros((4, 2), np.uint64)
    present = np.array([True, False, True, False])
    assert subject.fresh(ids, present, 1, 0).tolist() == [True, True, False, True]
    assert subject.fresh(ids, np.zeros(4, np.bool_), 1, 1).all()
    assert subject.fresh(ids[:0], None, 1, 1).tolist() == []
    subject.close()


def test_a_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = Deduplicator(HORIZON, memory_bytes_max=1 << 17)
    subject.restore(at(tmp_path / "ids"), 0)
    ids = random_ids(3_000)
    subject.fresh(ids[:2_000], None, 1, 0)
    (tmp_path / "ids").rename(tmp_path / "gone")  # no directory: writing fails as on a full disk
    with pytest.raises(OSError, match="ids"):
        subject.fresh(ids[2_000:], None, 1, 1)
    with pytest.raises(OSError, match="ids"):
        subject.save(at(tmp_path / "ids"), 1)
    (tmp_path / "gone").rename(tmp_path / "ids")
    assert subject.fresh(ids, None, 1, 1).tolist() == [False] * 2_000 + [True] * 1_000
    subject.save(at(tmp_path / "ids"), 2)
    successor = Deduplicator(HORIZON)
    assert successor.restore(at(tmp_path / "ids"), 2) == 2
    assert not successor.fresh(ids, None, 1, 2).any()
    subject.close()
    successor.close()
