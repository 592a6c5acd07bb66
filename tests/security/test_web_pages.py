"""Without authentication no web page of another site can write, resize pools, run SQL or read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.edge_server import ServedEdge, edge_config, serve

JSON = {"Content-Type": "application/json"}
CALLS = (
    ("POST", "/v1/streams/ui/events", b"{}"),
    ("POST", "/v1/sql", b'{"query": "SELECT 1"}'),
    ("POST", "/v1/admin/pools/validate", b'{"size": 1}'),
    ("GET", "/v1/status", None),
    ("GET", "/v1/streams", None),
    ("GET", "/v1/streams/ui/windows/per_user", None),
    ("GET", "/metrics", None),
    ("GET", "/openapi.json", None),
)
POSTS = [call for call in CALLS if call[0] == "POST"]


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedEdge]:
    with serve(edge_config(tmp_path_factory.mktemp("open"))) as served:
        yield served


def own(edge: ServedEdge) -> str:
    return f"127.0.0.1:{edge.port}"


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call[1])
@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "attacker.example"},
        {"Host": "attacker.example:8080"},
        {"Host": "127.0.0.1.attacker.example"},
        {"Host": "localhost.attacker.example"},
        {"Host": "0.0.0.0:8080"},
        {"Host": "attacker.example@127.0.0.1.evil"},
        {"Origin": "https://attacker.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=lambda headers: "=".join(*headers.items()),
)
def test_what_another_site_may_have_sent_is_refused(
    edge: ServedEdge, call: tuple[str, str, bytes | None], headers: dict[str, str]
) -> None:
    method, path, body = call
    before = len(edge.platform.taken), len(edge.platform.asked)
    reply = edge.request(method, path, body, {**JSON, **headers})
    assert (reply.status, reply.json["error"]) in ((403, "foreign_host"), (403, "foreign_origin"))
    assert (len(edge.platform.taken), len(edge.platform.asked)) == before


@pytest.mark.parametrize("call", POSTS, ids=lambda call: call[1])
@pytest.mark.parametrize(
    "form", [None, "", "text/plain", "text/plain;charset=UTF-8", "application/x-www-form-urlencoded",
             "multipart/form-data; boundary=x", "text/plain; application/json"],
)  # fmt: skip
def test_a_post_that_a_form_could_send_is_refused(
    edge: ServedEdge, call: tuple[str, str, bytes | None], form: str | None
) -> None:
    method, path, body = call
    before = len(edge.platform.taken), len(edge.platform.asked)
    reply = edge.request(method, path, body, {} if form is None else {"Content-Type": form})
    assert (reply.status, reply.json["error"]) == (415, "unsupported_media_type")
    assert "application/json" in reply.json["detail"]
    assert (len(edge.platform.taken), len(edge.platform.asked)) == before


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call[1])
@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "[::1]", "127.8.8.8"])
def test_the_platforms_own_pages_and_programs_of_this_machine_pass(
    edge: ServedEdge, call: tuple[str, str, bytes | None], name: str
) -> None:
    method, path, body = call
    host = f"{name}:{edge.port}"
    for headers in ({}, {"Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}):
        assert edge.request(method, path, body, {**JSON, "Host": host, **headers}).status == 200


def test_with_keys_a_page_without_the_key_is_refused_and_programs_elsewhere_pass(tmp_path: Path) -> None:
    from eagleray.cluster.clock import SystemClock
    from eagleray.cluster.owner_key import ensure_owner_key, read_owner_key

    config = edge_config(tmp_path, auth="required")
    assert ensure_owner_key(config, SystemClock())
    key = read_owner_key(config.data_dir)
    assert key
    with serve(config) as locked:
        page = {"Origin": "https://attacker.example", "Content-Type": "text/plain"}
        for method, path, body in CALLS[:6]:
            assert locked.request(method, path, body, page).status == 401
        elsewhere = {**JSON, "Host": "events.example.com", "X-API-Key": key}
        assert locked.request("POST", "/v1/streams/ui/events", b"{}", elsewhere).status == 200
