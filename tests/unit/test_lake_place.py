"""A lake that was copied, moved or lost its catalog is refused in one line, and `relocate` makes it one of its own."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest

from eagleray.cli.app import main
from eagleray.cli.doctor import examine
from eagleray.cluster.client.target import find_platform
from eagleray.cluster.clock import SystemClock
from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError, EaglerayError
from eagleray.cluster.lake import bin_packing, manifests
from eagleray.cluster.lake import relocate as relocation
from eagleray.cluster.lake.catalog import place_of
from eagleray.cluster.lake.compaction import compact
from eagleray.cluster.lake.expire import Retention
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.pin import open_snapshots
from eagleray.cluster.lake.place import Place
from eagleray.cluster.lake.relocate import relocate
from eagleray.cluster.project_lock import project_lock
from tests.lake_tables import EVENTS, event_rows, make_config, make_lake, make_stream, numbers


def land(lake: Lake, step: int, count: int = 3) -> None:
    lake.commit(EVENTS, lake.write(EVENTS, event_rows(count, step)), {"p0": step}, {"p0": step + count})


def here(config: Config) -> Place:
    found = place_of(config)
    assert found
    return found


def fingerprint(directory: Path) -> dict[str, str]:
    files = (path for path in directory.rglob("*") if path.is_file() and not path.name.endswith(("-shm", ".lock")))
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def original(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """A partition spec, merged manifests and a compaction: whatever names files."""
    monkeypatch.setattr(manifests, "MERGE_COUNT", 3)
    monkeypatch.setattr(bin_packing, "FILES_MIN", 2)
    lake = make_lake(tmp_path / "a", make_stream(lake={"partition_by": ["bucket(2, n)"]}))
    for step in range(0, 12, 3):
        land(lake, step)
    assert compact(lake, EVENTS, 1 << 20, 1).files_after == 2
    land(lake, 12)
    return lake


def copied(original: Lake, to: Path) -> Config:
    shutil.copytree(original.config.data_dir.parent, to)
    return make_config(to)


def test_a_copy_is_refused_by_every_door_and_names_the_original(original: Lake, tmp_path: Path) -> None:
    config = copied(original, tmp_path / "b")
    before = fingerprint(tmp_path / "a")
    for door in (
        lambda: Lake.open(config),
        lambda: open_snapshots(config).names(),
        lambda: open_snapshots(config).pin([EVENTS]),
    ):
        with pytest.raises(ConfigError) as refused:
            door()
        said = str(refused.value)
        assert "\n" not in said and f"is a copy of the lake in {tmp_path}/a/data/lake" in said and "relocate" in said
    assert fingerprint(tmp_path / "a") == before


def test_a_moved_project_is_refused_and_names_the_old_place(original: Lake, tmp_path: Path) -> None:
    (tmp_path / "a").rename(tmp_path / "c")
    with pytest.raises(ConfigError, match=f"was moved from {tmp_path}/a/data/lake"):
        Lake.open(make_config(tmp_path / "c"))
    (tmp_path / "a").symlink_to(tmp_path / "c")  # put back, in a way: every location is good again
    land(Lake.open(make_config(tmp_path / "c")), 15)
    assert numbers(Lake.open(make_config(tmp_path / "a"))) == list(range(18))


def test_a_relocated_copy_lives_by_itself_and_never_touches_the_original(original: Lake, tmp_path: Path) -> None:
    config = copied(original, tmp_path / "b")
    before, rows = fingerprint(tmp_path / "a"), numbers(original)
    assert relocate(here(config)).tables == 3
    shutil.move(tmp_path / "a", tmp_path / "gone")
    lake = Lake.open(config)
    assert numbers(lake) == rows
    assert lake.progress(EVENTS) == {"p0": 15}
    history = lake.history(EVENTS)
    assert len(history) == 6
    for snapshot, _ in history:  # every one that is kept can be read
        plan = lake.pin(EVENTS, snapshot).plan()
        assert all(file.startswith(f"{tmp_path}/b/") for file in plan.files)
        assert sum(batch.num_rows for batch in plan.batches(["n"])) == plan.rows
    for step in range(15, 33, 3):  # old metadata is deleted as commits go on: its own
        land(lake, step)
    compact(lake, EVENTS, 1 << 20, 1)
    assert lake.expire(EVENTS, Retention(1, 0, 0)).files > 0
    assert numbers(Lake.open(config)) == list(range(33))
    shutil.move(tmp_path / "gone", tmp_path / "a")
    assert fingerprint(tmp_path / "a") == before
    assert numbers(Lake.open(make_config(tmp_path / "a"))) == rows
    text = "".join(path.read_text() for path in [max((tmp_path / "b").rglob("*.metadata.json"))])
    assert f"{tmp_path}/a/" not in text


def test_relocating_again_does_nothing_and_a_killed_one_is_completed(
    original: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = copied(original, tmp_path / "b")
    written = 0
    whole = relocation._Moved._whole

    def dies(self: relocation._Moved, target: Path, write: object) -> None:
        nonlocal written
        written += 1
        if written > 4:
            target.with_name(f"{target.name}.making").write_bytes(b"half")
            raise KeyboardInterrupt
        whole(self, target, write)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(relocation._Moved, "_whole", dies)
        with pytest.raises(KeyboardInterrupt):
            relocate(here(config))
    with pytest.raises(ConfigError, match="relocate"):
        Lake.open(config)
    assert relocate(here(config)).tables == 3
    assert relocate(here(config)).tables == 0
    assert numbers(Lake.open(config)) == numbers(original)


def test_a_copy_that_lacks_a_file_is_not_relocated(original: Lake, tmp_path: Path) -> None:
    config = copied(original, tmp_path / "b")
    Path(str(original.pin(EVENTS).plan().files[0]).replace("/a/", "/b/")).unlink()
    with pytest.raises(EaglerayError, match=r"1 files of the lake are not here, such as .*/b/.*parquet; copy"):
        relocate(here(config))
    with pytest.raises(ConfigError):
        Lake.open(config)


def test_two_catalogs_of_one_warehouse_are_refused_and_so_is_their_relocation(tmp_path: Path) -> None:
    shared = str(tmp_path / "lake")
    make_lake(tmp_path / "a", warehouse=shared)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    config = make_config(tmp_path / "b", warehouse=shared)
    with pytest.raises(ConfigError, match=f"is a copy of {tmp_path}/a/data/catalog.db"):
        Lake.open(config)
    with pytest.raises(EaglerayError, match="two catalogs would delete each other's files"):
        relocate(here(config))
    shutil.rmtree(tmp_path / "a")  # then it was a move
    relocate(here(config))
    assert EVENTS in Lake.open(config).tables()


def test_a_catalog_of_an_earlier_version_is_judged_by_its_tables(original: Lake, tmp_path: Path) -> None:
    config = copied(original, tmp_path / "b")
    for catalog in (original.config.data_dir / "catalog.db", config.data_dir / "catalog.db"):
        with closing(sqlite3.connect(catalog)) as connection, connection:
            connection.execute("DROP TABLE eagleray_place")
    with pytest.raises(ConfigError, match=f"is a copy of the lake in {tmp_path}/a/data/lake"):
        Lake.open(config)
    assert numbers(Lake.open(original.config)) == numbers(original)
    assert relocate(here(config)).old == tmp_path / "a" / "data" / "lake"
    assert numbers(Lake.open(config)) == numbers(original)


@pytest.mark.parametrize("left", [None, b""])
def test_a_lost_or_empty_catalog_is_said_not_begun_anew(original: Lake, left: bytes | None) -> None:
    catalog = original.config.data_dir / "catalog.db"
    for file in catalog.parent.glob("catalog.db-*"):
        file.unlink()
    catalog.unlink()
    if left is not None:
        catalog.write_bytes(left)
    what = "is missing" if left is None else "is empty"
    for door in (lambda: Lake.open(original.config), lambda: open_snapshots(original.config).names()):
        with pytest.raises(ConfigError, match=f"the catalog {what}, but the lake has tables, such as .*; restore"):
            door()
    assert left is not None or not catalog.exists()


def test_tables_dropped_by_hand_leave_a_catalog_that_is_empty_and_good(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    for table in lake.tables():
        lake._catalog.drop_table(table)
    assert Lake.open(lake.config).tables() == []


def test_one_platform_for_a_data_directory_and_for_a_catalog(tmp_path: Path) -> None:
    catalog = {"catalog": {"uri": f"sqlite:///{tmp_path}/shared.db"}}
    one = Config.model_validate({"data_dir": tmp_path / "one", "lake": catalog})
    (tmp_path / "link").symlink_to(tmp_path / "one")
    with project_lock(one):
        for other in ("link", "two"):
            with pytest.raises(EaglerayError, match="in use by another `eagleray up`"):
                with project_lock(Config.model_validate({"data_dir": tmp_path / other, "lake": catalog})):
                    pass
    with project_lock(one):
        pass


def test_the_command_relocates_and_the_commands_refuse_before(
    original: Lake, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = copied(original, tmp_path / "b")
    (tmp_path / "b" / "eagleray.yaml").write_text("data_dir: ./data\n")

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([*words, "-c", str(tmp_path / "b" / "eagleray.yaml")])
        return (int(ended.value.code or 0), *capfd.readouterr())

    for words in (("sql", "SELECT 1 FROM s.events"), ("job", "run", "compact")):
        code, said, error = run(*words)
        assert (code, said, error.count("\n")) == (2, "", 1)
        assert f"copy of the lake in {tmp_path}/a/data/lake" in error
    found = next(
        finding for finding in examine(tmp_path / "b" / "eagleray.yaml", SystemClock()) if finding.what == "lake"
    )
    assert found.verdict == "bad" and "copy of the lake" in found.found
    code, said, error = run("lake", "relocate")
    assert (code, error) == (0, "") and "3 tables are in" in said
    assert run("sql", "SELECT count(*) AS n FROM s.events", "--format", "csv")[1].split() == ["n", "15"]
    assert "already" in run("lake", "relocate")[1]
    assert Lake.open(config).tables()


def test_a_platform_that_was_copied_with_the_project_is_not_this_projects(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "eagleray.yaml").write_text("data_dir: ./data\n")
    noted = {"url": "http://127.0.0.1:4711", "pid": 1, "data_dir": str(tmp_path / "elsewhere" / "data")}
    (tmp_path / "data" / "platform.json").write_text(json.dumps(noted))
    with pytest.raises(ConfigError, match=r"names the platform of .*elsewhere/data; start this project's own"):
        find_platform(None, tmp_path / "eagleray.yaml")


def test_rows_of_a_relocated_lake_are_the_same_in_every_column(original: Lake, tmp_path: Path) -> None:
    config = copied(original, tmp_path / "b")
    relocate(here(config))
    ordered = [("n", "ascending")]
    found: pa.Table = Lake.open(config).read(EVENTS).sort_by(ordered)
    assert found.equals(original.read(EVENTS).sort_by(ordered))
