"""The configuration file: what is refused, and how the message names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from eagleray.cluster.config import SQL_NAMES, Config, load_config
from eagleray.cluster.errors import ConfigError
from eagleray.sql.query import Sql
from tests.lake_tables import make_lake, make_stream


def load(directory: Path, text: str) -> Config:
    file = directory / "eagleray.yaml"
    file.write_text(text)
    return load_config(file, environ={})


@pytest.mark.parametrize("name", sorted(SQL_NAMES))
def test_a_stream_cannot_have_a_name_of_sql_itself(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"eagleray.yaml: streams\.{name}: SQL has a schema or catalog of this name"):
        load(tmp_path, f"streams: {{{name}: {{schema: s.json, time: t}}}}")


@pytest.mark.parametrize("name", ["Orders", "1st", "a-b", "a.b", "x" * 64])
def test_a_stream_name_is_lower_case_letters_digits_and_underscores(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"eagleray.yaml: streams\."):
        load(tmp_path, f'streams: {{"{name}": {{schema: s.json, time: t}}}}')


@pytest.mark.parametrize("name", ["default", "public", "order", "select", "events", "pg_temp", "sys"])
def test_any_other_name_can_be_asked_for_in_sql(tmp_path: Path, name: str) -> None:
    load(tmp_path, f'streams: {{"{name}": {{schema: s.json, time: t}}}}')
    with Sql(make_lake(tmp_path, make_stream(name=name)).config) as sql:
        assert sql.query(f'SELECT count(*) AS n FROM "{name}".events, "{name}".late', 60).table.to_pylist() == [
            {"n": 0}
        ]
