"""Traces: off costs nothing, the coin decides as OpenTelemetry's variables say, and contexts survive every stage."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from eagleray.actors.edge.meters import INGEST, Meters
from eagleray.actors.window.traced import PER_PERIOD, PERIODS_MAX, TracedEvents
from eagleray.cluster.events.stream import load_streams
from eagleray.cluster.events.verdict import Submission
from eagleray.cluster.log.record import decode_batches, encode_batch, traces_of
from eagleray.cluster.telemetry import tracing
from eagleray.cluster.telemetry.prometheus import render_open_metrics
from eagleray.cluster.telemetry.tracing import LINKS_MAX, PARENTS_MAX, Coin, begin, request, step, wanted
from eagleray.cluster.windowing.era import Definition, Era
from eagleray.cluster.windowing.watermark import NEVER
from tests.examples import examples
from tests.postgres_door import Door
from tests.stream_project import TEXT, StreamProject

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"
contexts = st.tuples(st.integers(1, (1 << 128) - 1), st.integers(1, (1 << 64) - 1)).map(
    lambda ids: f"00-{ids[0]:032x}-{ids[1]:016x}-01"
)


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    monkeypatch.delenv("OTEL_SDK_DISABLED", raising=False)  # a run of all tests sets it
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=ALWAYS_ON)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.use(provider)
    yield exporter
    tracing.use(None)


@pytest.mark.parametrize(
    ("environ", "is_wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://x:4318"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}, False),
    ],
)
def test_traces_are_made_where_the_environment_asks_for_them(environ: dict[str, str], is_wanted: bool) -> None:
    assert wanted("traces", environ) == is_wanted


@pytest.mark.parametrize(
    ("sampler", "ratio", "header", "parent"),
    [
        ("", "", None, ""),
        ("", "", SAMPLED, SAMPLED),
        ("", "", UNSAMPLED, None),
        ("parentbased_traceidratio", "0.3", SAMPLED, SAMPLED),
        ("parentbased_traceidratio", "0.3", UNSAMPLED, None),
        ("parentbased_traceidratio", "0.3", None, None),
        ("parentbased_traceidratio", "0.7", None, ""),
        ("traceidratio", "0.3", SAMPLED, None),
        ("traceidratio", "0.7", UNSAMPLED, SAMPLED),
        ("always_off", "", SAMPLED, None),
        ("parentbased_always_off", "", SAMPLED, SAMPLED),
        ("parentbased_always_off", "", None, None),
        ("always_on", "", "nonsense", ""),
        ("xray", "", UNSAMPLED, None),
        ("traceidratio", "much", None, ""),
    ],
)
def test_the_coin_falls_as_the_sampler_says(sampler: str, ratio: str, header: str | None, parent: str | None) -> None:
    coin = Coin({"OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": ratio}, draw=lambda: 0.5)
    assert coin.toss(header) == parent


def test_where_traces_are_off_nothing_is_imported_and_no_span_made() -> None:
    program = (
        "import sys; from eagleray.cluster.telemetry import tracing; tracing.start('x')\n"
        f"with tracing.begin('a', [{SAMPLED!r}]) as a, tracing.step('b') as b: assert a is b is tracing.NONE\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL")}
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environ)
    assert ran.stdout.strip() == "[]"


def test_a_batch_is_a_span_in_a_bounded_number_of_traces_and_linked_with_others(spans: InMemorySpanExporter) -> None:
    parents = [f"00-{number:032x}-{SPAN}-01" for number in range(1, 101)]
    with begin("commit", [*parents, parents[0]], table="s.events") as made:
        pass
    found = spans.get_finished_spans()
    assert len(found) == len(made.contexts) == PARENTS_MAX
    assert [f"{span.get_span_context().trace_id:032x}" for span in found] == [one[3:35] for one in parents[:8]]
    assert all(f"{span.parent.span_id:016x}" == SPAN for span in found if span.parent)
    assert all(len(span.links) == LINKS_MAX for span in found)
    assert found[0].attributes == {"eagleray.table": "s.events"}


def test_an_error_says_its_class_and_not_its_words(spans: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match="payload"), request("POST", ""):
        raise ValueError("payload")
    (span,) = spans.get_finished_spans()
    assert span.status.description == "ValueError" and not span.events


@examples(50)
@given(traces=st.lists(contexts, max_size=12))
def test_a_record_carries_contexts_beside_its_rows(traces: list[str]) -> None:
    batch = pa.record_batch({"a": [1, 2]})
    payload = encode_batch(batch, traces)
    assert traces_of(payload) == traces
    assert decode_batches([payload, encode_batch(batch)], batch.schema).column("a").to_pylist() == [1, 2, 1, 2]
    if not traces:
        assert payload == encode_batch(batch)


def test_one_trace_shows_the_way_from_the_request_to_the_snapshot(tmp_path: Path, spans: InMemorySpanExporter) -> None:
    project = StreamProject(tmp_path)
    project.configure({"v": TEXT}, windows={"w": {"tumble": "1m", "aggregate": {"n": "count()"}}})
    project.up()
    body = json.dumps({"t": "2026-01-01T12:00:00Z", "v": "secret words"}).encode()
    with request("POST", SAMPLED), step("wait until it is durable") as waiting:
        project.validate.submit([Submission("s", "ndjson", body, trace=waiting.contexts[0])])
    project.validate.submit([Submission("s", "ndjson", body)])  # is not sampled
    project.drain()
    project.kill()
    found = {span.name: span for span in spans.get_finished_spans()}
    assert len(found) == len(spans.get_finished_spans()) == 7
    assert {f"{span.get_span_context().trace_id:032x}" for span in found.values()} == {TRACE}
    names = {span.get_span_context().span_id: name for name, span in found.items()}
    parents = {name: names.get(span.parent.span_id) if span.parent else None for name, span in found.items()}
    assert parents == {
        "POST": None,
        "wait until it is durable": "POST",
        "validate": "wait until it is durable",
        "append to the log": "validate",
        "write": "validate",
        "count in windows": "validate",
        "commit": "write",
    }
    assert found["commit"].attributes and found["commit"].attributes["eagleray.snapshot"]
    assert "secret" not in "".join(span.to_json() for span in found.values())
    before = [found[name].start_time or 0 for name in ("POST", "validate", "write", "commit")]
    assert before == sorted(before)


def names_and_parents(spans: InMemorySpanExporter) -> list[tuple[str, str]]:
    found = spans.get_finished_spans()
    names = {span.get_span_context().span_id: span.name for span in found}
    return sorted((span.name, names.get(span.parent.span_id, "") if span.parent else "") for span in found)


@pytest.mark.parametrize(
    "window", [{"tumble": "1m"}, {"hop": "2m", "every": "1m"}, {"session_gap": "1m"}], ids=lambda kind: next(iter(kind))
)
def test_the_trace_of_an_event_shows_how_its_windows_closed(
    tmp_path: Path, spans: InMemorySpanExporter, window: dict[str, str]
) -> None:
    project = StreamProject(tmp_path)
    project.configure({"v": TEXT}, windows={"w": {**window, "aggregate": {"n": "count()"}}})
    project.up()
    body = json.dumps({"t": "2026-01-01T12:00:10Z", "v": "secret words"}).encode()
    with request("POST", SAMPLED) as sent:
        project.validate.submit([Submission("s", "ndjson", body, trace=sent.contexts[0])])
    project.drain()
    assert "close a window" not in dict(names_and_parents(spans))
    for minute in (4, 8, 30):  # none of them is traced: the first closes what there was, others what nobody asks about
        project.accept({"t": f"2026-01-01T12:{minute:02}:00Z", "v": "a"})
        project.drain()
    project.kill()
    found = dict(names_and_parents(spans))
    closed = [span for span in spans.get_finished_spans() if span.name == "close a window"]
    assert found["close a window"] == "count in windows" and found["merge"] == "close a window"
    tables = [(span.attributes or {}).get("eagleray.table") for span in spans.get_finished_spans()]
    assert len(closed) == 1 and tables.count("s.w") == 3  # closing, merge, commit
    assert (closed[0].attributes or {})["eagleray.landed"] is True
    assert names_and_parents(spans).count(("commit", "close a window")) == 1
    assert {f"{span.get_span_context().trace_id:032x}" for span in spans.get_finished_spans()} == {TRACE}


def test_what_waits_for_its_windows_to_close_is_bounded_and_the_newest(tmp_path: Path) -> None:
    project = StreamProject(tmp_path)
    project.configure({"v": TEXT}, windows={"w": {"tumble": "1m", "aggregate": {"n": "count()"}}})
    (era,) = (Era(Definition.of(stream, "w")) for stream in load_streams(project.config).values())
    traced, minute = TracedEvents([era]), 60_000_000
    assert not traced
    for at in range(1000):
        traced.add([f"{at}-{number}" for number in range(20)], at * minute, at * minute + 1)
    kept = traced.closing(era, NEVER, 2000 * minute)
    assert len(kept) == PERIODS_MAX * PER_PERIOD and all(int(one.partition("-")[0]) >= 936 for one in kept)
    late = era.allowed_lateness_us
    assert traced.closing(era, 998 * minute + late, 999 * minute + late) == [f"998-{n}" for n in range(PER_PERIOD)]


def test_a_statement_over_postgres_is_part_of_the_trace_that_its_comment_names(
    tmp_path: Path, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    door = Door(tmp_path)
    try:
        with door.connect() as connection:
            connection.execute("SELECT 4711")
            assert connection.execute(f"SELECT 4711 /*app='x',traceparent='{SAMPLED}'*/").fetchone() == (4711,)
            with connection.transaction(), connection.cursor("c") as cursor:
                cursor.itersize = 6
                cursor.execute(f"SELECT n FROM s.events /*traceparent='{SAMPLED}'*/")
                assert len(cursor.fetchall()) == 40
            with pytest.raises(psycopg.Error):
                connection.execute(f"SELECT nothing FROM s.events /*traceparent='{SAMPLED}'*/")
    finally:
        door.server.stop()
    found = names_and_parents(spans)
    assert found.count(("sql", "")) == 3 and ("query", "sql") in found and ("wait for a child", "sql") in found
    assert ("rows", "sql") in found
    made = spans.get_finished_spans()
    assert {f"{span.get_span_context().trace_id:032x}" for span in made} == {TRACE}
    told = [dict(span.attributes or {})["eagleray.rows"] for span in made if span.name == "sql"]
    assert told == [1, 40, 0]
    failed = [span.status.description for span in made if span.name == "sql" and span.status.description]
    assert failed == ["SqlError"] and "4711" not in "".join(span.to_json() for span in made)


def test_openmetrics_has_the_trace_of_a_request_that_a_bucket_counts() -> None:
    meters = Meters()
    meters.answered(INGEST, 200, 0.004, SAMPLED)
    meters.answered(INGEST, 200, 0.2)
    text = render_open_metrics(meters.samples(), meters.exemplars).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    shown = [sample for sample in families["eagleray_http_request_seconds"].samples if sample.exemplar]
    assert [(one.labels["le"], one.exemplar.labels, one.exemplar.value) for one in shown] == [
        ("0.005", {"trace_id": TRACE}, 0.004)
    ]


def test_what_runs_meanwhile_has_a_context_of_its_own(spans: InMemorySpanExporter) -> None:
    async def one(number: int) -> tuple[str, str]:
        with request("POST", f"00-{number:032x}-{SPAN}-01"):
            await asyncio.sleep(0)
            return f"{number:032x}", tracing.trace_id(tracing.current())

    async def all_() -> list[Any]:
        return await asyncio.gather(*map(one, range(1, 50)))

    assert all(sent == seen for sent, seen in asyncio.run(all_()))
    assert tracing.current() == ""
    assert logging.getLogger("opentelemetry").handlers == []
