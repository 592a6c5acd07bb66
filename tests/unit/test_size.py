"""`eagleray size`: values that were worked out by hand from round figures, and the file that users replace."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from eagleray.cli.app import main
from eagleray.cli.sizing import DEFAULTS, Load, Table, plan, read_table
from eagleray.cluster.errors import ConfigError

ROUND = {
    "measured": {
        "event_bytes": 500, "edge_us": 1, "validate_us": 3, "writer_us": 2, "window_us": 1, "rest_us": 1,
        "request_us": 500, "kafka_rate": 0.5, "s3_write_rate": 0.5, "log_share": 0.25, "lake_share": 0.2,
        "files_per_commit": 5, "memory_gib_per_core": 2, "ids_mib": 64, "job_core_s_per_million": 0.01,
        "job_s3_factor": 2,
    },
    "shares": {
        "busy": 0.5, "usable": 1, "nodes_min": 1, "partitions_per_worker": 2, "batch_hours": 4, "broker_mb_per_s": 50,
        "file_mib": 128, "disk_free": 0.5,
    },
    "prices": {
        "hours_per_month": 100, "node": {"cpus": 4, "memory_gib": 16, "per_hour": 1},
        "head": {"cpus": 2, "memory_gib": 8, "per_hour": 0.5}, "broker": {"cpus": 4, "memory_gib": 16, "per_hour": 2},
        "broker_disk_gb_month": 0.1, "object_gb_month": 0.02, "put_per_1000": 0.005, "get_per_1000": 0.0005,
        "zone_gb": 0.01, "database_month": 10, "redis_month": 5, "kubernetes_month": 1, "balancer_month": 2,
        "balancer_gb": 0.01,
    },
}  # fmt: skip
TABLE = Table.model_validate(ROUND)
LOAD = Load(events_per_s=100_000, event_bytes=1000, retention_days=10, peak=2, events_per_request=100, jobs=10)


def test_cores_follow_the_peak_the_bytes_and_the_requests() -> None:
    found = plan(LOAD, TABLE)
    # 200,000 events/s at the peak; an event is twice the benchmark's; a request's 500 µs are 5 µs an event of 100
    assert found.edge_cores == pytest.approx(200_000 * ((1 + 3) * 2 + 5) / 1e6 / 0.5)  # 5.2
    # writing 2 µs × 2 at half the rate to S3, windows 1 µs × 2, and 1 µs that bytes do not change
    assert found.stream_cores == pytest.approx(200_000 * (8 + 2 + 1) / 1e6 / 0.5)  # 4.4
    assert found.edge_cores == pytest.approx(5.2) and found.stream_cores == pytest.approx(4.4)


def test_nodes_have_room_for_cores_that_are_half_idle_and_for_memory() -> None:
    found = plan(LOAD, TABLE)
    assert found.edge_nodes == 3  # 5.2 / 0.5 = 10.4 cores, on nodes of 4
    assert found.stream_nodes == 3  # 4.4 / 0.5 = 8.8 cores
    assert found.partitions == 18  # 8.8 cores are 9 workers, two partitions each
    assert found.memory_gib == pytest.approx(5.2 * 2 + 4.4 * 2 + 2 * 18 * 64 / 1024)  # 21.45
    hungry = TABLE.model_copy(update={"measured": TABLE.measured.model_copy(update={"memory_gib_per_core": 20.0})})
    assert plan(LOAD, hungry).edge_nodes == 7  # 104 GiB, on nodes of 16
    small = replace(LOAD, events_per_s=10)
    assert plan(small, TABLE).edge_nodes == 1 and plan(small, TABLE).partitions == 4


def test_what_is_kept_follows_the_average() -> None:
    found = plan(LOAD, TABLE)
    # 100 MB/s of JSON: a quarter in the log, for 24 hours, three copies; a fifth in the lake, for 10 days
    assert found.log_gb == pytest.approx(0.1 * 0.25 * 86_400 * 3)  # 6,480
    assert found.lake_gb == pytest.approx(0.1 * 86_400 * 10 * 0.2)  # 17,280
    assert found.brokers == 3  # 200 MB/s at the peak × 0.25 × 3 copies = 150 MB/s, 50 each
    assert plan(replace(LOAD, peak=2.1), TABLE).brokers == 4
    # 4 tables × 8,640 commits a day × (5 files + 3 of metadata)
    assert found.puts_per_month == pytest.approx(4 * 8640 * 30.4 * 8)
    assert found.objects == 405_227  # 17,280 GB / 128 MiB = 128,746.03, and a day's 276,480 writes


def test_jobs_cost_cores_for_the_hours_that_they_have() -> None:
    found = plan(LOAD, TABLE)
    core_s = 10 * 8640 * 0.01 * 2  # ten jobs over 8,640 million events
    assert found.batch_cores == pytest.approx(core_s / (4 * 3600)) and core_s == 1728
    assert found.batch_node_hours == pytest.approx(1728 / 3600 / 4 * 30.4)
    assert plan(replace(LOAD, job_weight=3), TABLE).batch_cores == pytest.approx(3 * found.batch_cores)
    assert plan(replace(LOAD, jobs=0), TABLE).batch_node_hours == 0


def test_a_month_costs_what_its_lines_do() -> None:
    found = plan(LOAD, TABLE)
    usd = {line.what: line.usd for line in found.lines}
    assert usd["edge nodes"] == 300 and usd["stream nodes"] == 300 and usd["Ray head"] == 50
    assert usd["Kafka brokers"] == 600
    assert usd["Kafka disks"] == pytest.approx(6480 / 0.5 * 0.1)
    assert usd["lake"] == pytest.approx(17_280 * 0.02)
    assert usd["requests to S3"] == pytest.approx(8_404_992 / 1000 * 0.006)
    json_gb = 0.1 * 86_400 * 30.4
    assert usd["between zones"] == pytest.approx(0.01 * (json_gb * 2 / 3 + json_gb / 4 * 4))
    assert usd["load balancer"] == pytest.approx(2 + json_gb * 0.01)
    assert usd["Postgres, Redis"] == 15 and usd["Kubernetes"] == 1
    assert found.usd == pytest.approx(sum(usd.values()))


def test_more_never_costs_less() -> None:
    usual = read_table()
    base = Load(events_per_s=20_000, event_bytes=350, retention_days=30, jobs=100)
    for change in ("events_per_s", "event_bytes", "retention_days", "peak", "log_hours", "streams", "jobs"):
        more = replace(base, **{change: getattr(base, change) * 4})
        assert plan(more, usual).usd >= plan(base, usual).usd, change


def test_a_file_of_ones_own_replaces_figures_and_prices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(ROUND))
    words = ["size", "--events-per-s", "100000", "--event-bytes", "1KB", "--peak", "2", "--retention-days", "10"]
    with pytest.raises(SystemExit) as done:
        main([*words, "--jobs", "10", "--prices", str(file), "--format", "json"])
    assert done.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert told["edge_cores"] == pytest.approx(5.2)
    assert told["usd"] == pytest.approx(plan(LOAD, TABLE).usd, abs=0.01)


def test_the_printed_file_is_one_that_can_be_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["size", "--print-prices"])
    file = tmp_path / "mine.yaml"
    file.write_text(capsys.readouterr().out)
    assert read_table(file) == read_table(DEFAULTS)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda table: table["shares"].update(busy=0), "shares.busy"),
        (lambda table: table["prices"]["node"].pop("cpus"), "prices.node.cpus"),
        (lambda table: table["measured"].update(edge_uss=1), "measured.edge_uss"),
    ],
)
def test_a_file_that_is_wrong_is_named_with_its_key(change: object, where: str, tmp_path: Path) -> None:
    table = json.loads(json.dumps(ROUND))
    change(table)  # type: ignore[operator]
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(table))
    with pytest.raises(ConfigError, match=where):
        read_table(file)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--events-per-s", "0", "--event-bytes", "350"],
        ["--events-per-s", "nan", "--event-bytes", "350"],
        ["--events-per-s", "10", "--event-bytes", "large"],
        ["--events-per-s", "10", "--event-bytes", "0"],
        ["--events-per-s", "10", "--event-bytes", "350", "--prices", "nowhere.yaml"],
    ],
)
def test_wrong_usage_exits_with_two(words: list[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["size", *words])
    assert done.value.code == 2


def test_a_plan_beyond_the_budget_exits_with_one(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["size", "--events-per-s", "24800", "--event-bytes", "350", "--jobs", "300"]
    with pytest.raises(SystemExit) as done:
        main([*words, "--budget", "100"])
    assert done.value.code == 1
    with pytest.raises(SystemExit) as done:
        main([*words, "--budget", "30000"])
    assert done.value.code == 0
    assert "of 30,000 USD a month" in capsys.readouterr().out


def test_the_plan_in_the_documentation_is_what_the_command_says(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "sizing.md").read_text()
    (command, told) = re.findall(r"```text\n\$ eagleray (.*?)\n(.*?)```", page, re.DOTALL)[0]
    with pytest.raises(SystemExit):
        main(command.split())
    assert capsys.readouterr().out.split() == told.split()
    one = plan(Load(24_800, 350, 365, events_per_request=1, jobs=300, job_weight=10), read_table())
    assert f"{one.edge_cores:.0f} cores of edge" in page
