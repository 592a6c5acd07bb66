"""Snapshots of window state: torn, damaged and foreign files are passed over, and the one before loads."""

from __future__ import annotations

import struct
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagleray.actors.window.snapshot import VERSION, Needed, Snapshot, SnapshotStore, SnapshotUnusable, decode, encode
from eagleray.cluster.state.files import FilesPlace
from eagleray.cluster.state.protocol import Fenced

TABLE = pa.table({"g0": ["a", None], "s0_0": [[1, 2], []]})


def snapshot(position: int) -> Snapshot:
    return Snapshot(position, position * 10, {"w": TABLE, "late": TABLE.slice(1)})


def store(directory: Path) -> SnapshotStore:
    return SnapshotStore(FilesPlace(directory, "clicks/window/p0"), {"w": Needed(0)})


def test_what_was_saved_loads(tmp_path: Path) -> None:
    assert store(tmp_path / "new").load() is None
    store(tmp_path / "new").save(snapshot(7))
    found = store(tmp_path / "new").load()
    assert found is not None and (found.position, found.watermark_us) == (7, 70)
    assert found.tables["w"].equals(TABLE) and found.tables["late"].equals(TABLE.slice(1))


@given(cut=st.integers(0, 10_000))
def test_a_torn_file_is_refused(cut: int) -> None:
    data = encode(snapshot(3))
    with pytest.raises(SnapshotUnusable):
        decode(data[: cut % len(data)], {})


@given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused(at: int, bit: int) -> None:
    data = bytearray(encode(snapshot(3)))
    data[at % len(data)] ^= 1 << bit
    with pytest.raises(SnapshotUnusable):
        decode(bytes(data), {})


@pytest.mark.parametrize("harm", ["torn", "damaged", "newer", "other_windows", "empty"])
def test_the_one_before_loads(tmp_path: Path, harm: str) -> None:
    kept = store(tmp_path)
    kept.save(snapshot(1))
    kept.save(snapshot(2))
    file = next(file for file in tmp_path.glob("*.snap") if file.name.startswith(f"{2:020d}"))
    data = file.read_bytes()
    harmed = {
        "torn": data[:-5],
        "damaged": data[:-5] + bytes(5),
        "newer": data[:8] + struct.pack("<I", VERSION + 1) + data[12:],
        "other_windows": encode(Snapshot(2, 20, {"other": TABLE})),
        "empty": b"",
    }
    file.write_bytes(harmed[harm])
    again = store(tmp_path)
    found = again.load()
    assert found is not None and found.position == 1
    assert again.safe == 0  # with one left, losing it means reading the whole log
    again.save(snapshot(3))
    assert not file.exists() and again.safe == 1


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    kept = store(tmp_path)
    for position in (1, 2, 3, 4):
        kept.save(snapshot(position))
    assert sorted(int(file.name[:20]) for file in tmp_path.glob("*.snap")) == [3, 4]
    assert kept.safe == 3


def test_a_former_owner_that_wakes_up_changes_nothing(tmp_path: Path) -> None:
    zombie, owner = store(tmp_path), store(tmp_path)
    assert owner.epoch > zombie.epoch
    owner.save(snapshot(5))
    for late in (zombie.check, lambda: zombie.save(snapshot(9))):
        with pytest.raises(Fenced, match="clicks/window/p0"):
            late()
    owner.check()
    found = store(tmp_path).load()
    assert found is not None and found.position == 5
    assert {int(file.name[:20]) for file in tmp_path.glob("*.snap")} == {5}


def test_a_file_that_was_not_named_is_never_loaded(tmp_path: Path) -> None:
    kept = store(tmp_path)
    kept.save(snapshot(1))
    (tmp_path / f"{9:020d}-abc.snap").write_bytes(encode(snapshot(9)))  # killed before it was named
    found = store(tmp_path).load()
    assert found is not None and found.position == 1


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = store(tmp_path)
    kept.save(snapshot(1))

    def no_space(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr("os.fsync", no_space)
        with pytest.raises(OSError, match="No space"):
            kept.save(snapshot(2))
    found = store(tmp_path).load()
    assert found is not None and found.position == 1
    assert {int(file.name[:20]) for file in tmp_path.glob("*.snap")} == {1}


def test_a_table_that_has_another_name_now_is_known_up_to_where_it_got_it(tmp_path: Path) -> None:
    store(tmp_path).save(snapshot(5))
    for need, found in ((Needed(0, "w", 5), True), (Needed(0, "w", 4), None), (Needed(5), False), (Needed(4), None)):
        loaded = SnapshotStore(FilesPlace(tmp_path, "p0"), {"renamed": need}).load()
        assert (loaded and "renamed" in loaded.tables) == found
