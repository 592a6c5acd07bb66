"""What a start asks of the catalog grows with the streams, and no faster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import sqlalchemy

from eagleray.cluster.config import load_config
from eagleray.cluster.continuity import bind
from eagleray.cluster.events.stream import load_streams
from eagleray.cluster.lake.lake import Lake
from eagleray.cluster.lake.window_history import load_history, record
from eagleray.cluster.log.backends import open_log

TIME = '{"type": "string", "format": "date-time"}'
SCHEMA = f'{{"type": "object", "properties": {{"id": {{"type": "string"}}, "t": {TIME}}}}}'
WINDOW = "{tumble: 1m, group_by: [id], aggregate: {n: count()}}"
STREAM = f"{{schema: s.json, time: t, id: id, windows: {{w: {WINDOW}}}}}"


@contextmanager
def _statements() -> Iterator[list[str]]:
    seen: list[str] = []

    def hear(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        seen.append(statement)

    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "before_cursor_execute", hear)
    try:
        yield seen
    finally:
        sqlalchemy.event.remove(sqlalchemy.engine.Engine, "before_cursor_execute", hear)


def _start(project: Path) -> int:
    """How many statements the start of the project's streams, and of one worker for each, sends to the catalog."""
    config = load_config(project / "eagleray.yaml")
    streams = load_streams(config)
    lake = Lake.open(config)
    with _statements() as seen, closing(open_log(config)) as log:
        bound = bind(config, lake, log, streams)
        lake.ensure(streams, bound.said)
        record(lake, log, streams)
        for stream in streams.values():
            load_history(lake, stream)
    return len(seen)


@pytest.mark.parametrize("again", [False, True], ids=["first start", "next start"])
def test_a_stream_costs_the_same_statements_beside_few_and_beside_many(tmp_path: Path, again: bool) -> None:
    sent = []
    for streams in (2, 4, 8):
        project = tmp_path / str(streams)
        project.mkdir()
        (project / "s.json").write_text(SCHEMA)
        (project / "eagleray.yaml").write_text(
            "\n".join(["edge: {auth: 'off'}", "streams:", *(f"  s{n}: {STREAM}" for n in range(streams))])
        )
        sent.append(_start(project))
        if again:
            sent[-1] = _start(project)
    two, four, eight = sent
    assert eight - four == 2 * (four - two)
