"""/openapi.json and docs/http.md are true to what runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eagleray.cluster.sections import EdgeConfig
from tests.edge_server import ServedEdge, edge_config, serve

DOCS = Path(__file__).parents[2] / "docs" / "http.md"
BODIES = {"events": b"{}", "sql": b'{"query": "SELECT 1"}', "{pool}": b'{"size": 1}'}


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedEdge]:
    config = edge_config(tmp_path_factory.mktemp("edge"), body_bytes_max=12_345)
    named = {**config.streams, "ui": config.streams["ui"].model_copy(update={"id": "user"})}
    with serve(config.model_copy(update={"streams": named})) as served:
        yield served


@pytest.fixture(scope="module")
def document(edge: ServedEdge) -> dict[str, Any]:
    found: dict[str, Any] = edge.request("GET", "/openapi.json").json
    return found


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(m.upper(), path, op) for path, methods in document["paths"].items() for m, op in methods.items()]


def test_every_operation_answers_as_described(edge: ServedEdge, document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        known = {p["name"]: p["schema"].get("enum", ["x"])[0] for p in operation["parameters"] if p["in"] == "path"}
        known["stream"] = "ui"
        body = BODIES[path.rsplit("/", 1)[1]] if method == "POST" else None
        reply = edge.request(method, path.format(**known), body)
        assert reply.status == 200, (path, reply.body)
        assert reply.headers["Content-Type"] in operation["responses"]["200"]["content"]
        schema = operation["responses"]["200"]["content"][reply.headers["Content-Type"]]["schema"]
        assert set(schema.get("required", ())) <= set(reply.json if schema.get("required") else ())


def test_every_described_content_type_and_no_other_is_taken(edge: ServedEdge, document: dict[str, Any]) -> None:
    described = document["paths"]["/v1/streams/{stream}/events"]["post"]["requestBody"]["content"]
    assert all(edge.post(b"{}", content_type).status == 200 for content_type in described)
    assert edge.post(b"{}", "text/csv").status == 415


def test_limits_are_the_running_ones(document: dict[str, Any]) -> None:
    assert "12345 bytes as sent" in document["paths"]["/v1/streams/{stream}/events"]["post"]["summary"]


def test_security_is_described_only_where_it_is_on(edge: ServedEdge, document: dict[str, Any], tmp_path: Path) -> None:
    assert not any("security" in operation for _, _, operation in operations(document))
    with serve(edge_config(tmp_path, auth="required")) as locked:
        described = locked.request("GET", "/openapi.json").json
        for method, path, operation in operations(described):
            known = {"stream": "ui", "window": "per_user", "pool": "writer", "id": "a-1"}
            refused = locked.request(method, path.format(**known), b"{}" if method == "POST" else None)
            assert ("security" in operation) == ("401" in operation["responses"]) == (refused.status == 401)


def test_document_is_well_formed(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0"
    identifiers = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(identifiers)) == len(identifiers)
    for _, path, operation in operations(document):
        named = {parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "path"}
        assert named == set(re.findall(r"\{(\w+)\}", path))


def test_docs_name_every_route_setting_and_code(document: dict[str, Any]) -> None:
    text = DOCS.read_text()
    rows = set(re.findall(r"^\| `(GET|POST) (/\S*?)`", text, re.MULTILINE))
    assert rows == {(method, path) for method, path, _ in operations(document)}
    settings = set(re.findall(r"`edge\.(\w+)`", text))
    assert settings == set(EdgeConfig.model_fields)
    sources = Path(__file__).parents[2] / "actors" / "edge"
    code = "".join(file.read_text() for file in sorted(sources.glob("*.py")))
    codes = {name for _, name in re.findall(r'Refusal\(\s*(\d{3}), "(\w+)"', code)}
    codes |= set(re.findall(r'_Kind\(\d{3}, "(\w+)"\)', code)) | {"internal"}
    assert codes == set(re.findall(r"^\| \d{3} `(\w+)`", text, re.MULTILINE))
