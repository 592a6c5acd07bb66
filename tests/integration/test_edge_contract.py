"""The rows of docs/http.md against a running edge."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from eagleray.actors.edge.backend_protocol import Unavailable
from eagleray.cluster.errors import EaglerayError, LogCorrupt, LogMismatch, LogUnavailable, Overloaded
from tests.edge_server import ROW, ServedEdge, edge_config, serve

EVENTS = [{"n": 1}, {"n": 2}, {"n": 3}]
NDJSON = b"".join(json.dumps(event).encode() + b"\n" for event in EVENTS)
ALL = {"accepted": 3, "rejected": []}


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[ServedEdge]:
    with serve(edge_config(tmp_path)) as served:
        yield served


def test_object_array_and_lines_are_taken(edge: ServedEdge) -> None:
    assert edge.post(b'{"n": 1}').json == {"accepted": 1, "rejected": []}
    assert edge.post(json.dumps(EVENTS).encode()).json == ALL
    assert edge.post(NDJSON, "application/x-ndjson").json == ALL
    assert len(edge.platform.taken) == 7


@pytest.mark.parametrize(
    ("content_type", "form"),
    [
        ("application/json", "json"),
        ("Application/JSON; charset=utf-8", "json"),
        ("application/x-ndjson", "ndjson"),
        ("application/jsonl", "ndjson"),
        ("application/ndjson;charset=utf-8", "ndjson"),
    ],
)
def test_content_type_decides_the_form(edge: ServedEdge, content_type: str, form: str) -> None:
    assert edge.post(b'{"n": 1}', content_type).status == 200
    assert edge.platform.submissions[0].form == form


@pytest.mark.parametrize("content_type", ["text/plain", "application/xml", "multipart/form-data", "nonsense"])
def test_other_content_types_are_415(edge: ServedEdge, content_type: str) -> None:
    assert_error(edge.post(b"{}", content_type), 415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("coding", "packed"),
    [
        ("gzip", gzip.compress(NDJSON)),
        ("x-gzip", gzip.compress(NDJSON[:9]) + gzip.compress(NDJSON[9:])),
        ("deflate", zlib.compress(NDJSON)),
        ("deflate", zlib.compress(NDJSON, wbits=-15)),
        ("zstd", zstandard.ZstdCompressor().compress(NDJSON)),
        ("ZSTD", zstandard.ZstdCompressor().compress(NDJSON[:9]) + zstandard.ZstdCompressor().compress(NDJSON[9:])),
        ("identity", NDJSON),
    ],
)
def test_content_encodings_inflate(edge: ServedEdge, coding: str, packed: bytes) -> None:
    assert edge.post(packed, "application/x-ndjson", Content_Encoding=coding).json == ALL
    assert edge.platform.submissions[0].body == NDJSON


@pytest.mark.parametrize("coding", ["br", "gzip, gzip", "gzip, deflate", "compress"])
def test_unknown_and_nested_encodings_are_415(edge: ServedEdge, coding: str) -> None:
    assert_error(edge.post(b"{}", Content_Encoding=coding), 415, "unsupported_encoding")


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
def test_body_that_does_not_inflate_is_400(edge: ServedEdge, coding: str) -> None:
    packed = {"gzip": gzip.compress, "deflate": zlib.compress, "zstd": zstandard.ZstdCompressor().compress}[coding](
        NDJSON
    )
    for broken in (b"{}", packed[:-3], packed + b"more", packed[:1]):
        assert_error(edge.post(broken, Content_Encoding=coding), 400, "malformed_body")
    assert edge.platform.submissions == []


def test_malformed_json_is_400_and_stores_nothing(edge: ServedEdge) -> None:
    assert_error(edge.post(b'[{"n": 1}, {"n": '), 400, "malformed")
    assert edge.platform.taken == []


@pytest.mark.parametrize("headers", [{}, {"Content_Encoding": "gzip"}])
def test_empty_body_is_400(edge: ServedEdge, headers: dict[str, str]) -> None:
    body = gzip.compress(b"") if headers else b""
    assert_error(edge.post(body, **headers), 400, "malformed")


def test_verdicts_name_index_reason_and_detail(edge: ServedEdge) -> None:
    reply = edge.post(b'[{"n": 1}, 2, {"n": 3}]')
    assert reply.status == 200
    rejection = {"index": 1, "reason": "json", "detail": "expected an object"}
    assert reply.json == {"accepted": 2, "rejected": [rejection]}


def test_idempotency_key_reaches_validation(edge: ServedEdge) -> None:
    edge.post(b"{}", Idempotency_Key="order-7")
    assert edge.platform.submissions[0].idempotency_key == "order-7"
    edge.post(b"{}", Idempotency_Key="bestellung-ü".encode().decode("latin-1"))
    assert edge.platform.submissions[1].idempotency_key == "bestellung-ü"
    for bad in ("x" * 256, "\xff", "a\tb"):  # \xff is sent as it is: no UTF-8
        assert_error(edge.post(b"{}", Idempotency_Key=bad), 400, "bad_idempotency_key")


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (Overloaded("validate.queue", 3.2), 429, "overloaded"),
        (LogUnavailable("disk full"), 503, "log_unavailable"),
        (LogCorrupt("p0 at 7"), 503, "log_corrupt"),
        (LogMismatch("records.db is gone"), 503, "log_mismatch"),
        (Unavailable("validate-0: ActorDied"), 503, "unavailable"),
        (TimeoutError(), 503, "timeout"),
        (EaglerayError("something refused on purpose"), 400, "refused"),
        (RuntimeError("a secret cause"), 500, "internal"),
    ],
)
def test_errors_of_the_platform_become_answers(edge: ServedEdge, failure: Exception, status: int, code: str) -> None:
    edge.platform.failure = failure
    reply = edge.post(b"{}")
    assert_error(reply, status, code)
    assert (reply.headers.get("Retry-After") is not None) == (status in (429, 503))
    if code == "overloaded":
        assert reply.headers["Retry-After"] == "4"
    assert "secret" not in reply.body.decode()


def test_slow_log_is_503_never_success(tmp_path: Path) -> None:
    with serve(edge_config(tmp_path, ack_timeout_s=0.1)) as edge:
        edge.platform.delay_s = 5
        assert_error(edge.post(b"{}"), 503, "timeout")
        assert edge.platform.taken == []


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "not_found"),
        ("GET", "/v1/streams/ui", 404, "not_found"),
        ("POST", "/v1/streams/nope/events", 404, "unknown_stream"),
        ("GET", "/v1/streams/nope/windows/per_user", 404, "unknown_stream"),
        ("GET", "/v1/streams/ui/windows/nope", 404, "unknown_window"),
        ("GET", "/v1/streams/ui/events", 405, "method_not_allowed"),
        ("DELETE", "/v1/streams", 405, "method_not_allowed"),
        ("POST", "/v1/admin/pools/nope", 404, "unknown_pool"),
    ],
)
def test_what_is_not_there_is_said_in_json(edge: ServedEdge, method: str, path: str, status: int, code: str) -> None:
    reply = edge.request(method, path, b"{}" if method == "POST" else None)
    assert_error(reply, status, code)
    assert (status == 405) == ("Allow" in reply.headers)


@pytest.mark.parametrize(
    ("sent", "meant"),
    [("a-1", "a-1"), ("caf%C3%A9%20%231", "café #1"), ("a%2Fb", "a/b"), ("50%25", "50%"), ("a+b", "a+b")],
)
def test_an_id_may_hold_what_a_path_has_to_escape(tmp_path: Path, sent: str, meant: str) -> None:
    config = edge_config(tmp_path)
    identified = {"ui": config.streams["ui"].model_copy(update={"id": "user"})}
    with serve(config.model_copy(update={"streams": identified})) as edge:
        assert edge.request("GET", f"/v1/streams/ui/events/{sent}").status == 200
        assert edge.platform.asked == [("ui", meant)]


def test_windows_pass_the_time_range_on(edge: ServedEdge) -> None:
    path = "/v1/streams/ui/windows/per_user?from=2026-01-01T00:00:00Z&to=2026-01-01T02:00:00.5%2B01:00"
    assert edge.request("GET", path).json == {"rows": [ROW]}
    assert edge.request("GET", "/v1/streams/ui/windows/per_user?to=2026-01-01T02:00:00.5+01:00").status == 200
    assert edge.platform.asked == [
        ("ui", "per_user", 1767225600000000, 1767229200500000),
        ("ui", "per_user", None, 1767229200500000),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "yesterday",
        "2026-01-01",
        "2026-01-01T00:00:00",
        "1767225600",
        "2026-13-01T00:00:00Z",
        "9999-12-31T23:59:59-23:59",
        "0001-01-01T00:00:00%2B23:59",
    ],
)
def test_bad_times_are_400(edge: ServedEdge, text: str) -> None:
    assert_error(edge.request("GET", f"/v1/streams/ui/windows/per_user?from={text}"), 400, "bad_time")


def test_sql_answers_json_or_arrow(edge: ServedEdge) -> None:
    body = b'{"query": "SELECT 1"}'
    assert edge.request("POST", "/v1/sql", body).json == {
        "columns": [{"name": "n", "type": "BIGINT"}],
        "rows": [[2**60]],
    }
    arrow = edge.request(
        "POST", "/v1/sql", body, {"Accept": "application/vnd.apache.arrow.stream", "Content-Type": "application/json"}
    )
    assert (arrow.body, arrow.headers["Content-Type"]) == (b"arrow", "application/vnd.apache.arrow.stream")
    assert edge.platform.asked == [("SELECT 1", False), ("SELECT 1", True)]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b'{"query": "DROP TABLE t"}', 400, "query_rejected"),
        (b'{"query": "SLOW"}', 422, "query_failed"),
        (b'{"query": 1}', 400, "malformed"),
        (b'{"query": "SELECT 1", "x": 1}', 400, "malformed"),
        (b"SELECT 1", 400, "malformed"),
        (b'{"query": "' + b" " * 70_000 + b'"}', 413, "too_large"),
    ],
)
def test_bad_queries_are_refused(edge: ServedEdge, body: bytes, status: int, code: str) -> None:
    assert_error(edge.request("POST", "/v1/sql", body), status, code)


def test_streams_and_status_describe_what_runs(edge: ServedEdge) -> None:
    edge.post(b"{}")
    service, ui = edge.request("GET", "/v1/streams").json["streams"]
    assert (service["name"], ui["name"]) == ("service", "ui")
    assert ui["windows"]["per_user"] == {"tumble": "1m", "group_by": ["user"], "aggregate": {"n": "count()"}}
    assert ui["tables"] == ["ui.events", "ui.dead_letters", "ui.late", "ui.per_user"]
    status = edge.request("GET", "/v1/status").json
    assert status["pools"] == {"validate": {"size": 2, "alive": 2}}
    assert status["edge"]["events"]["accepted"] == {"ui": 1}
    assert set(status["edge"]["latency_ms"]) == {"p50", "p99", "p99.9"}


def test_pools_are_resized(edge: ServedEdge) -> None:
    assert edge.request("POST", "/v1/admin/pools/writer", b'{"size": 2}').json == {"pool": "writer", "size": 2}


def test_liveness_does_not_depend_on_the_platform(edge: ServedEdge) -> None:
    edge.platform.failure = LogUnavailable("away")
    edge.platform.problems = {"log": "not writable"}
    assert edge.request("GET", "/livez").status == 200
    assert_error(edge.request("GET", "/readyz"), 503, "not_ready")
    assert edge.request("GET", "/metrics").status == 200
    edge.platform.problems = {}
    assert edge.request("GET", "/readyz").json == {"status": "ready"}


def test_metrics_join_edge_and_platform(edge: ServedEdge) -> None:
    edge.post(b'[{"n": 1}, 2]')
    reply = edge.request("GET", "/metrics")
    assert reply.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    text = reply.body.decode()
    process = f'process="{edge.edge.process}"'
    assert f'eagleray_events_accepted_total{{{process},stream="ui"}} 1.0' in text
    assert f'eagleray_events_rejected_total{{{process},reason="json",stream="ui"}} 1.0' in text
    assert 'eagleray_commits_total{process="committer",table="ui.events"} 3.0' in text
    assert 'le="+Inf",process=' in text and 'route="/v1/streams/{stream}/events"' in text


def test_head_answers_without_a_body(edge: ServedEdge) -> None:
    reply = edge.request("HEAD", "/livez")
    assert (reply.status, reply.body) == (200, b"")


def test_sender_that_waits_for_100_continue_is_greeted(edge: ServedEdge) -> None:
    head = b"POST /v1/streams/ui/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += b"Content-Length: 2\r\nConnection: close\r\n"
    answer = edge.raw(head + b"Expect: 100-continue\r\n\r\n", b"{}", pause_s=0.1)
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")
    refused = edge.raw(head.replace(b"/ui/", b"/nope/") + b"Expect: 100-continue\r\n\r\n")
    assert refused.startswith(b"HTTP/1.1 404") and b"Connection: close" in refused


def test_requests_that_come_together_share_a_batch(edge: ServedEdge) -> None:
    one = b"POST /v1/streams/ui/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    one += b"Content-Length: 2\r\n\r\n{}"
    edge.platform.delay_s = 0.05
    last = one.replace(b"Host", b"Connection: close\r\nHost")
    assert edge.raw(one * 2 + last).count(b"HTTP/1.1 200 OK") == 3


def assert_error(reply: object, status: int, code: str) -> None:
    assert reply.status == status, (reply.status, reply.body)  # type: ignore[attr-defined]
    found = reply.json  # type: ignore[attr-defined]
    assert set(found) == {"error", "detail"}
    assert found["error"] == code and isinstance(found["detail"], str) and found["detail"]
    assert reply.headers["Content-Type"] == "application/json"  # type: ignore[attr-defined]


def test_a_request_line_may_name_the_host_as_clients_of_proxies_do(edge: ServedEdge) -> None:
    body = b'{"a": 1}'
    fields = b"Host: elsewhere.example\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: 8\r\n"
    path = b"/v1/streams/ui/events"
    for target in (
        b"http://127.0.0.1" + path,
        b"HTTP://127.0.0.1:80" + path,
        b"http://user@localhost" + path + b"?x=1",
    ):
        answer = edge.raw(b"POST " + target + b" HTTP/1.1\r\n" + fields + b"\r\n", body)
        assert answer.startswith(b"HTTP/1.1 200 OK") and b'"accepted":1' in answer, (target, answer)
    for target in (b"http://", b"http://:80/v1", b"http://h:port/v1"):
        assert b" 400 " in edge.raw(b"GET " + target + b" HTTP/1.1\r\n" + fields + b"\r\n", body)[:16], target
    assert b" 404 " in edge.raw(b"GET http://127.0.0.1/nothing HTTP/1.1\r\n" + fields + b"\r\n", body)[:16]
