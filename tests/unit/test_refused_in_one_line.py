"""What is damaged, missing, closed or full is said in one line: what, where, what to do. Never a traceback."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from eagleray.cli.app import main
from eagleray.cluster.config import Config, load_config
from eagleray.cluster.errors import ConfigError, LakeDamaged, QueryFailed
from eagleray.cluster.events.schema_document import read_document
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.schema_evolution import ensure_table
from eagleray.cluster.lake.stream_tables import table_specs
from eagleray.cluster.log.embedded import EmbeddedLog
from eagleray.cluster.machine_errors import sentence
from eagleray.cluster.yaml_lines import YamlError, parse_map
from eagleray.jobs.builtin.rebuild import _instant
from eagleray.sql.query import Sql
from tests.lake_tables import EVENTS, event_rows, make_config, make_lake, make_stream
from tests.stream_project import TEXT, StreamProject

DEEP = "[" * 20_000 + "]" * 20_000
SELECT = "SELECT count(n) FROM s.events"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    lake = make_lake(tmp_path_factory.mktemp("whole"))
    lake.commit(EVENTS, lake.write(EVENTS, event_rows(3)), {"p0": 0}, {"p0": 3})
    return lake


def run(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(words)
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and said.startswith("eagleray: "), said
    return int(ended.value.code or 0), said


@pytest.mark.parametrize(
    "text", [f"a: {DEEP}", "a: " + "{b: " * 20_000 + "1" + "}" * 20_000, "a: [", "a: \0", "a: 2015-13-01"]
)
def test_a_configuration_that_is_no_yaml_or_too_deep_is_wrong_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], text: str
) -> None:
    file = tmp_path / "eagleray.yaml"
    file.write_text(text)
    code, said = run(capfd, "sql", "SELECT 1", "-c", str(file))
    assert code == 2 and str(file) in said and ("not YAML" in said or "nested too deeply" in said)


@pytest.mark.parametrize(
    ("name", "text"), [("EDGE__PORT", "[["), ("EDGE__PORT", DEEP), ("EDGE__PORT__X", "1"), ("EDGE", "2015-13-01")]
)
def test_a_variable_that_cannot_be_read_is_named(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "eagleray.yaml").write_text("edge: {port: 1}\n")
    with pytest.raises(ConfigError, match=f"^EAGLERAY__{name}: "):
        load_config(tmp_path / "eagleray.yaml", environ={f"EAGLERAY__{name}": text})


def test_schemas_and_headers_that_are_too_deep_are_said(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"enum": ' + "[" * 100_000 + "]" * 100_000 + "}")
    with pytest.raises(ConfigError, match=r"s\.json is nested too deeply"):
        read_document("streams.s.schema", tmp_path / "s.json")
    with pytest.raises(YamlError, match="nested too deeply"):
        parse_map(f"a: {DEEP}")


@pytest.mark.parametrize("text", ["9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59"])
def test_a_time_beyond_all_years_is_wrong_usage(text: str) -> None:
    with pytest.raises(ConfigError, match="expected ISO 8601"):
        _instant("--from", text)


@pytest.mark.parametrize("text", ["9999-12-31", "0001-01-01"])
def test_a_date_whose_period_has_no_end_is_wrong_usage(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], text: str
) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "one.sql").write_text("/* eagleray\noutput: one.out\nmode: full\n*/\nSELECT 1 AS a\n")
    (tmp_path / "eagleray.yaml").write_text("data_dir: ./data\n")
    code, said = run(capfd, "job", "run", "one", "--date", text, "-c", str(tmp_path / "eagleray.yaml"))
    assert code == 2 and "expected a date such as" in said


def cut(pattern: str) -> Callable[[Path], None]:
    return lambda data: [os.truncate(file, 100) for file in data.rglob(pattern)] and None


def gone(pattern: str) -> Callable[[Path], None]:
    return lambda data: [file.unlink() for file in data.rglob(pattern)] and None


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (gone("*.parquet"), r"\.parquet is missing"),
        (cut("*.parquet"), r"\.parquet is cut or damaged"),
        (gone("snap-*.avro"), r"\.avro is missing"),
        (cut("snap-*.avro"), r"snap-.*\.avro of table s\.events is cut or damaged"),
        (cut("*-m0.avro"), r"-m0\.avro of table s\.events is cut or damaged"),
        (gone("events/metadata/*.metadata.json"), r"\.metadata\.json is missing"),
        (cut("events/metadata/*.metadata.json"), r"metadata .*\.metadata\.json of table s\.events is cut or damaged"),
    ],
)
def test_a_query_names_the_file_that_is_missing_or_cut(
    whole: Lake, harm: Callable[[Path], None], named: str, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    shutil.copytree(whole.config.data_dir, kept)
    try:
        harm(whole.config.data_dir)
        with Sql(whole.config) as sql, pytest.raises(QueryFailed, match=named) as failed:
            sql.query(SELECT, 30)
        assert "\n" not in str(failed.value) and "restore it from a backup (`eagleray restore`)" in str(failed.value)
    finally:
        shutil.rmtree(whole.config.data_dir)
        shutil.move(kept, whole.config.data_dir)


def test_metadata_that_is_cut_is_not_blamed_on_the_schema(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    for file in Path(lake.config.warehouse).rglob("events/metadata/*.metadata.json"):
        os.truncate(file, file.stat().st_size // 2)
    again = Lake.open(lake.config)
    events = table_specs(make_stream())[0]
    with pytest.raises(LakeDamaged, match=r"of table s\.events is cut or damaged"):
        ensure_table(again._catalog, "eagleray.yaml", events)
    with pytest.raises(LakeDamaged, match=r"of table s\.events is cut or damaged"):
        again.load(EVENTS)


def garbage(config: Config, name: str) -> str:
    file = config.data_dir / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(os.urandom(8192))
    return str(file)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("catalog.db", ("sql", SELECT)),
        ("catalog.db", ("job", "run", "compact")),
        ("jobs.db", ("job", "list")),
        ("keys.db", ("keys", "list")),
    ],
)
def test_databases_that_are_garbage_are_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, words: tuple[str, ...]
) -> None:
    config = make_config(tmp_path)
    place = garbage(config, name)
    (tmp_path / "eagleray.yaml").write_text("data_dir: ./data\n")
    _, said = run(capfd, *words, "-c", str(tmp_path / "eagleray.yaml"))
    assert place in said and "not a database" in said and "restore" in said


def test_a_log_whose_description_is_garbage_is_named(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    (config.log_dir).mkdir(parents=True)
    (config.log_dir / "meta.json").write_text("no JSON")
    with pytest.raises(ConfigError, match=r"meta\.json: is damaged .* restore it from a backup"):
        EmbeddedLog(config.log_dir, 1)


def test_a_disk_that_is_full_or_closed_is_said_with_what_to_do() -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/log")
    assert sentence(full) == (
        "/data/log: No space left on device; free some space there, then run it again; nothing that was acked is lost"
    )
    assert "make it writable" in (sentence(PermissionError(errno.EACCES, "Permission denied", "/data")) or "")
    assert "free some space" in (sentence(sqlite3.OperationalError("database or disk is full")) or "")
    assert sentence(RuntimeError("a fault of ours")) is None


def test_a_data_directory_that_cannot_be_made_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "eagleray.yaml").write_text("data_dir: ./file/data\nedge: {port: 0}\nstreams: {}\n")
    code, said = run(capfd, "keys", "create", "k", "--scope", "read", "-c", str(tmp_path / "eagleray.yaml"))
    assert code == 1 and f"{tmp_path}/file" in said


def test_a_catalog_or_schema_that_is_a_directory_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    project = StreamProject(tmp_path)
    project.configure({"v": TEXT})
    project.up()
    project.stop()
    catalog, schema, file = tmp_path / "data" / "catalog.db", tmp_path / "s.json", str(project.file)
    for path in (catalog, schema):
        path.rename(path.with_suffix(".away"))
        path.mkdir()
    _, said = run(capfd, "check", "-c", file)
    assert f"{schema} is not readable: Is a directory" in said
    schema.rmdir()
    schema.with_suffix(".away").rename(schema)
    _, said = run(capfd, "check", "-c", file)
    assert f"the catalog {catalog} cannot be read" in said and "a directory is in the place of a file" in said


def test_a_file_in_the_place_of_the_state_is_refused_by_the_start(tmp_path: Path) -> None:
    project = StreamProject(tmp_path)
    project.configure({"v": TEXT})
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "state").write_text("x")
    with pytest.raises(ConfigError, match="state: is a file, and a directory is expected: move it away"):
        project.up()
