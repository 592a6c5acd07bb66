from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from eagleray.cluster.telemetry.gather import platform_samples
from eagleray.cluster.telemetry.histogram import Histogram, Recent
from eagleray.cluster.telemetry.logging import configure, configure_file, redact
from eagleray.cluster.telemetry.metrics import METRICS, labelled, parse_sample, sample
from eagleray.cluster.telemetry.prometheus import histogram_samples, render

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "metrics.md"


@given(
    values=st.lists(st.integers(0, 1 << 42), min_size=1, max_size=200), percent=st.sampled_from([0, 50, 99, 99.9, 100])
)
def test_percentiles_are_within_their_bucket(values: list[int], percent: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    rank = max(1, -(-len(values) * percent // 100))
    truth = min(sorted(values)[int(rank) - 1], (1 << 40) - 1)
    found = histogram.percentile(percent)
    assert found is not None and abs(found - truth) <= truth / 32
    assert histogram.count == len(values) and histogram.sum == sum(values)
    assert histogram.at_most(1 << 50) == len(values)


def test_empty_histogram_has_no_percentile() -> None:
    assert Histogram().percentile(50) is None


def test_recent_forgets_what_is_old() -> None:
    now = [0.0]
    recent = Recent(30.0, lambda: now[0])
    recent.record(1)
    now[0] = 31.0
    recent.record(1000)
    both, seconds = recent.snapshot()
    assert (both.count, seconds) == (2, 31.0)
    now[0] = 62.0
    assert recent.snapshot()[0].count == 1
    now[0] = 500.0
    assert recent.snapshot()[0].count == 0


def test_docs_list_every_metric() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \| (\w+) \| (.*?) \|$", DOCS.read_text(), re.MULTILINE)
    listed = [
        (name, kind, tuple(re.findall(r"`(\w+)`", labels)), unit, text) for name, kind, labels, unit, text in rows
    ]
    assert listed == [tuple(metric) for metric in METRICS]


def test_every_counter_in_the_code_is_listed() -> None:
    sources = [path for root in ("actors", "cluster/log", "cluster/lake") for path in (ROOT / root).rglob("*.py")]
    counted = {name for path in sources for name in re.findall(r'"(\w+_total)[":{]', path.read_text())}
    assert counted and counted <= {metric.name for metric in METRICS}


def test_counters_end_in_total_and_nothing_else_does() -> None:
    for metric in METRICS:
        assert metric.name.endswith("_total") == (metric.type == "counter"), metric.name
    assert len({metric.name for metric in METRICS}) == len(METRICS)


def test_samples_keep_their_labels() -> None:
    key = sample("commits_total", table="ui.a,b=c", process="w")
    assert parse_sample(key) == ("commits_total", {"table": "ui.a_b_c", "process": "w"})
    assert parse_sample("plain") == ("plain", {})
    assert labelled({"n{process=own}": 1.0, "m": 2.0}, process="p") == {"n{process=own}": 1.0, "m{process=p}": 2.0}


def test_rendered_text_is_read_back_by_prometheus() -> None:
    histogram = Histogram()
    for micros in (500, 3000, 40_000_000):
        histogram.record(micros)
    samples = {sample("commits_total", table="ui.events"): 3.0, "edge_in_flight_bytes": 7.0, "odd{x=y}": 1.0}
    samples |= histogram_samples("edge_ack_seconds", histogram)
    families = {family.name: family for family in text_string_to_metric_families(render(samples).decode())}
    assert families["eagleray_commits"].type == "counter"
    assert families["eagleray_commits"].samples[0].value == 3.0
    assert families["eagleray_edge_in_flight_bytes"].type == "gauge"
    assert families["eagleray_odd"].samples[0].labels == {"x": "y"}
    ack = families["eagleray_edge_ack_seconds"]
    assert ack.type == "histogram"
    buckets = {s.labels["le"]: s.value for s in ack.samples if s.name.endswith("_bucket")}
    assert (buckets["0.001"], buckets["0.005"], buckets["30"], buckets["+Inf"]) == (1, 2, 2, 3)
    assert next(s.value for s in ack.samples if s.name.endswith("_sum")) == pytest.approx(40.0035)


def test_status_becomes_samples_that_are_all_listed() -> None:
    partition = {"stream": "ui", "partition": 0, "end": 12, "writer": {"position": 10, "end": 12, "watermark_us": None}}
    status = {
        "pools": {"validate": {"size": 2, "alive": 1}},
        "processes": [{"pool": "edge", "name": "edge-0", "rss_bytes": 5, "restarts": 1}],
        "partitions": [{**partition, "window": {"position": 12, "end": 12, "watermark_us": 2_500_000}}],
        "counters": {"commits_total{table=ui.events}": 3},
        "workers": {"edge-0": {"events_accepted_total{process=edge-80-7,stream=ui}": 9.0}},
    }
    samples = platform_samples(status)
    assert samples["consumer_lag_records{stream=ui,partition=0,consumer=writer}"] == 2.0
    assert samples["watermark_seconds{stream=ui,partition=0}"] == 2.5
    assert samples["commits_total{process=committer,table=ui.events}"] == 3
    assert samples["events_accepted_total{process=edge-80-7,stream=ui}"] == 9.0
    assert {parse_sample(key)[0] for key in samples} <= {metric.name for metric in METRICS}
    assert platform_samples({}) == {}


@pytest.fixture
def logs() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield io.StringIO()
    root.handlers[:], root.level = before, level


def test_json_logs_carry_fields_and_no_secrets(logs: io.StringIO) -> None:
    configure("json", "info", logs)
    logger = logging.getLogger("edge")
    logger.debug("not shown")
    logger.info("took er_%s", "a" * 43, extra={"stream": "ui", "path": Path("/x")})
    said = "pass" + "word"
    try:
        raise ValueError(said)
    except ValueError:
        logger.exception("failed")
    first, second = map(json.loads, logs.getvalue().splitlines())
    assert (first["level"], first["logger"], first["message"]) == ("info", "edge", "took [key]")
    assert (first["stream"], first["path"]) == ("ui", "/x")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", first["time"])
    assert second["failure"].endswith("ValueError") and "password" not in logs.getvalue()


def test_console_logs_are_one_line_with_fields(logs: io.StringIO) -> None:
    configure("console", "warning", logs)
    logging.getLogger("edge").info("not shown")
    logging.getLogger("edge").warning("full", extra={"limit": 3})
    assert re.fullmatch(r"\S+Z WARNING edge: full limit=3\n", logs.getvalue())


def test_logs_of_a_process_are_rotated_and_bounded(tmp_path: Path) -> None:
    code = """
import logging, pathlib, sys
from eagleray.cluster.telemetry import logging as ours
ours.LOG_BYTES_MAX = 2000
ours.configure_file(pathlib.Path(sys.argv[1]) / "logs", "writer-0")
for number in range(200):
    logging.getLogger("writer").info("took er_0123456789abcdef", extra={"number": number})
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    files = sorted(file.name for file in (tmp_path / "logs").iterdir() if file.suffix != ".crash")
    assert files == ["writer-0.log", "writer-0.log.1", "writer-0.log.2", "writer-0.log.3"]
    assert all((tmp_path / "logs" / file).stat().st_size <= 2000 for file in files)
    last = json.loads((tmp_path / "logs" / "writer-0.log").read_text().splitlines()[-1])
    assert (last["message"], last["number"]) == ("took [key]", 199)


def test_a_log_that_cannot_be_opened_stops_nobody(
    logs: io.StringIO, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "logs").write_text("a file")
    configure_file(tmp_path / "logs", "writer-0")
    logging.getLogger("writer").info("goes on")
    assert "goes on" in capsys.readouterr().err


def test_what_kills_a_process_is_written_down(tmp_path: Path) -> None:
    code = "import sys, os, pathlib; from eagleray.cluster.telemetry.logging import configure_file\n"
    code += "configure_file(pathlib.Path(sys.argv[1]), 'writer-0'); os.abort()"
    for lives in (1, 2):
        subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
        assert (tmp_path / "writer-0.crash").read_text().count("Fatal Python error: Aborted") == lives


def test_bearer_tokens_are_redacted() -> None:
    assert redact("Authorization: Bearer abc.def") == "Authorization: [key]"
