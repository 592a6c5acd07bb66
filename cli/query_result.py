"""Prints a query's result: a table for people, JSON and CSV for programs. Used by `cli.sql`."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Sequence
from typing import Any, TextIO

from eagleray.cli.terminal_table import print_table
from eagleray.sql.answer import as_json, as_records
from eagleray.sql.engine import Answer

TABLE_ROWS_MAX = 1000  # more is not read by anyone, and slow to lay out
_QUOTED = frozenset('",\r\n')
_NUMBER = re.compile(r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|FLOAT|DOUBLE|DECIMAL\(.*\)")


def write(answer: Answer, form: str, out: TextIO) -> None:
    """Print `answer` as `table`, `json` (a list of objects) or `csv` (RFC 4180, with a header)."""
    if form == "json":
        _write_json(as_records(answer), out)
    elif form == "csv":
        _write_csv(as_json(answer), out)
    else:
        _write_table(answer, out)


def _write_json(records: Sequence[dict[str, Any]], out: TextIO) -> None:
    """One object on a line, so that long results can be read and compared."""
    lines = ",\n".join(json.dumps(record, ensure_ascii=False, allow_nan=False) for record in records)
    out.write(f"[\n{lines}\n]\n" if lines else "[]\n")


def _write_csv(result: dict[str, Any], out: TextIO) -> None:
    out.write(",".join(_csv_field(column["name"]) for column in result["columns"]) + "\r\n")
    for row in result["rows"]:
        out.write(",".join(map(_csv_field, row)) + "\r\n")


def _csv_field(value: object) -> str:
    """Null is an empty field, an empty text a quoted one; nested values are JSON."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return '"' + text.replace('"', '""') + '"' if not text or not _QUOTED.isdisjoint(text) else text


def _write_table(answer: Answer, out: TextIO) -> None:
    if answer.types == ("VARCHAR", "VARCHAR") and answer.table.column_names == ["explain_key", "explain_value"]:
        out.write("".join(answer.table.column(1).to_pylist()))
        return
    shown = Answer(answer.table.slice(0, TABLE_ROWS_MAX), answer.types)
    result = as_json(shown)
    names = [column["name"] for column in result["columns"]]
    numbers = [column["name"] for column in result["columns"] if _NUMBER.fullmatch(column["type"])]
    rows = [[_cell(v, kind) for v, kind in zip(row, answer.types, strict=True)] for row in result["rows"]]
    print_table(names, rows, out, right=numbers, all_with="--format csv shows all")
    count, more = answer.table.num_rows, answer.table.num_rows - len(result["rows"])
    note = f"; {more} not shown: --format csv prints all" if more else ""
    out.write(f"{count} row{'' if count == 1 else 's'}{note}\n")


def _cell(value: object, kind: str) -> Any:
    from rich.text import Text

    if value is None:
        return Text("null", style="dim")
    if kind == "BLOB":
        return Text(_readable(str(value)))
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return Text(text.replace("\n", "⏎"))


def _readable(encoded: str) -> str:
    """Binary as text where it is text, such as the original bytes of a rejected event."""
    try:
        return b64decode(encoded).decode().replace("\n", "⏎")
    except UnicodeDecodeError:
        return encoded
