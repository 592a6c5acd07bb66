"""One trace shows where an event's time went, from the client's traceparent to the snapshot, over all processes."""

from __future__ import annotations

import itertools
import json
import secrets
import time
from datetime import UTC, datetime
from typing import Any

from tests.running_platform import RunningPlatform, eventually
from tests.servers.otlp import Received

WAY = ["POST", "wait until it is durable", "validate", "write"]  # and then a commit
BESIDE = ["append to the log", "count in windows", "close a window", "merge", "commit"]


def hours_ago(hours: int) -> str:
    """By the clock of this machine."""
    return datetime.fromtimestamp(time.clock_gettime(time.CLOCK_REALTIME) - hours * 3600, UTC).isoformat()


def test_an_event_is_followed_from_socket_to_snapshot(platform: RunningPlatform, otlp: Received) -> None:
    trace, parent = secrets.token_hex(16), secrets.token_hex(8)
    # Later than what other tests send to this stream: an event that is late is in no window, and closes none.
    event = {"time": hours_ago(3), "id": f"traced-{trace}", "s": "words of an event", "n": 1}
    body, header = json.dumps([event]).encode(), f"00-{trace}-{parent}-01"
    kind = {"Content-Type": "application/json"}
    status, _, _ = platform.request("POST", "/v1/streams/anything/events", body, {**kind, "traceparent": header})
    assert status == 200
    unsampled = f"00-{secrets.token_hex(16)}-{parent}-00"
    later = json.dumps([event | {"time": hours_ago(1), "id": f"later-{trace}"}]).encode()  # closes the first's window
    platform.request("POST", "/v1/streams/anything/events", later, {**kind, "traceparent": unsampled})
    found = eventually(lambda: (made := otlp.trace(trace)).keys() >= {*WAY, *BESIDE} and made)
    spans = {name: span for name, (_, span) in found.items()}
    assert spans["POST"].parent_span_id.hex() == parent
    for before, after in itertools.pairwise(WAY):
        assert spans[after].parent_span_id == spans[before].span_id
        assert spans[after].start_time_unix_nano >= spans[before].start_time_unix_nano
    assert spans["append to the log"].parent_span_id == spans["validate"].span_id
    assert spans["close a window"].parent_span_id == spans["count in windows"].span_id
    assert spans["merge"].parent_span_id == spans["close a window"].span_id
    processes = {name: process.split()[1].rpartition("-")[0] for name, (process, _) in found.items()}
    told = {"POST": "edge", "validate": "validate", "write": "writer", "commit": "committer"}
    told |= {"merge": "window", "close a window": "committer"}
    assert told.items() <= processes.items()

    def commits() -> list[Any]:
        return [span for _, span in otlp.spans if span.trace_id.hex() == trace and span.name == "commit"]

    ends = eventually(lambda: len(made := commits()) > 1 and made)  # of the event, and of its window
    below = {span.parent_span_id: {one.key: one.value for one in span.attributes} for span in ends}
    commit = below[spans["write"].span_id]
    assert below[spans["close a window"].span_id]["eagleray.table"].string_value == "anything.minutes"
    snapshot = platform.get(f"/v1/streams/anything/events/traced-{trace}")["events"][0]["snapshot"]["id"]
    assert commit["eagleray.table"].string_value == "anything.events"
    assert str(commit["eagleray.snapshot"].int_value) == str(snapshot)
    assert "words of an event" not in str(otlp.spans) + str(otlp.logs)
    assert {span.trace_id.hex() for _, span in otlp.spans} == {trace}  # and nothing that was not asked for


def test_a_query_is_part_of_its_callers_trace(platform: RunningPlatform, otlp: Received) -> None:
    trace, parent = secrets.token_hex(16), secrets.token_hex(8)
    headers = {"Content-Type": "application/json", "traceparent": f"00-{trace}-{parent}-01"}
    status, _, _ = platform.request("POST", "/v1/sql", b'{"query": "SELECT 4711"}', headers)
    assert status == 200
    found = eventually(lambda: (made := otlp.trace(trace)).keys() >= {"POST", "sql", "query"} and made)
    assert found["sql"][1].parent_span_id == found["POST"][1].span_id
    assert "4711" not in str(otlp.spans)


def test_metrics_name_the_trace_of_a_request(platform: RunningPlatform, otlp: Received) -> None:
    trace = secrets.token_hex(16)
    platform.request("GET", "/v1/streams", headers={"traceparent": f"00-{trace}-{secrets.token_hex(8)}-01"})
    status, headers, body = platform.request("GET", "/metrics", headers={"Accept": "application/openmetrics-text"})
    assert status == 200 and headers["content-type"].startswith("application/openmetrics-text")
    assert f'# {{trace_id="{trace}"}}'.encode() in body
    assert body.endswith(b"# EOF\n")


def test_each_process_says_what_it_does_in_lines_without_events(platform: RunningPlatform, otlp: Received) -> None:
    pools = {"edge", "validate", "window", "writer", "committer", "sql", "scheduler"}

    def started() -> set[str]:
        sent = [(process, record) for process, record in otlp.logs if record.body.string_value == "worker started"]
        return {process.split()[1].rpartition("-")[0] for process, _ in sent}

    eventually(lambda: started() >= pools)
    platform.post("anything", b'[{"time": "words of an event"}]')
    files = sorted((platform.data / "logs").glob("*.log"))
    lines = [(file.stem, line) for file in files for line in file.read_text().splitlines()]
    for _, line in lines:
        assert {"time", "level", "logger", "message"} <= json.loads(line).keys()
        assert "words of an event" not in line
    said = {(name.rpartition("-")[0], json.loads(line)["message"]) for name, line in lines}
    assert said >= {("committer", "partitions assigned"), ("writer", "partition taken over"), ("edge", "edge listens")}
