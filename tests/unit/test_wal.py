"""A write-ahead log is refused where acked transactions would be lost, and only there."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from eagleray.cluster.errors import LogCorrupt
from eagleray.cluster.log import wal

FRAME = 24 + 4096


def transactions(directory: Path, *pages: int) -> bytes:
    """The write-ahead log of a database after transactions that wrote about so many pages each."""
    path = directory / "a.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, b BLOB)")
    for count in pages:
        connection.execute("INSERT INTO t (b) VALUES (randomblob(?))", (4000 * count,))
    found = Path(f"{path}-wal").read_bytes()
    connection.close()
    return found


def commits(data: bytes) -> list[int]:
    """The frames that end a transaction."""
    return [
        number
        for number in range((len(data) - 32) // FRAME)
        if any(data[32 + number * FRAME + 4 : 32 + number * FRAME + 8])
    ]


def frame(data: bytes, number: int) -> bytes:
    return data[32 + number * FRAME : 32 + (number + 1) * FRAME]


@pytest.fixture
def checked(tmp_path: Path) -> Callable[[bytes], None]:
    def check(data: bytes) -> None:
        file = tmp_path / "checked-wal"
        file.write_bytes(data)
        wal.check_wal(file)

    return check


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("within", [0, 5, 9, 16, 20, 24, 4000], ids=lambda at: f"byte {at}")
@pytest.mark.parametrize("part", [1, 3, 1024])
def test_a_damaged_frame_before_acked_transactions_is_found(
    tmp_path: Path, checked: Callable[[bytes], None], monkeypatch: pytest.MonkeyPatch, within: int, part: int
) -> None:
    monkeypatch.setattr(wal, "_PART", part)
    data = transactions(tmp_path, 3, 2, 4, 1, 2)
    checked(data)
    ends = commits(data)
    for number in range(ends[-3] + 1):  # two whole transactions and more are behind it
        with pytest.raises(LogCorrupt, match=f"frame {number} is damaged"):
            checked(flipped(data, 32 + number * FRAME + within))


@pytest.mark.parametrize("part", [1, 2, 1024])
def test_a_damaged_end_of_the_last_transaction_but_one_is_found(
    tmp_path: Path, checked: Callable[[bytes], None], monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    monkeypatch.setattr(wal, "_PART", part)
    data = transactions(tmp_path, 3, 2, 4, 1, 2)
    end = commits(data)[-2]
    for within in (0, 16, 20, 24, 4000):
        with pytest.raises(LogCorrupt, match=f"frame {end} is damaged"):
            checked(flipped(data, 32 + end * FRAME + within))


def test_a_torn_last_transaction_is_no_damage(tmp_path: Path, checked: Callable[[bytes], None]) -> None:
    data = transactions(tmp_path, 3, 2, 4)
    ends = commits(data)
    for number in range(ends[-2] + 1, ends[-1] + 1):
        for within in (0, 9, 16, 24):
            checked(flipped(data, 32 + number * FRAME + within))


@pytest.mark.parametrize("part", [1, 2, 1024])
def test_stale_frames_behind_a_torn_transaction_are_no_damage(
    tmp_path: Path, checked: Callable[[bytes], None], monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    """A long transaction was torn; a shorter one after it was torn as well: the rest of the first still lies there."""
    monkeypatch.setattr(wal, "_PART", part)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    long = transactions(tmp_path / "a", 3, 2, 9)
    last, end = commits(long)[-2:]
    torn = bytearray(long[32 + (last + 1) * FRAME :])
    short = flipped(long[: 32 + (last + 4) * FRAME], 32 + (last + 2) * FRAME + 100)  # frames last+1 .. last+3
    ending = bytearray(frame(short, last + 3))
    ending[4:8] = (99).to_bytes(4, "big")  # as if the transaction ended there
    data = short[: 32 + (last + 3) * FRAME] + bytes(ending) + bytes(torn[3 * FRAME :])
    assert commits(data)[-2:] == [last + 3, end]
    checked(data)


def test_frames_of_refused_commits_are_no_damage(tmp_path: Path, checked: Callable[[bytes], None]) -> None:
    """The disk refused to sync some commits: each next one was written over the last, and was shorter."""
    data = transactions(tmp_path, 3, 2, 9)
    last, end = commits(data)[-2:]
    stale = bytearray(data)
    for number in (last + 5, last + 7):
        at = 32 + number * FRAME
        stale[at + 4 : at + 8] = (99).to_bytes(4, "big")
        stale[at + 24] ^= 1
    assert commits(bytes(stale))[-3:] == [last + 5, last + 7, end]
    checked(bytes(stale[: 32 + (last + 1) * FRAME]) + bytes(stale[32 + (last + 2) * FRAME :]))
