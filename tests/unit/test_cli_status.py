"""`eagleray status`: the tables say what /v1/status says, and bear with what is missing."""

from __future__ import annotations

from eagleray.cli.status import broken_rows, node_rows, pool_rows, stream_rows, table_rows
from eagleray.cluster.clock import ManualClock

FOUND = {
    "pools": {"window": {"size": 2, "alive": 1}},
    "processes": [
        {"pool": "window", "name": "window-0", "pid": 5, "alive": True, "restarts": 2, "rss_bytes": 3 << 20},
        {"pool": "window", "name": "window-1", "pid": 6, "alive": False, "restarts": 1, "rss_bytes": 1 << 20},
    ],
    "partitions": [
        {
            "stream": "plays",
            "partition": 0,
            "end": 10,
            "writer": {"position": 7, "end": 10},
            "window": {"position": 10, "end": 10, "watermark_us": 2_000_000},
        },
        {
            "stream": "plays",
            "partition": 1,
            "end": 4,
            "writer": {"position": 4, "end": 4},
            "window": {"position": 4, "end": 4, "watermark_us": 1_000_000},
        },
    ],
    "last_commit_us": {"plays.events": 1_000_000},
    "counters": {"committed_rows_total{table=plays.events}": 1234.0},
}


def test_pools_sum_their_processes() -> None:
    assert pool_rows(FOUND) == [{"pool": "window", "alive": "1 of 2", "restarts": "3", "memory": "4 MiB"}]


def test_streams_show_the_lag_of_each_consumer_and_the_lowest_watermark() -> None:
    (row,) = stream_rows(FOUND)
    assert (row["writer lag"], row["window lag"], row["watermark"]) == ("3", "0", "1970-01-01T00:00:01Z")


def test_a_partition_without_a_window_worker_is_restoring() -> None:
    (row,) = stream_rows({"partitions": [{"stream": "s", "partition": 0, "end": 0, "writer": None, "window": None}]})
    assert row["window lag"] == "restoring" and row["watermark"] == "-"


def test_tables_show_rows_and_age() -> None:
    (row,) = table_rows(FOUND, ManualClock(3_500_000))
    assert row == {"table": "plays.events", "rows committed": "1,234", "last commit": "2.5 s ago"}


def test_an_empty_platform_has_empty_tables() -> None:
    assert pool_rows({}) == stream_rows({}) == table_rows({}, ManualClock()) == []


def test_files_that_the_scheduler_leaves_out_are_listed() -> None:
    found = {"workers": {"scheduler-0": {"job_files_broken{file=a/b.sql}": 1.0, "jobs_running": 0.0}}}
    assert broken_rows(found) == [{"file": "a/b.sql"}]


def test_nodes_of_a_cluster_show_their_edge_and_whether_they_are_drained() -> None:
    nodes = [
        {"node": "10.0.0.2", "role": "", "url": "http://10.0.0.2:8080", "workers": ["edge-a-0"], "draining": False},
        {"node": "10.0.0.3", "role": "edge", "url": None, "workers": [], "draining": True},
        {"node": "10.0.0.1", "role": "", "url": None, "workers": [], "draining": False},
    ]
    shown = [(row["role"], row["edge"], row["workers"], row["state"]) for row in node_rows({"nodes": nodes})]
    assert shown == [
        ("any", "http://10.0.0.2:8080", "1", "in use"),
        ("edge", "-", "0", "draining"),
        ("any", "-", "0", "empty"),
    ]
    assert node_rows({}) == []
