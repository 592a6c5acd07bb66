"""Objects of a real S3 server: whole or not there, never replaced by mistake, read in ranges through copies on disk."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest

from eagleray.cluster.config import Config
from eagleray.cluster.lake import s3_store
from eagleray.cluster.lake.file_cache import BLOCK, FileCache
from eagleray.cluster.lake.s3_file_io import S3FileIO
from eagleray.cluster.lake.s3_file_io import properties as file_properties
from eagleray.cluster.lake.s3_store import S3Store
from tests.servers.s3 import BUCKET, S3Server

PART = 5 << 20


@pytest.fixture
def config(s3: S3Server, keys: None, tmp_path: Path) -> Config:
    lake = {"warehouse": f"s3://{BUCKET}/w", "s3": {"endpoint": s3.url, "region": "us-east-1", "part_bytes": PART}}
    return Config.model_validate({"data_dir": tmp_path, "lake": lake})


@pytest.fixture
def store(config: Config) -> S3Store:
    return S3Store(s3_store.properties(config))


@pytest.fixture
def place() -> str:
    return f"s3://{BUCKET}/{uuid4().hex}"


@pytest.mark.parametrize("size", [0, 1, PART, PART + 1, 3 * PART + 17])
def test_an_object_is_what_was_written_however_many_parts_it_took(store: S3Store, place: str, size: int) -> None:
    data = os.urandom(size)
    with store.upload(place) as out:
        for start in range(0, size, 1_000_003):
            out.write(data[start : start + 1_000_003])
    assert store.get(place) == data
    assert store.size(place) == size


def test_an_upload_that_fails_leaves_no_object_and_no_parts(store: S3Store, place: str) -> None:
    with pytest.raises(RuntimeError), store.upload(place) as out:
        out.write(bytes(2 * PART))
        raise RuntimeError
    assert not store.exists(place)
    assert not store.client().list_multipart_uploads(Bucket=BUCKET, Prefix=place.rpartition("/")[2]).get("Uploads")


def test_of_many_who_write_one_object_without_overwriting_one_wins(store: S3Store, place: str) -> None:
    def put(number: int) -> bool:
        try:
            store.put(place, b"%d" % number, overwrite=False)
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(put, range(32)))
    assert won.count(True) == 1
    assert store.get(place) == b"%d" % won.index(True)


def test_a_write_whose_answer_was_lost_is_recognised_as_its_own(store: S3Store, place: str) -> None:
    store.put(place, b"same", overwrite=False)
    store.put(place, b"same", overwrite=False)  # as boto3 repeats a request that got no answer
    with pytest.raises(FileExistsError):
        store.put(place, b"other", overwrite=False)


def test_what_is_not_there_is_said_as_files_say_it(store: S3Store, place: str) -> None:
    with pytest.raises(FileNotFoundError):
        store.get(place)
    with pytest.raises(FileNotFoundError):
        store.size(place)
    store.delete(place)


def test_every_object_below_a_prefix_is_listed(store: S3Store, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_store, "LISTED", 3)
    for number in range(8):
        store.put(f"{place}/{number}", b"x" * number)
    assert [(one.key.rpartition("/")[2], one.bytes) for one in store.listed(f"{place}/")] == [
        (str(number), number) for number in range(8)
    ]


def test_wrong_keys_are_refused_in_a_sentence_and_right_ones_count_afterwards(
    s3: S3Server, store: S3Store, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(PermissionError, match="check keys and their rights") as error:
        store.put(place, b"")
    assert "wrong" not in str(error.value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.keys["AWS_SECRET_ACCESS_KEY"])
    store.put(place, b"")


def test_keys_come_from_the_file_that_the_configuration_names(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    for name in s3.keys:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "keys"
    file.write_text(
        f"[lake]\naws_access_key_id = {s3.keys['AWS_ACCESS_KEY_ID']}\n"
        f"aws_secret_access_key = {s3.keys['AWS_SECRET_ACCESS_KEY']}\n"
    )
    own = {"endpoint": s3.url, "region": "us-east-1", "credentials_file": str(file), "profile": "lake"}
    config = Config.model_validate({"data_dir": tmp_path, "lake": {"warehouse": f"s3://{BUCKET}/w", "s3": own}})
    S3Store(s3_store.properties(config)).put(place, b"")
    none = Config.model_validate(
        {"data_dir": tmp_path, "lake": {"warehouse": f"s3://{BUCKET}/w", "s3": {"endpoint": s3.url}}}
    )
    with pytest.raises(PermissionError, match=r"lake\.s3\.credentials_file"):
        S3Store(s3_store.properties(none)).put(place, b"")


def test_encryption_is_asked_for_with_every_write(config: Config, place: str) -> None:
    s3 = config.lake.s3.model_copy(update={"encryption": "aws:kms", "kms_key": "k"})
    store = S3Store(s3_store.properties(config.model_copy(update={"lake": config.lake.model_copy(update={"s3": s3})})))
    sent = []
    store.client().meta.events.register("before-send.s3", lambda request, **_: sent.append(dict(request.headers)))
    for size in (1, PART + 1):
        try:
            with store.upload(place) as out:
                out.write(bytes(size))
        except OSError:
            pass  # this server has no keys to encrypt with
    asked = [headers for headers in sent if b"aws:kms" in headers.values() or "aws:kms" in headers.values()]
    assert len(asked) >= 2


def test_ranges_are_fetched_once_and_shared_by_processes(config: Config, store: S3Store, place: str) -> None:
    data = os.urandom(10 * BLOCK + 5)
    store.put(f"{place}.parquet", data)
    files = S3FileIO(file_properties(config))
    file = files.new_input(f"{place}.parquet").ranges(len(data))  # type: ignore[attr-defined]
    assert file.read(3 * BLOCK - 7, 20) == data[3 * BLOCK - 7 : 3 * BLOCK + 13]
    assert file.read(len(data) - 3, 100) == data[-3:]
    store.delete(f"{place}.parquet")
    assert file.read(2 * BLOCK, 2 * BLOCK) == data[2 * BLOCK : 4 * BLOCK]  # of the copy
    with pytest.raises(FileNotFoundError):
        file.read(0, 1)
    file.close()
    other = multiprocessing.get_context("spawn").Process(
        target=_read_copy, args=(pickle.dumps(files), place, len(data), data)
    )
    other.start()
    other.join(60)
    assert other.exitcode == 0


def _read_copy(files: bytes, place: str, size: int, data: bytes) -> None:
    file = pickle.loads(files).new_input(f"{place}.parquet").ranges(size)
    assert file.read(3 * BLOCK - 7, 20) == data[3 * BLOCK - 7 : 3 * BLOCK + 13]


def test_copies_stay_within_their_bound_and_those_in_use_stay(tmp_path: Path) -> None:
    data = os.urandom(4 * BLOCK)
    cache = FileCache(tmp_path, 8 * BLOCK)

    def fetch(start: int, length: int) -> bytes:
        return data[start : start + length]

    held = cache.open("s3://b/held", len(data), fetch)
    assert held.read(0, len(data)) == data
    for number in range(20):
        file = cache.open(f"s3://b/{number}", len(data), fetch)
        assert file.read(0, len(data)) == data
        file.close()
    kept = sum(entry.stat().st_blocks * 512 for entry in cache._directory.iterdir())
    assert kept <= 8 * BLOCK + 2 * 4 * BLOCK
    held._fetch = None  # type: ignore[assignment]
    assert held.read(0, len(data)) == data
