"""A key reads what its scopes open and nothing else, by any road: SQL, windows, lists, error texts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from eagleray.actors.edge.backend_protocol import Body
from eagleray.cli.keys import app as keys_app
from eagleray.cluster.access import TableAccess
from eagleray.cluster.api_keys import KeyStore
from eagleray.cluster.clock import SystemClock
from eagleray.cluster.errors import LogUnavailable
from eagleray.cluster.hidden_paths import without_paths
from eagleray.cluster.lake.lake import Lake
from eagleray.sql.answer import as_json
from eagleray.sql.query import Sql
from tests.edge_server import MemoryPlatform, Reply, ServedEdge, edge_config, serve
from tests.lake_tables import event_rows, make_stream
from tests.sql_lake import land

SECRET = b"4929-1234-5678-9012"  # in a dead letter: sent by mistake
WINDOW = {"tumble": "1m", "group_by": ["user"], "aggregate": {"n": "count()"}}


class LakePlatform(MemoryPlatform):
    """Answers SQL from a real lake."""

    lake: Sql

    async def sql(self, query: str, arrow: bool, access: TableAccess) -> Body:
        text = json.dumps(as_json(await asyncio.to_thread(self.lake.query, query, 30, access))).encode()
        return Body(len(text), text)

    async def status(self) -> dict[str, Any]:
        self._fail()
        return {
            "pools": {"validate": {"size": 2, "alive": 2}},
            "partitions": [{"stream": "ui", "partition": 0}, {"stream": "service", "partition": 0}],
            "last_commit_us": {"ui.events": 1, "ui.dead_letters": 1, "service.events": 1, "reports.daily": 1},
            "counters": {"commits_total{table=service.events}": 3, "commits_total{table=ui.events}": 2, "plain": 1},
            "workers": {
                "validate-0": {"validate_events_total{stream=service}": 1, "job_runs_total{job_name=daily}": 1}
            },
        }


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedEdge]:
    directory = tmp_path_factory.mktemp("scopes")
    config = edge_config(directory, auth="required")
    lake = Lake.open(config)
    lake.ensure({name: make_stream(name=name, windows={"per_user": WINDOW}) for name in ("ui", "service")})
    for stream in ("ui", "service"):
        land(lake, event_rows(3), table=f"{stream}.events")
        schema = lake.read(f"{stream}.dead_letters").schema
        row = {"original": SECRET, "reason": "schema", "detail": "no", "source": "k", "attempt": 1}
        row |= {"_ingested_at": event_rows(1)["_ingested_at"][0].as_py(), "_partition": 0, "_offset": 0, "_row": 0}
        columns = {field.name: pa.array([row[field.name]], field.type) for field in schema}
        land(lake, pa.table(columns, schema=schema), table=f"{stream}.dead_letters")
    lake.ensure_output("reports.daily", pa.schema([("n", pa.int64())]))
    platform = LakePlatform()
    with Sql(config) as platform.lake, serve(config, platform) as served:
        yield served


@pytest.fixture(scope="module")
def keys(edge: ServedEdge) -> dict[str, str]:
    store = KeyStore(edge.config.keys_file, SystemClock())
    scopes = {
        "read": ["read"],
        "ui": ["read:ui"],
        "service": ["read:service"],
        "reports": ["read:reports"],
        "letters": ["dead_letters"],
        "ui-letters": ["dead_letters:ui"],
        "writer": ["write:*"],
        "admin": ["admin"],
    }
    made = {name: store.create(name, held) for name, held in scopes.items()}
    deadline = SystemClock().now_us() + 5_000_000
    while edge.request("GET", "/v1/streams", headers={"X-API-Key": made["admin"]}).status != 200:
        assert SystemClock().now_us() < deadline
    return made


def ask(edge: ServedEdge, key: str, query: str) -> Reply:
    headers = {"Content-Type": "application/json", "X-API-Key": key}
    return edge.request("POST", "/v1/sql", json.dumps({"query": query}).encode(), headers)


@pytest.mark.parametrize(
    ("table", "open_to"),
    [
        ("ui.events", {"read", "ui", "admin"}),
        ("ui.late", {"read", "ui", "admin"}),
        ("ui.per_user", {"read", "ui", "admin"}),
        ("ui.dead_letters", {"letters", "ui-letters", "admin"}),
        ("service.events", {"read", "service", "admin"}),
        ("service.dead_letters", {"letters", "admin"}),
        ("reports.daily", {"read", "reports", "admin"}),
    ],
)
def test_a_table_is_open_to_its_scopes_alone(
    edge: ServedEdge, keys: dict[str, str], table: str, open_to: set[str]
) -> None:
    replies = {name: ask(edge, key, f"SELECT * FROM {table}") for name, key in keys.items()}
    assert {name for name, reply in replies.items() if reply.status == 200} == open_to
    for name in keys.keys() - open_to - {"writer"}:
        reply = replies[name]
        assert (reply.status, reply.json["error"]) == (403, "forbidden")
        namespace, _, last = table.partition(".")
        needed = f"{'dead_letters' if last == 'dead_letters' else 'read'}:{namespace}"
        assert table in reply.json["detail"] and needed in reply.json["detail"]
        assert SECRET not in reply.body


@pytest.mark.parametrize(
    "query",
    [
        'SELECT * FROM "ui"."dead_letters"',
        "SELECT * FROM UI.DEAD_LETTERS",
        'SELECT * FROM ui."Dead_Letters"',
        'SELECT * FROM ui."dead_letters@main"',
        "FROM ui.dead_letters",
        "WITH x AS (SELECT * FROM ui.dead_letters) SELECT * FROM x",
        "WITH dead_letters AS (SELECT 1) SELECT * FROM ui.dead_letters",
        "SELECT * FROM ui.events WHERE EXISTS (SELECT 1 FROM ui.dead_letters)",
        "SELECT (SELECT max(original) FROM ui.dead_letters)",
        "SELECT * FROM ui.events UNION ALL SELECT NULL FROM ui.dead_letters",
        "SELECT * FROM ui.events a JOIN ui.dead_letters b ON true",
        "SELECT * FROM ui.events, LATERAL (SELECT * FROM ui.dead_letters)",
        "DESCRIBE ui.dead_letters",
        "SUMMARIZE ui.dead_letters",
        "EXPLAIN SELECT * FROM ui.dead_letters",
        "SELECT * FROM (DESCRIBE ui.dead_letters)",
        "SELECT * FROM (PIVOT ui.dead_letters ON reason IN ('a') USING count(*))",
        "SELECT * FROM service.dead_letters",
        "SELECT * FROM ui.dead_letterz JOIN service.events ON true",  # none of that name: told apart by nothing
        "SELECT * FROM nothing.here",
    ],
)
def test_no_form_of_a_query_reaches_a_table_that_is_not_open(
    edge: ServedEdge, keys: dict[str, str], query: str
) -> None:
    reply = ask(edge, keys["ui"], query)
    assert (reply.status, reply.json["error"]) == (403, "forbidden"), reply.body
    assert SECRET not in reply.body


def test_lists_show_what_the_key_may_see(edge: ServedEdge, keys: dict[str, str]) -> None:
    def tables(key: str) -> set[str]:
        return {row[0] for row in ask(edge, keys[key], "SHOW TABLES").json["rows"]}

    def streams(key: str) -> dict[str, list[str]]:
        found = edge.request("GET", "/v1/streams", headers={"X-API-Key": keys[key]}).json["streams"]
        return {stream["name"]: stream["tables"] for stream in found}

    plain = {"ui.events", "ui.late", "ui.per_user"}
    assert tables("ui") == plain
    assert tables("reports") == {"reports.daily"}
    assert tables("ui-letters") == {"ui.dead_letters"}
    assert tables("letters") == {"ui.dead_letters", "service.dead_letters"}
    assert len(tables("admin")) == 9 and tables("read") == tables("admin") - tables("letters")
    assert streams("ui") == {"ui": sorted(plain)}
    assert streams("ui-letters") == {"ui": ["ui.dead_letters"]}
    assert streams("reports") == {} and set(streams("read")) == {"ui", "service"}
    close = ask(edge, keys["ui"], "SELECT * FROM ui.event").json["detail"]
    assert "ui.events" in close and "service" not in close
    assert "service" not in ask(edge, keys["ui"], "SELECT * FROM events").json["detail"]
    for internal in ("information_schema.tables", "pg_catalog.pg_tables", "duckdb_tables()", "sqlite_master"):
        refused = ask(edge, keys["ui"], f"SELECT * FROM {internal}")
        assert refused.status in (400, 403) and b"service" not in refused.body


def test_the_status_is_of_what_the_key_may_see(edge: ServedEdge, keys: dict[str, str]) -> None:
    whole = edge.request("GET", "/v1/status", headers={"X-API-Key": keys["read"]}).json
    assert {row["stream"] for row in whole["partitions"]} == {"ui", "service"}
    reply = edge.request("GET", "/v1/status", headers={"X-API-Key": keys["ui"]})
    assert b"service" not in reply.body and b"daily" not in reply.body
    assert reply.json["pools"] == whole["pools"] and reply.json["counters"]["plain"] == 1
    assert reply.json["last_commit_us"] == {"ui.events": 1}


def test_windows_need_the_scope_of_their_stream(edge: ServedEdge, keys: dict[str, str]) -> None:
    path = "/v1/streams/ui/windows/per_user"
    statuses = {name: edge.request("GET", path, headers={"X-API-Key": key}).status for name, key in keys.items()}
    assert {name for name, status in statuses.items() if status == 200} == {"read", "ui", "admin"}
    unknown = edge.request("GET", "/v1/streams/nope/windows/w", headers={"X-API-Key": keys["ui"]})
    assert unknown.status == 403  # who may not read must not learn what there is


def test_a_new_key_has_only_scopes_of_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "daily.sql").write_text("/* eagleray\noutput: reports.daily\n*/\nSELECT 1 AS n\n")
    (tmp_path / "eagleray.yaml").write_text("streams: {ui: {schema: ui.json, time: time}}\n")

    def create(scope: str) -> tuple[int, str]:
        file = str(tmp_path / "eagleray.yaml")
        result = CliRunner().invoke(keys_app, ["create", f"k{abs(hash(scope))}", "-c", file, "--scope", scope])
        return result.exit_code, str(result.exception or "")

    good = ("read", "read:ui", "read:reports", "dead_letters", "dead_letters:ui", "write:ui", "write:*", "admin")
    assert {create(scope)[0] for scope in good} == {0}
    for bad in ("read:nope", "dead_letters:reports", "read:", "dead_letters:*", "write:reports", "reads"):
        code, message = create(bad)
        assert code != 0 and bad in message, bad
    assert "reports, ui" in create("read:nope")[1]


def test_no_error_names_a_path_of_this_machine(edge: ServedEdge, keys: dict[str, str], tmp_path: Path) -> None:
    data = edge.config.data_dir
    files = list((data / "lake").rglob("*.parquet"))
    assert files
    replies = [ask(edge, keys["admin"], "EXPLAIN SELECT * FROM ui.events")]
    moved = [(file, file.with_suffix(".away")) for file in files]
    for file, away in moved:
        file.rename(away)
    try:
        for query in ("SELECT * FROM ui.events", "SELECT count(user) FROM service.events", "SUMMARIZE ui.events"):
            replies.append(ask(edge, keys["admin"], query))
            assert replies[-1].status == 422
        for file, _ in moved:
            file.write_bytes(b"PAR1 no parquet at all PAR1")
        replies.append(ask(edge, keys["admin"], "SELECT n FROM ui.events WHERE n > 0"))
        assert replies[-1].status == 422
    finally:
        for file, away in moved:
            away.rename(file)
    platform = edge.platform
    try:
        platform.failure = LogUnavailable(f"cannot open {data}/log/ui/records.db")
        replies.append(edge.request("GET", "/v1/status", headers={"X-API-Key": keys["admin"]}))
        assert replies[-1].status == 503 and b"records.db" in replies[-1].body
        platform.failure = None
        platform.problems = {"log": f"[Errno 28] No space left on device: '{data}/log/ui/records.db-wal'"}
        replies.append(edge.request("GET", "/readyz"))
        assert replies[-1].status == 503 and b"No space left" in replies[-1].body
    finally:
        platform.failure, platform.problems = None, {}
    for reply in replies:
        for secret in (str(data), str(data.parent), str(Path(__file__).parents[2])):
            assert secret.encode() not in reply.body, reply.body


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("cannot open '/srv/my data/x y/a.db'", "cannot open '…/a.db'"),
        ("[Errno 2] No such file: /srv/e/data/log/a.db-wal", "[Errno 2] No such file: …/a.db-wal"),
        ('IO Error: Cannot open file "/tmp/er-1/x.tmp": denied', 'IO Error: Cannot open file "…/x.tmp": denied'),
        ("(sqlite3) sqlite:////srv/e/catalog.db", "(sqlite3) …/catalog.db"),
        ("file:///srv/e/data/x.parquet is not there", "…/x.parquet is not there"),
        ("at=/srv/e/x", "at=…/x"),
        ("s3://bucket/lake/ui/x.parquet", "s3://bucket/lake/ui/x.parquet"),
        ("GET http://host:8080/v1/streams lists them", "GET http://host:8080/v1/streams lists them"),
        ("a/b/c and 1/2/3, 10 km/h", "a/b/c and 1/2/3, 10 km/h"),
        ("amount: 3 is less than the minimum of 5", "amount: 3 is less than the minimum of 5"),
    ],
)  # fmt: skip
def test_paths_are_cut_to_their_last_name(text: str, told: str) -> None:
    assert without_paths(text) == told


def test_known_places_with_blanks_in_their_names_are_left_out() -> None:
    places = [Path("/home/John Doe/shop"), Path("/home/John Doe/shop/data")]
    assert without_paths("no /home/John Doe/shop/data/lake/ui/x.parquet", places) == "no …/lake/ui/x.parquet"
