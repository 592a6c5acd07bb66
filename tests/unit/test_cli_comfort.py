"""The command line: tables fit and say what they hide, ids can be copied, names are completed, or meant."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagleray.cli import slo, trace
from eagleray.cli.app import build, main
from eagleray.cli.terminal_table import GAP, LEAST, fit, print_table
from eagleray.cluster.config import load_config
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.near_names import instead

PROGRAM = "import sys; from eagleray.cli.app import main; main(sys.argv[1:])"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=12),
    st.integers(20, 200),
    st.sets(st.integers(0, 11), max_size=2),
    st.lists(st.integers(0, 11), unique=True, max_size=4),
)
def test_a_table_fits_where_it_can_and_every_column_is_shown_or_named(
    widths: list[int], width: int, whole: set[int], first: list[int]
) -> None:
    whole = {at for at in whole if at < len(widths)}
    first = [at for at in first if at < len(widths)]
    found = fit(widths, width, whole, first)
    assert sorted([*found.widths, *found.hidden]) == list(range(len(widths))) and not whole & set(found.hidden)
    assert all(found.widths[at] == widths[at] for at in whole)
    assert all(min(LEAST, widths[at]) <= shown <= widths[at] for at, shown in found.widths.items())
    total = sum(found.widths.values()) + GAP * (len(found.widths) - 1)
    least = sum(widths[at] if at in whole else min(LEAST, widths[at]) for at in found.widths)
    if total > width:  # then nothing more could be done
        assert set(found.widths) - whole <= {next(iter(found.widths))} or len(found.widths) == 1
        assert total == least + GAP * (len(found.widths) - 1)
    if sum(widths) + GAP * (len(widths) - 1) <= width:
        assert not found.hidden and list(found.widths.values()) == widths


def test_at_80_columns_no_line_is_longer_and_ids_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    names = ["run", "kind", "what", "date", "state", "jobs", "started", "took"]
    row = ["20261126-231200-123abcd", "schedule", "daily_sales and_more", "2026-11-26", "succeeded", "3 failed, 9 ok"]
    rows = [[*row, "2026-11-26T23:12:00Z", "1,234.5 s"]]
    out = Terminal()
    print_table(names, rows, out, right=["took"], whole=["run"], first_to_go=["kind", "what"])
    said = out.getvalue().replace("\x1b[1m", "").replace("\x1b[2m", "").replace("\x1b[0m", "")
    assert max(map(len, said.splitlines())) <= 80 and row[0] in said
    assert "3 columns hidden: kind, what, took; --format json shows all" in said
    file = io.StringIO()
    print_table(names, rows, file, whole=["run"])
    assert all(cell in file.getvalue() for cell in rows[0]) and "hidden" not in file.getvalue()


PLACE = {"partition": 2, "offset": 18_340_000, "row": 17}
SPAN = {"start": "2026-11-26T18:20:00Z", "end": "2026-11-26T18:21:00Z", "state": "final"}
SNAPSHOT = {"id": 4821166873015512297, "committed_at": "2026-11-26T18:20:33.018000Z"}
STORED = {
    "acked_at": "2026-11-26T18:20:31.402118Z", "source": "a_collector_of_a_long_name_in_another_country",
    "time": SPAN["start"], "log": PLACE, "snapshot": SNAPSHOT,
    "windows": [{"window": "edits_by_channel_country_and_kind_of_device", **SPAN}],
}  # fmt: skip
AGAIN = "eagleray dead-letters replay a_stream_of_a_long_name_that_is_longer_than_others --id 2-18340000-17"
LETTER = {
    "reason": "schema", "detail": "words " * 30, "rejected_at": SPAN["start"], "source": "x", "attempt": 1,
    "send_again": AGAIN,
}  # fmt: skip


def plain(out: Terminal) -> list[str]:
    return re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()).splitlines()


def test_what_became_of_an_event_fits_and_ids_and_commands_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = Terminal()
    trace.show({"id": "e1", "state": "stored", "stream": "s", "events": [STORED], "rejected": []}, out)
    trace.show({"id": "e2", "state": "rejected", "stream": "s", "events": [], "rejected": [LETTER]}, out)
    said = plain(out)
    assert [line for line in said if len(line.rstrip()) > 80] == [f"  again     {AGAIN}"]
    assert any(str(SNAPSHOT["id"]) in line for line in said)
    assert any("edits_by_channel_country_and_kind_of_device" in line and "final" in line for line in said)
    assert "1 column hidden: end; --json shows all" in said
    assert sum(line.count("words") for line in said) == 30


def test_objectives_and_a_plan_fit_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    about = {"events": 123_456_789_012, "met": 0.98765, "p99_ms": 123_456.0, "budget_left": -12.345}
    one = {"share": 0.999, "within_ms": 10_000.0, "hour": about, "days_28": about}
    slo.show({"ack": one, "freshness": one})
    said = plain(out)
    assert max(len(line.rstrip()) for line in said) <= 80 and any("missed -1,234.5%" in line for line in said)
    assert said[-1] == "1 column hidden: judged; --json shows all"
    words = ["size", "--events-per-s", "9e9", "--event-bytes", "350", "--jobs", "300"]
    with pytest.raises(SystemExit):
        main(words)
    assert max(len(line.rstrip()) for line in plain(out)) <= 80


def completed(directory: Path, *words: str) -> list[str]:
    """What bash is offered for the last word."""
    environ = {**os.environ, "_EAGLERAY_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(["eagleray", *words])}
    environ["COMP_CWORD"] = str(len(words))
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=environ, cwd=directory, capture_output=True, text=True, timeout=60)
    return done.stdout.split()


def test_shells_complete_commands_options_and_names_of_the_project(tmp_path: Path) -> None:
    (tmp_path / "eagleray.yaml").write_text("streams: {clicks: {schema: x, time: t}, carts: {schema: x, time: t}}\n")
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "daily_sales.sql").touch()
    (tmp_path / "jobs" / "more.py").write_text('@job(output="r.x")\ndef daily_more():\n    pass\n')
    (tmp_path / "jobs" / "_macros.sql").touch()
    assert completed(tmp_path, "sta") == ["status"]
    assert completed(tmp_path, "job", "pa") == ["pause"]
    assert completed(tmp_path, "job", "run", "da") == ["daily_more", "daily_sales"]
    assert completed(tmp_path, "send", "x.ndjson", "--stream", "cl") == ["clicks"]
    assert completed(tmp_path, "dead-letters", "show", "") == ["carts", "clicks"]


def test_the_completion_script_is_printed() -> None:
    command = [sys.executable, "-c", "from eagleray.cli.app import main; main()", "--show-completion", "bash"]
    environ = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "_EAGLERAY_COMPLETE=complete_bash" in done.stdout
    assert build().registered_callback is not None


@pytest.mark.parametrize(
    ("name", "names", "said"),
    [
        ("clikcs", ["clicks", "carts"], "; did you mean clicks?"),
        ("USERS", ["users"], "; did you mean users?"),
        ("shop.events", ["web.events", "app.events", "web.late"], "; did you mean app.events or web.events?"),
        ("zzz", ["clicks", "carts"], "; there are carts, clicks"),
        ("x", [], "; there are none"),
        (
            "zzz",
            [f"a{at:02}" for at in range(32)],
            f"; there are {', '.join(f'a{at:02}' for at in range(30))} and 2 more",
        ),
    ],
)
def test_what_was_meant_is_said(name: str, names: list[str], said: str) -> None:
    assert instead(name, names) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("edge: {prot: 1}", "edge.prot: unknown key; did you mean port"),
        ("stream: {}", "stream: unknown key; did you mean streams"),
        ("streams: {s: {schema: x, time: t, tme_unit: s}}", "streams.s.tme_unit: unknown key; did you mean time_unit"),
        ("streams: {s: {schema: x, time: t, windows: {w: {tumbel: 1m}}}}", "tumbel: unknown key; did you mean tumble?"),
        ("jobs: {notify: [{name: a, slak: {}}]}", "unknown key; did you mean slack"),
        ("log: {kafka: {sasl: {user: x}}}", "user: unknown key; did you mean username"),
    ],
)
def test_a_setting_that_is_not_there_is_told_with_the_nearest(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "eagleray.yaml").write_text(text)
    with pytest.raises(ConfigError) as raised:
        load_config(tmp_path / "eagleray.yaml", environ={})
    assert said in str(raised.value)


def test_commands_are_meant_too(capsys: pytest.CaptureFixture[str]) -> None:
    for words, meant in ((["stauts"], "status"), (["job", "lst"], "list")):
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 2 and f"Did you mean '{meant}'?" in capsys.readouterr().err


def test_a_real_terminal_of_80_columns_is_not_overrun(tmp_path: Path) -> None:
    (tmp_path / "eagleray.yaml").write_text("{}")
    (tmp_path / "jobs").mkdir()
    header = "/* eagleray\noutput: reports.{0}\nschedule: '@daily'\n*/\nSELECT 1 AS a\n"
    for name in ("sales_of_all_shops_by_day_and_country", "b"):
        (tmp_path / "jobs" / f"{name}.sql").write_text(header.format(name))
    ours, theirs = pty.openpty()
    environ = {**os.environ, "COLUMNS": "80", "TERM": "xterm"}
    command = [sys.executable, "-c", PROGRAM, "job", "list"]
    with subprocess.Popen(command, cwd=tmp_path, env=environ, stdout=theirs) as process:
        os.close(theirs)
        said = b""
        while True:
            try:
                said += os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
        assert process.wait() == 0
    os.close(ours)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", said.decode())
    assert max(len(line.rstrip()) for line in plain.splitlines()) <= 80
    assert "sales_of_all_shops_by_day_and_country" in plain and "hidden: " in plain


def test_json_is_told_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "eagleray.yaml").write_text("{}")
    with pytest.raises(SystemExit):
        main(["job", "list", "--format", "json", "-c", str(tmp_path / "eagleray.yaml")])
    assert json.loads(capsys.readouterr().out) == []
