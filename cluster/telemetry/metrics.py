"""Every metric of the platform, in one list; docs/metrics.md repeats it and a test compares the two.

A process counts in a plain dict of samples, `name{label=value,…}` → number (made by `sample`), which crosses processes
as it is. `cluster.telemetry.prometheus` renders what was gathered; names there get the prefix `eagleray_`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeVar

Type = Literal["counter", "gauge", "histogram"]

PROCESS = "process"
"""The label that tells processes apart; the gatherer adds it to every sample of a worker."""


class Metric(NamedTuple):
    """One metric: its name without prefix, its labels, its unit and what it says."""

    name: str
    type: Type
    labels: tuple[str, ...]
    unit: str
    help: str


METRICS: tuple[Metric, ...] = (
    # the edge
    Metric("http_requests_total", "counter", ("route", "status"), "requests", "Answered HTTP requests."),
    Metric("http_request_seconds", "histogram", ("route",), "seconds", "From parsed headers to the answer."),
    Metric("http_in_flight_requests", "gauge", (), "requests", "Requests being worked on."),
    Metric("http_connections", "gauge", (), "connections", "Open connections."),
    Metric("edge_answer_bytes", "gauge", (), "bytes", "Answers that wait to be read, held in memory."),
    Metric("edge_in_flight_bytes", "gauge", (), "bytes", "Bodies between edge and ack; edge.in_flight_bytes_max."),
    Metric("edge_received_bytes_total", "counter", (), "bytes", "Bodies as received, compressed or not."),
    Metric("edge_batch_requests", "histogram", (), "requests", "Requests that went to validation in one call."),
    Metric("edge_batch_bytes", "histogram", (), "bytes", "Bytes that went to validation in one call."),
    Metric("edge_ack_seconds", "histogram", (), "seconds", "One call to validation, until durable."),
    Metric("events_accepted_total", "counter", ("stream",), "events", "Events acked as stored."),
    Metric("events_rejected_total", "counter", ("stream", "reason"), "events", "Events answered as rejected."),
    Metric("events_repeated_total", "counter", ("stream",), "events", "Repeated ids found within one micro-batch."),
    # objectives
    Metric("slo_events_total", "counter", ("objective",), "events", "What an objective of `slo` judged."),
    Metric("slo_missed_total", "counter", ("objective",), "events", "Of these: what missed it."),
    Metric("slo_target_ratio", "gauge", ("objective",), "ratio", "The share that shall meet it."),
    # the platform
    Metric("pool_size", "gauge", ("pool",), "workers", "Workers that a pool should have."),
    Metric("pool_alive", "gauge", ("pool",), "workers", "Workers that answer."),
    Metric("problems", "gauge", ("part",), "flag", "1: what `/readyz` names as a problem."),
    Metric("process_resident_bytes", "gauge", ("pool",), "bytes", "Resident memory of a process."),
    Metric("process_restarts_total", "counter", ("pool",), "restarts", "How often a process was started again."),
    Metric("process_replaced_total", "counter", ("pool",), "replacements", "Of these: it made no progress."),
    Metric("log_end_offset", "gauge", ("stream", "partition"), "records", "End of a log partition."),
    Metric("log_epochs", "gauge", ("stream",), "epochs", "Logs that the stream has had: 1 + recoveries."),
    Metric("log_errors_total", "counter", ("stream", "operation", "error"), "errors", "Failed appends and reads."),
    Metric(
        "log_overtaken_records",
        "gauge",
        ("stream", "partition"),
        "records",
        "Deleted before the tables had them: lost.",
    ),
    Metric("consumer_lag_records", "gauge", ("stream", "partition", "consumer"), "records", "Records not yet read."),
    Metric("consumer_lag_seconds", "gauge", ("stream", "partition", "consumer"), "seconds", "Age of the oldest one."),
    Metric("partition_handovers_total", "counter", ("pool",), "partitions", "Partitions that got another owner."),
    Metric("disk_free_bytes", "gauge", ("place",), "bytes", "Room where `data_dir` or the warehouse is."),
    Metric("disk_size_bytes", "gauge", ("place",), "bytes", "Size of that file system."),
    Metric("watermark_seconds", "gauge", ("stream", "partition"), "seconds", "Watermark, since the Unix epoch."),
    # validate workers
    Metric("validate_events_total", "counter", ("stream",), "events", "Accepted events made durable."),
    Metric("validate_rejections_total", "counter", ("stream", "reason"), "events", "Rejections made durable."),
    Metric("validate_bytes_total", "counter", ("stream",), "bytes", "Bodies judged, inflated."),
    Metric("validate_fast_path", "gauge", (), "flag", "1: events are judged in C; 0: at a third of the speed."),
    Metric("validate_judge_seconds_total", "counter", (), "seconds", "Time spent judging and encoding."),
    Metric("validate_append_seconds_total", "counter", (), "seconds", "Time spent waiting for the log."),
    # window workers
    Metric("window_events_total", "counter", ("stream",), "events", "Events read and counted once."),
    Metric("window_duplicates_total", "counter", ("stream",), "events", "Repeated events left out."),
    Metric("window_late_total", "counter", ("stream", "window"), "events", "Events too late for a window."),
    Metric("window_overflows_total", "counter", ("stream", "window"), "rows", "Sums beyond their column's range."),
    Metric("window_state_bytes", "gauge", ("stream",), "bytes", "State of open windows."),
    Metric("window_snapshots_total", "counter", ("stream",), "snapshots", "State snapshots saved."),
    Metric(
        "window_snapshot_failures_total", "counter", ("stream",), "snapshots", "Snapshots that failed; work goes on."
    ),
    Metric(
        "window_state_lost_total", "counter", ("stream",), "partitions", "Open windows counted again from the tables."
    ),
    Metric("window_errors_total", "counter", ("stream", "partition"), "errors", "Rounds that failed, tried again."),
    # writers
    Metric("writer_rows_total", "counter", ("table",), "rows", "Rows written to files."),
    Metric("writer_read_bytes_total", "counter", ("stream",), "bytes", "Bytes read from the log."),
    Metric("writer_duplicates_total", "counter", ("stream",), "events", "Repeated events left out."),
    Metric("writer_buffered_bytes", "gauge", (), "bytes", "Read and not yet written to files."),
    Metric("writer_restarts_total", "counter", ("stream",), "restarts", "Started over from where the table stands."),
    Metric("writer_errors_total", "counter", ("stream", "error"), "errors", "Rounds that failed and were tried again."),
    # the committer
    Metric("commits_total", "counter", ("table",), "commits", "Commits that landed."),
    Metric("commits_refused_total", "counter", ("table",), "commits", "Refused: the table stood elsewhere."),
    Metric("commits_unknown_total", "counter", ("table",), "commits", "Commits whose answer was lost."),
    Metric("committed_rows_total", "counter", ("table",), "rows", "Rows committed."),
    Metric("commit_age_seconds", "gauge", ("table",), "seconds", "Since the table's last commit."),
    Metric("freshness_seconds", "histogram", ("table",), "seconds", "From an event's ack until its table has it."),
    Metric("commit_seconds_total", "counter", ("table",), "seconds", "Time spent in commits."),
    Metric("closings_delayed_total", "counter", ("table",), "closings", "Window closings put off to the next round."),
    Metric("committer_errors_total", "counter", ("round",), "rounds", "Rounds that failed, or a worker's part in one."),
    # the scheduler
    Metric("job_runs_total", "counter", ("job_name", "state"), "runs", "Scheduled runs that ended, and how."),
    Metric("job_last_success_seconds", "gauge", ("job_name",), "seconds", "When one last succeeded, Unix time."),
    Metric("job_late_seconds", "gauge", ("job_name",), "seconds", "Since its oldest period is due; 0: none is."),
    Metric("job_duration_seconds", "histogram", ("job_name",), "seconds", "From a run's first attempt to its end."),
    Metric("job_files_broken", "gauge", ("file",), "files", "Files of jobs/ that are left out: `eagleray job list`."),
    Metric("jobs_running", "gauge", (), "runs", "Scheduled graphs and commands that run."),
)
"""All of them, in the order of docs/metrics.md. Every one carries the label `process` besides."""

BY_NAME = {metric.name: metric for metric in METRICS}


def sample(name: str, **labels: object) -> str:
    """The key of a sample: `name{label=value,…}`; commas and equals signs in values become `_`."""
    if not labels:
        return name
    inner = ",".join(f"{label}={str(value).translate(_PLAIN)}" for label, value in labels.items())
    return f"{name}{{{inner}}}"


def parse_sample(key: str) -> tuple[str, dict[str, str]]:
    """Name and labels of a sample's key."""
    name, _, inner = key.partition("{")
    pairs = (pair.partition("=") for pair in inner.removesuffix("}").split(",") if pair)
    return name, {label: value for label, _, value in pairs}


Value = TypeVar("Value")


def labelled(samples: dict[str, Value], **labels: object) -> dict[str, Value]:
    """The same samples with more labels; labels that a sample has already stay as they are."""
    found = {}
    for key, value in samples.items():
        name, own = parse_sample(key)
        found[sample(name, **{**labels, **own})] = value
    return found


_PLAIN = str.maketrans({",": "_", "=": "_"})
