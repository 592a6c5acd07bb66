"""The log has an identity that the tables remember: another log, none, or an older copy is refused."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from eagleray.actors.committer import Committer
from eagleray.actors.validate.worker import ValidateWorker
from eagleray.cli.app import main
from eagleray.cli.status import stream_rows
from eagleray.cluster.errors import ConfigError, LogCorrupt, LogMismatch
from tests.acking_project import AckingProject


@pytest.fixture
def project(tmp_path: Path) -> Iterator[AckingProject]:
    made = AckingProject(tmp_path / "project")
    made.up()
    yield made
    made.down()


def copied(project: AckingProject, name: str) -> Path:
    """A copy of the log's directory, of a platform that is stopped."""
    target = project.config.data_dir.parent / name
    shutil.copytree(project.config.log_dir, target)
    return target


def put_back(project: AckingProject, copy: Path) -> None:
    shutil.rmtree(project.config.log_dir)
    shutil.copytree(copy, project.config.log_dir)


def test_a_platform_that_starts_again_goes_on(project: AckingProject) -> None:
    project.send(1, 2)
    project.store()
    project.down()
    project.up()
    project.send(3)
    project.store()
    assert project.numbers() == [1, 2, 3]
    assert project.recover() is None


def test_a_lost_log_is_refused_and_recovered_above_all_old_offsets(project: AckingProject) -> None:
    for number in (1, 2, 3):
        project.send(number)
    project.store()
    project.down()
    shutil.rmtree(project.config.log_dir)
    with pytest.raises(LogMismatch, match=r"stream s: its log is gone: .*records\.db.*offset 3; .*eagleray recover"):
        project.up()
    done = project.recover()
    assert done is not None and (done.events, done.rejects) == (0, 0)
    project.recover("free")
    project.up()
    for number in (100, 101, 102):
        assert project.send(number) == 1
    project.send(2)  # again, within the horizon
    project.store()
    assert project.numbers() == [1, 2, 3, 100, 101, 102]
    offsets = project.offsets()
    assert min(offsets[n] for n in (100, 101, 102)) > max(offsets[n] for n in (1, 2, 3))
    project.down()
    project.up()
    assert project.recover() is None


def test_a_log_restored_from_yesterday_is_refused_and_nothing_acked_is_lost(project: AckingProject) -> None:
    project.send(1)
    project.store()
    project.down()
    yesterday = copied(project, "yesterday")
    project.up()
    project.send(2)
    project.send(3)
    project.store()
    project.down()
    put_back(project, yesterday)
    with pytest.raises(LogMismatch, match=r"ends at offset 1 in partition 0, and s\.events has read up to 3"):
        project.up()
    done = project.recover()
    assert done is not None and done.events == 0
    project.up()
    project.send(4)
    project.store()
    assert project.numbers() == [1, 2, 3, 4]


@pytest.mark.parametrize(("stream", "grown"), [("s", 4), ("free", 1), ("free", 4)])
def test_an_older_copy_that_took_new_events_is_refused_and_they_are_carried_over(
    project: AckingProject, stream: str, grown: int
) -> None:
    project.send(1, stream=stream)
    project.reject(b"{one", stream=stream)
    project.store()
    project.down()
    yesterday = copied(project, "yesterday")
    project.up()
    project.send(2, stream=stream)
    project.send(3, stream=stream)
    project.store()
    project.down()
    put_back(project, yesterday)
    del project.bound._epochs[stream]  # type: ignore[union-attr]  # as of a version that did not look
    from eagleray.actors.validate.worker import ValidateWorker

    project.validator = ValidateWorker(project.config)
    for number in range(10, 10 + grown):
        project.send(number, stream=stream)
    project.reject(b"{two", stream=stream)
    project.down()
    with pytest.raises(LogMismatch, match=f"stream {stream}: .*older copy"):
        project.up()
    done = project.recover(stream)
    assert done is not None and (done.events, done.rejects) == (grown, 1)
    project.up()
    project.send(99, stream=stream)
    project.store()
    assert project.numbers(stream) == [1, 2, 3, *range(10, 10 + grown), 99]
    assert project.letters(stream) == [b"{one", b"{two"]
    offsets = project.offsets(stream)
    assert min(offsets[n] for n in (10, 99)) > max(offsets[n] for n in (1, 2, 3))


def test_another_logs_file_is_refused_and_left_alone(project: AckingProject, tmp_path: Path) -> None:
    project.send(1)
    project.send(7, 8, 9, stream="free")
    project.store()
    project.down()
    shutil.copy(project.records("free"), project.records("s"))
    with pytest.raises(LogMismatch, match=r"stream s: .* is another log"):
        project.up()
    done = project.recover()
    assert done is not None and done.events == 0
    project.up()
    project.send(2)
    project.store()
    assert project.numbers() == [1, 2]
    assert len(list(project.records().parent.glob("replaced-*.db"))) == 1


def test_what_was_acked_and_not_yet_stored_is_carried_over_once(project: AckingProject) -> None:
    project.send(1)
    project.store()
    project.send(2)
    project.send(2)  # a duplicate, still in the log
    project.reject()
    project.down()
    done = project.recover(always=True)
    assert done is not None and (done.events, done.rejects) == (2, 1)
    project.up()
    project.store()
    assert project.numbers() == [1, 2]
    assert project.letters() == [b"{broken"]


def test_an_old_log_that_is_found_later_is_carried_over_once(project: AckingProject, tmp_path: Path) -> None:
    project.send(1, stream="free")
    project.store()
    project.send(2, stream="free")
    project.down()
    found = tmp_path / "found.db"
    shutil.copy(project.records("free"), found)
    shutil.rmtree(project.records("free").parent)
    project.recover("free")
    project.up()
    project.send(3, stream="free")
    project.down()
    for _ in range(2):  # 2 is found, 3 is in the log; the second time both are
        done = project.recover("free", found)
        assert done is not None and done.events == 2
    project.up()
    project.store()
    assert project.numbers("free") == [1, 2, 3]


@pytest.mark.parametrize("commits", [0, 1, 3])
def test_a_recovery_that_is_killed_is_completed_by_the_next(
    project: AckingProject, monkeypatch: pytest.MonkeyPatch, commits: int
) -> None:
    project.send(1)
    project.store()
    project.send(2)
    project.down()
    real, left = project.lake.commit, [commits]

    def commit(*arguments: object) -> bool:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return real(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(project.lake, "commit", commit)
        patch.setattr("eagleray.cluster.log.embedded.EmbeddedLog.activate", lambda *_: (_ for _ in ()).throw(KeyError))
        with pytest.raises((KeyboardInterrupt, KeyError)):
            project.recover(always=True)
    if commits:
        with pytest.raises(LogMismatch, match="recover"):
            project.up()
        assert project.recover() is not None
    project.up()
    project.send(3)
    project.store()
    assert project.numbers() == [1, 2, 3]


def test_a_dropped_table_is_said_where_the_log_no_longer_has_its_events(project: AckingProject) -> None:
    project.send(1)
    project.store()
    from eagleray.cluster.log.backends import open_log

    log = open_log(project.bound)
    log.trim("s", 0, 1, 1 << 62)
    log.close()
    project.down()
    project.lake._catalog.drop_table("s.events")
    with pytest.raises(LogMismatch, match=r"stream s: .*begins at offset 1 .*has read up to 0: .*dropped"):
        project.up()


def test_records_that_left_the_log_before_they_were_stored_are_said_and_counted(project: AckingProject) -> None:
    from eagleray.cluster.log.backends import open_log

    for number in (1, 2, 3):
        project.send(number)
    log = open_log(project.bound)
    log.trim("s", 0, 2, 1 << 62)
    log.close()
    committer = Committer(project.bound, project.clock)
    asyncio.run(committer.overtaken_round())
    assert committer.counters["log_overtaken_records{stream=s,partition=0}"] == 2
    problems = {row["stream"]: row.get("problem") for row in asyncio.run(committer.status())["partitions"]}
    assert problems["s"]["code"] == "log_overtaken" and "eagleray recover" in problems["s"]["detail"]
    assert "free" not in problems
    committer.log.close()
    project.down()
    with pytest.raises(LogMismatch, match=r"the 2 records between are in neither"):
        project.up()
    done = project.recover()
    assert done is not None and (done.events, done.lost) == (1, 2)
    project.up()
    project.store()
    assert project.numbers() == [3]


@pytest.mark.parametrize("how", ["lost", "another"])
def test_another_seed_is_refused_and_after_a_recovery_ids_are_still_seen(project: AckingProject, how: str) -> None:
    project.send(1)
    project.store()
    project.down()
    seed = project.config.data_dir / "hash.seed"
    seed.unlink()
    if how == "another":
        seed.write_text("00000000000000aa\n")
    wrong = "gone, with which its ids are hashed" if how == "lost" else "not the one that its ids are hashed with"
    with pytest.raises(LogMismatch, match=rf"stream s: .*hash\.seed is {wrong}; restore it from a backup"):
        project.up()
    assert seed.exists() == (how != "lost")  # none was drawn
    for stream in project.streams:
        assert project.recover(stream) is not None
    project.up()
    project.send(1)
    project.send(2)
    project.store()
    assert project.numbers() == [1, 2]


@pytest.mark.parametrize("how", ["lost", "another"])
def test_a_worker_that_is_replaced_takes_no_other_seed(project: AckingProject, how: str) -> None:
    project.send(1)
    project.store()
    seed = project.config.data_dir / "hash.seed"
    text = seed.read_text()
    seed.unlink()
    if how == "another":
        seed.write_text("00000000000000aa\n")
    project.down()
    with pytest.raises(ConfigError, match=r"hash\.seed: is (gone|not the one).*restore it from a backup"):
        ValidateWorker(project.bound, project.clock)
    seed.write_text(text)
    project.validator = ValidateWorker(project.bound, project.clock)
    project.send(1, 2)
    project.store()
    assert project.numbers() == [1, 2]


# -- while the platform runs ---------------------------------------------------------------------------------------


def test_appends_fail_once_the_file_is_gone_and_go_on_when_it_is_back(project: AckingProject) -> None:
    project.send(1)
    away = project.records().parent.with_name("away")
    project.records().parent.rename(away)
    for _ in range(2):
        with pytest.raises(LogMismatch, match=r"records\.db is gone|was replaced"):
            project.send(2)
    assert project.send(7, stream="free") == 1
    assert not project.records().exists()
    shutil.rmtree(project.records().parent, ignore_errors=True)
    away.rename(project.records().parent)
    assert project.send(3) == 1


@pytest.mark.parametrize("how", ["copy", "other"])
def test_appends_fail_once_the_file_is_replaced(project: AckingProject, how: str) -> None:
    project.send(1)
    project.send(5, stream="free")
    replacement = project.records().with_name("replacement")
    shutil.copy(project.records() if how == "copy" else project.records("free"), replacement)
    os.replace(replacement, project.records())
    with pytest.raises(LogMismatch, match=r"replaced|another log"):
        project.send(2)
    project.down()
    from eagleray.actors.validate.worker import ValidateWorker

    project.validator = ValidateWorker(project.bound)  # a worker that starts meanwhile
    with pytest.raises(LogMismatch, match=r"replaced|another log"):
        project.send(2)


def test_appends_fail_once_the_write_ahead_log_is_gone(project: AckingProject) -> None:
    project.send(1)
    Path(f"{project.records()}-wal").unlink()
    with pytest.raises(LogMismatch, match="wal was removed"):
        project.send(2)


@pytest.mark.parametrize("how", ["garbage", "nothing", "another database"])
def test_an_overwritten_file_is_corrupt_and_no_other_stream_is_touched(project: AckingProject, how: str) -> None:
    project.send(1)
    project.down()
    if how == "garbage":
        project.records().write_bytes(os.urandom(project.records().stat().st_size))
    elif how == "nothing":
        project.records().write_bytes(b"")
    else:
        shutil.copy(project.config.data_dir / "catalog.db", project.records())
    project.up()
    with pytest.raises(LogCorrupt, match="log s"):
        project.send(2)
    assert project.send(3, stream="free") == 1
    done = project.recover()
    assert done is not None and re.search("damaged", done.problem)
    project.down()
    project.up()
    assert project.send(4) == 1
    project.store()
    assert project.numbers() == [4]


@pytest.mark.parametrize("content", [b"", b"nonsense" * 5000], ids=["nothing", "garbage"])
def test_a_file_overwritten_while_it_is_open_takes_no_more_appends_and_the_status_names_it(
    project: AckingProject, content: bytes
) -> None:
    committer = Committer(project.bound)
    assert asyncio.run(committer.status())["partitions"] == []  # nobody has reported yet
    project.send(1)
    project.records().write_bytes(content)
    for _ in range(2):
        with pytest.raises(LogCorrupt, match="log s: append"):
            project.send(2)
    assert project.send(3, stream="free") == 1
    rows = asyncio.run(committer.status())["partitions"]
    assert [(row["stream"], row["problem"]["code"]) for row in rows] == [("s", "log_corrupt")]
    (shown,) = stream_rows({"partitions": rows})
    assert shown["log records"] == "log_corrupt"


def test_a_log_that_is_gone_is_named_by_the_status(project: AckingProject) -> None:
    committer = Committer(project.bound)
    shutil.rmtree(project.records().parent)
    rows = asyncio.run(committer.status())["partitions"]
    assert [(row["stream"], row["problem"]["code"]) for row in rows] == [("s", "log_mismatch")]


# -- the command -----------------------------------------------------------------------------------------------------


def test_recover_says_what_it_did_for_each_stream(project: AckingProject, capsys: pytest.CaptureFixture[str]) -> None:
    project.send(1)
    project.store()
    project.down()
    shutil.rmtree(project.records().parent)

    def recover(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["recover", *words, "-c", str(project.config.file)])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    code, out, err = recover()
    assert code == 0
    assert re.search(r"^s: new epoch [0-9a-f]{24} from offset 4294967296; carried over 0 events and 0 rejected", out)
    assert "free: log and tables belong together; nothing to do" in out
    assert "its log is gone" in err
    assert recover("s") == (0, "s: log and tables belong together; nothing to do\n", "")
    code, _, err = recover("absent")
    assert code == 2 and "no stream is called 'absent'; there are free, s" in err
    code, _, err = recover("s", "--log", str(project.config.file.parent / "none.db"))
    assert code == 2 and "--log" in err and "is not a file" in err


@pytest.mark.parametrize("name", ["records.db", "records.db-wal", "records.lock", "records.open"])
def test_a_directory_in_the_place_of_a_file_is_named_with_what_to_do(
    project: AckingProject, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    project.send(1)
    project.down()
    file = project.records().with_name(name)
    file.unlink(missing_ok=True)
    file.mkdir()
    with pytest.raises(SystemExit):
        main(["recover", "s", "-c", str(project.config.file)])
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(file) in said, said
    assert said.endswith("a directory is in the place of a file: move it away, and restore the file from a backup\n")
