"""A backup taken beside appends, commits, expiry and trimming is consistent, checked, continued when it was killed."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest

from eagleray.cli.app import main
from eagleray.cluster.backup import restore as restoring
from eagleray.cluster.backup import take as taking
from eagleray.cluster.backup.hold import deleting, nothing_deleted
from eagleray.cluster.backup.manifest import NAME, Manifest, read_manifest
from eagleray.cluster.backup.restore import check_backup, restore
from eagleray.cluster.backup.take import take_backup
from eagleray.cluster.clock import SystemClock, iso
from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError, EaglerayError
from eagleray.cluster.events.seeded_hash import hash_seed
from eagleray.cluster.lake.expire import Retention
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.pin import open_snapshots
from eagleray.cluster.log.backends import open_log
from eagleray.cluster.log.protocol import Entry, Kind
from eagleray.cluster.owner_key import ensure_owner_key, owner_key_file, read_owner_key
from eagleray.jobs.builtin.orphans import OrphansOptions
from eagleray.jobs.builtin.orphans import run as orphans
from eagleray.jobs.run.history import History
from eagleray.jobs.run.plan import Plan
from tests.lake_tables import EVENTS, event_rows, make_stream

CLOCK = SystemClock()


def config_of(directory: Path) -> Config:
    return Config.model_validate({"data_dir": directory / "data", "log": {"partitions": 1}})


class Platform:
    """What a platform does to its data: appends, commits, expires, trims. A record holds one number."""

    def __init__(self, directory: Path) -> None:
        self.config = config_of(directory)
        self.log = open_log(self.config)
        self.lake = Lake.open(self.config)
        self.lake.ensure({"s": make_stream()})
        self.acked: list[tuple[str, int]] = []
        self._stop = threading.Event()
        self._failed: list[BaseException] = []
        self._threads: list[threading.Thread] = []

    def append(self) -> None:
        (offset,) = self.log.append("s", [Entry(0, Kind.EVENTS, 1, str(len(self.acked)).encode())])
        self.acked.append((iso(CLOCK.now_us()), offset))

    def commit(self) -> None:
        begin = self.lake.progress(EVENTS).get("p0", 0)
        end = self.log.bounds("s", 0).end
        if end > begin:
            records = self.log.read("s", 0, begin, 1 << 30)[: end - begin]
            rows = pa.concat_tables([event_rows(1, int(record.payload)) for record in records])
            self.lake.commit(EVENTS, self.lake.write(EVENTS, rows), {"p0": begin}, {"p0": begin + len(records)})

    def forget_old(self) -> None:
        """As hard as it can be: what is not needed now is deleted now."""
        self.lake.expire(EVENTS, Retention(1, 0, 0))
        with deleting(self.config.data_dir) as allowed:
            if allowed:
                self.log.trim("s", 0, self.lake.progress(EVENTS).get("p0", 0), CLOCK.now_us() + 1)

    def __enter__(self) -> Platform:
        def forever(*work: object) -> None:
            try:
                while not self._stop.is_set():
                    for one in work:
                        one()  # type: ignore[operator]
                    time.sleep(0.001)
            except BaseException as error:
                self._failed.append(error)

        self._threads = [
            threading.Thread(target=forever, args=(self.append,)),
            threading.Thread(target=forever, args=(self.commit, self.forget_old)),
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self.log.close()
        assert not self._failed, self._failed


def stored(config: Config) -> list[int]:
    """Numbers in the table and, behind its progress, in the log: what a platform that goes on from here will have."""
    lake, log = Lake.open(config), open_log(config)
    try:
        begin, bounds = lake.progress(EVENTS).get("p0", 0), log.bounds("s", 0)
        assert bounds.first <= begin <= bounds.end
        pending = log.read("s", 0, begin, 1 << 30) if begin < bounds.end else []
        return sorted([*lake.read(EVENTS, ["n"])["n"].to_pylist(), *(int(record.payload) for record in pending)])
    finally:
        log.close()


@pytest.fixture
def quiet(tmp_path: Path) -> Iterator[Platform]:
    """Some data that nobody works on, with everything that belongs to it."""
    platform = Platform(tmp_path / "a")
    for _ in range(3):
        platform.append()
        platform.append()
        platform.commit()
    platform.append()
    platform.log.close()
    config = platform.config
    hash_seed(config)
    ensure_owner_key(config, CLOCK)
    history = History.open(config)
    history.finish(history.begin(Plan("compact", "", ()), "built-in", ()), "succeeded", ())
    history.close()
    (config.state_dir / "s").mkdir(parents=True)
    (config.state_dir / "s" / "1-1.snap").write_bytes(b"state")
    yield platform


def test_beside_appends_commits_expiry_and_trimming_it_is_one_instant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Platform(tmp_path / "a") as platform:

        def moved_on() -> None:
            """Between any two steps, events are acked and committed, and what can go goes."""
            end = platform.log.bounds("s", 0).end
            while platform.lake.progress(EVENTS).get("p0", 0) <= end:
                time.sleep(0.005)

        for step in ("_copy_states", "_copy_history", "_copy_catalog", "_copy_log", "_copy_keys"):
            real = getattr(taking._Backup, step)
            monkeypatch.setattr(taking._Backup, step, lambda self, real=real: (real(self), moved_on())[0])
        while platform.lake.progress(EVENTS).get("p0", 0) < 20:
            time.sleep(0.01)
        backups = []
        for number in range(3):
            backups.append(
                (tmp_path / f"backup-{number}", take_backup(platform.config, tmp_path / f"backup-{number}", CLOCK))
            )
    acked = list(platform.acked)
    shutil.rmtree(tmp_path / "a")
    for number, (directory, manifest) in enumerate(backups):
        config = config_of(tmp_path / f"b{number}")
        restore(config, directory)
        found = stored(config)
        assert found == list(range(len(found)))  # each once, no gap
        promised = [offset for at, offset in acked if at < manifest.instant]
        assert len(promised) <= len(found) == manifest.streams["s"]["p0"]
    assert promised


def test_everything_that_belongs_together_is_restored_elsewhere_and_in_place(quiet: Platform, tmp_path: Path) -> None:
    original, expected = quiet.config, stored(quiet.config)
    manifest = take_backup(original, tmp_path / "backup", CLOCK)
    assert check_backup(tmp_path / "backup") == manifest == read_manifest(tmp_path / "backup")
    assert (tmp_path / "backup").stat().st_mode & 0o777 == 0o700
    assert all(not file.stat().st_mode & 0o077 for file in (tmp_path / "backup").rglob("*") if file.is_file())
    key, seed = read_owner_key(original.data_dir), hash_seed(original)
    shutil.move(original.data_dir, tmp_path / "lost")
    for config in (original, config_of(tmp_path / "elsewhere")):
        ensure_owner_key(config, CLOCK)  # as `eagleray init` does
        restore(config, tmp_path / "backup")
        assert stored(config) == expected == list(range(7))
        assert (read_owner_key(config.data_dir), hash_seed(config)) == (key, seed)
        assert not ensure_owner_key(config, CLOCK)  # the keys fit the owner's
        assert owner_key_file(config.data_dir).stat().st_mode & 0o777 == 0o600
        assert (config.state_dir / "s" / "1-1.snap").read_bytes() == b"state"
        with closing(sqlite3.connect(config.data_dir / "jobs.db")) as jobs:
            assert jobs.execute("SELECT state FROM eagleray_runs").fetchall() == [("succeeded",)]
        assert all(
            file.startswith(config.warehouse) for file in open_snapshots(config).pin([EVENTS])[EVENTS].plan().files
        )


def test_a_killed_backup_is_none_and_is_continued(
    quiet: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[str] = []
    copy = taking.copy

    def dies(source: Path, target: Path) -> object:
        copied.append(source.name)
        if sum(name.endswith(".parquet") for name in copied) == 2:
            raise KeyboardInterrupt
        return copy(source, target)

    monkeypatch.setattr(taking, "copy", dies)
    with pytest.raises(KeyboardInterrupt):
        take_backup(quiet.config, tmp_path / "backup", CLOCK)
    for use in (
        lambda: check_backup(tmp_path / "backup"),
        lambda: restore(config_of(tmp_path / "b"), tmp_path / "backup"),
    ):
        with pytest.raises(EaglerayError, match="was not finished: run `eagleray backup` again"):
            use()
    with deleting(quiet.config.data_dir) as allowed:
        assert allowed  # the hold went with its holder
    already = {name for name in copied[:-1] if name.endswith((".parquet", ".avro"))}
    copied.clear()
    monkeypatch.setattr(taking, "copy", lambda source, target: (copied.append(source.name), copy(source, target))[1])
    take_backup(quiet.config, tmp_path / "backup", CLOCK)
    assert already and already.isdisjoint(copied)
    check_backup(tmp_path / "backup")


def test_a_killed_restore_is_refused_by_every_door_until_it_is_continued(
    quiet: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_backup(quiet.config, tmp_path / "backup", CLOCK)
    config = config_of(tmp_path / "b")
    with monkeypatch.context() as patched:
        patched.setattr(restoring, "relocate", lambda place: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            restore(config, tmp_path / "backup")
    for door in (lambda: Lake.open(config), lambda: open_snapshots(config)):
        with pytest.raises(ConfigError, match="is being restored from a backup"):
            door()
    shutil.copytree(tmp_path / "backup", tmp_path / "other")
    with pytest.raises(EaglerayError, match="holds part of another backup"):
        restore(config, tmp_path / "other")
    restore(config, tmp_path / "backup")
    assert stored(config) == list(range(7))


@pytest.mark.parametrize("what", ["flipped", "cut", "missing"])
def test_a_damaged_backup_is_found_and_the_file_named(quiet: Platform, tmp_path: Path, what: str) -> None:
    take_backup(quiet.config, tmp_path / "backup", CLOCK)
    victim = next((tmp_path / "backup" / "lake").rglob("*.parquet"))
    content = bytearray(victim.read_bytes())
    if what == "missing":
        victim.unlink()
    else:
        content[len(content) // 2] ^= 1
        victim.write_bytes(content if what == "flipped" else content[:-1])
    said = {"flipped": "checksum does not match", "cut": "bytes of", "missing": "is missing"}[what]
    for use in (
        lambda: check_backup(tmp_path / "backup"),
        lambda: restore(config_of(tmp_path / "b"), tmp_path / "backup"),
    ):
        with pytest.raises(EaglerayError, match=rf"{victim.name}.*{said}.*use another backup"):
            use()
    with pytest.raises(ConfigError, match="is being restored"):
        Lake.open(config_of(tmp_path / "b"))


def test_data_that_is_there_is_never_overwritten(quiet: Platform, tmp_path: Path) -> None:
    take_backup(quiet.config, tmp_path / "backup", CLOCK)
    with pytest.raises(EaglerayError, match="is there already, and a restore overwrites no data"):
        restore(quiet.config, tmp_path / "backup")
    with pytest.raises(EaglerayError, match="holds a complete backup; name another directory"):
        take_backup(quiet.config, tmp_path / "backup", CLOCK)
    with pytest.raises(ConfigError, match="is within what is backed up"):
        take_backup(quiet.config, quiet.config.data_dir / "backup", CLOCK)
    assert stored(quiet.config) == list(range(7))


def test_a_backup_without_room_says_so_before_it_fills_the_disk(
    quiet: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taking, "free_bytes", lambda directory: 10)
    with pytest.raises(EaglerayError, match="MiB are needed, 0 MiB are free; free some space and run it again"):
        take_backup(quiet.config, tmp_path / "backup", CLOCK)


def test_while_a_backup_is_taken_nothing_is_deleted_and_only_one_is_taken(quiet: Platform) -> None:
    snapshots = quiet.lake.snapshot_count(EVENTS)
    with nothing_deleted(quiet.config.data_dir):
        assert quiet.lake.expire(EVENTS, Retention(1, 0, 0)).snapshots == 0
        with pytest.raises(EaglerayError, match="a backup is being taken"):
            orphans(quiet.config, OrphansOptions())
        with pytest.raises(EaglerayError, match=r"another backup of .* is under way"):
            with nothing_deleted(quiet.config.data_dir):
                pass
    assert quiet.lake.snapshot_count(EVENTS) == snapshots
    assert quiet.lake.expire(EVENTS, Retention(1, 0, 0)).snapshots == snapshots - 1


def test_data_on_other_machines_is_refused_or_named(quiet: Platform, tmp_path: Path) -> None:
    remote = quiet.config.model_copy(update={"lake": quiet.config.lake.model_copy(update={"warehouse": "s3://bucket"})})
    with pytest.raises(ConfigError, match="for others use the tools of their stores"):
        take_backup(remote, tmp_path / "backup", CLOCK)
    jobs = quiet.config.jobs.model_copy(update={"history": "postgresql://db/jobs"})
    done = take_backup(quiet.config.model_copy(update={"jobs": jobs}), tmp_path / "backup", CLOCK)
    assert done.left_out == ("the jobs' history, which is in another database",)


def test_the_commands_say_what_they_did(quiet: Platform, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "eagleray.yaml").write_text("data_dir: ./data\nlog: {partitions: 1}\n")

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(words)
        return (int(ended.value.code or 0), *capfd.readouterr())

    backup = str(tmp_path / "backup")
    code, said, error = run("backup", backup, "-c", str(tmp_path / "a" / "eagleray.yaml"))
    manifest: Manifest = read_manifest(Path(backup))
    assert (code, error) == (0, "") and f"acked before {manifest.instant}" in said
    assert run("backup", backup, "--check")[0] == 0
    assert run("restore", backup, "-c", str(tmp_path / "b" / "eagleray.yaml"))[::2] == (0, "")
    assert stored(config_of(tmp_path / "b")) == list(range(7))
    broken = json.loads((tmp_path / "backup" / NAME).read_text()) | {"format": 99}
    (tmp_path / "backup" / NAME).write_text(json.dumps(broken))
    code, _, error = run("backup", backup, "--check")
    assert code == 1 and "format 99" in error and error.count("\n") == 1
