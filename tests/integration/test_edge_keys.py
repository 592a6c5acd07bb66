"""Authentication, scopes and rate limits of a running edge."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from eagleray.cluster.api_keys import KeyStore
from eagleray.cluster.clock import SystemClock
from tests.edge_server import Reply, ServedEdge, edge_config, serve

OPEN = ("/livez", "/readyz", "/metrics", "/openapi.json")
READS = ("/v1/streams", "/v1/status", "/v1/streams/ui/windows/per_user")


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[ServedEdge]:
    with serve(edge_config(tmp_path, auth="required")) as served:
        yield served


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / "keys.db", SystemClock())


def post(edge: ServedEdge, key: str, stream: str = "ui", body: bytes = b"{}") -> Reply:
    return edge.request("POST", f"/v1/streams/{stream}/events", body, {"Authorization": f"Bearer {key}"})


def settle(edge: ServedEdge, key: str, status: int) -> None:
    """Wait until the edge answers `status`: it follows the file within a second."""
    deadline = time.monotonic() + 5
    while post(edge, key).status != status:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_without_a_known_key_everything_but_the_probes_is_401(edge: ServedEdge) -> None:
    refused = [edge.request("GET", path) for path in READS] + [edge.post(b"{}"), post(edge, "er_wrong")]
    refused.append(edge.request("POST", "/v1/sql", b'{"query": "SELECT 1"}', {"Authorization": "Basic eDp5"}))
    for reply in refused:
        assert (reply.status, reply.json["error"]) == (401, "unauthorized")
        assert reply.headers["Www-Authenticate"] == "Bearer"
    assert all(edge.request("GET", path).status == 200 for path in OPEN)
    assert edge.platform.submissions == []


def test_scopes_are_held(edge: ServedEdge, store: KeyStore) -> None:
    one, all_, read, admin = (
        store.create(name, [scope])
        for name, scope in (("one", "write:ui"), ("all", "write:*"), ("read", "read"), ("admin", "admin"))
    )
    settle(edge, one, 200)
    assert [post(edge, key).status for key in (one, all_, read, admin)] == [200, 200, 403, 200]
    assert [post(edge, key, "service").status for key in (one, all_, read, admin)] == [403, 200, 403, 200]
    assert post(edge, one, "nope").status == 403  # who may not write must not learn what there is
    assert post(edge, all_, "nope").status == 404
    for path in READS:
        statuses = [edge.request("GET", path, headers={"X-API-Key": key}).status for key in (one, all_, read, admin)]
        assert statuses == [403, 403, 200, 200]
    scale = ("POST", "/v1/admin/pools/window", b'{"size": 1}')
    assert [edge.request(*scale, {"X-API-Key": key}).status for key in (read, admin)] == [403, 200]
    assert post(edge, one, "service").json["error"] == "forbidden"


def test_events_carry_the_name_of_their_key(edge: ServedEdge, store: KeyStore) -> None:
    settle(edge, store.create("checkout", ["write:ui"]), 200)
    assert edge.platform.submissions[-1].source == "checkout"


def test_revoked_key_stops_working_without_a_restart(edge: ServedEdge, store: KeyStore) -> None:
    key = store.create("gone", ["write:ui"])
    settle(edge, key, 200)
    assert store.revoke("gone")
    settle(edge, key, 401)


def test_rate_is_held_in_events_and_says_when_to_come_back(edge: ServedEdge, store: KeyStore) -> None:
    key = store.create("slow", ["write:ui"], rate=10)
    settle(edge, key, 200)
    assert post(edge, key, body=b"[" + b",".join([b"{}"] * 40) + b"]").json["accepted"] == 40
    refused = post(edge, key)
    assert (refused.status, refused.json["error"]) == (429, "rate_limited")
    assert 2 <= int(refused.headers["Retry-After"]) <= 5  # 30 to 40 events of debt at 10/s
    assert len(edge.platform.taken) <= 60


def test_with_a_key_a_body_without_a_type_is_json(edge: ServedEdge, store: KeyStore) -> None:
    key = store.create("typeless", ["write:*"])
    settle(edge, key, 200)
    edge.platform.submissions.clear()
    assert edge.request("POST", "/v1/streams/ui/events", b'{"n": 1}', {"X-API-Key": key}).status == 200
    assert edge.platform.submissions[0].form == "json"


def test_keys_file_that_cannot_be_read_is_not_ready(tmp_path: Path) -> None:
    (tmp_path / "keys.db").write_bytes(b"not a database" * 100)
    with serve(edge_config(tmp_path, auth="required")) as edge:
        reply = edge.request("GET", "/readyz")
        assert (reply.status, reply.json["error"]) == (503, "not_ready")
        assert "keys.db" in reply.json["detail"]
        assert post(edge, "er_any").status == 401


def test_who_may_do_everything_may_say_which_attempt_it_is(edge: ServedEdge, store: KeyStore) -> None:
    admin, writer = store.create("admin", ["admin"]), store.create("writer", ["write:*"])
    settle(edge, writer, 200)
    edge.platform.submissions.clear()

    def attempt(key: str, value: str) -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {key}", "X-Eagleray-Attempt": value}
        reply = edge.request("POST", "/v1/streams/ui/events", b"{}", headers)
        return reply.status, reply.json.get("error", "")

    assert attempt(admin, "3") == (200, "")
    assert [submission.attempt for submission in edge.platform.submissions] == [3]
    assert attempt(writer, "3") == (403, "forbidden")
    assert {attempt(admin, bad) for bad in ("0", "-1", "1000001", "x", "", "1e3", "\xb2", "9" * 5000)} == {
        (400, "bad_attempt")
    }
    assert len(edge.platform.submissions) == 1
