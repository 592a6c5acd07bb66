"""The answer to a query, for notebooks: shown as a table, plotted, or taken on as Arrow, pandas or Polars.

Made by `Connection.sql`, `Dataset.sql` and `eagleray.query`. It holds all rows.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from eagleray.cluster.errors import EaglerayError, QueryRejected
from eagleray.cluster.near_names import instead
from eagleray.sql.answer import as_json
from eagleray.sql.engine import Answer

if TYPE_CHECKING:  # loaded where they are asked for
    import pandas as pd
    import polars as pl
    from matplotlib.axes import Axes

ROWS_SHOWN, COLUMNS_SHOWN, CELL_MAX = 20, 20, 100
Kind = Literal["line", "bar", "barh", "scatter", "area"]
_NUMBERS = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)


class QueryResult:
    """Rows and columns of one answer."""

    def __init__(self, answer: Answer) -> None:
        """`answer` is what `sql.query.Sql` returns."""
        self._answer = answer

    def arrow(self) -> pa.Table:
        """The rows as an Arrow table."""
        return self._answer.table

    def pandas(self) -> pd.DataFrame:
        """The rows as a pandas frame."""
        found: pd.DataFrame = self._answer.table.to_pandas()
        return found

    def polars(self) -> pl.DataFrame:
        """The rows as a Polars frame."""
        import polars as pl

        found = pl.from_arrow(self._answer.table)
        assert isinstance(found, pl.DataFrame)
        return found

    @property
    def columns(self) -> dict[str, str]:
        """Name and SQL type of each column."""
        return dict(zip(self._answer.table.column_names, self._answer.types, strict=True))

    def __len__(self) -> int:
        """The number of rows."""
        return int(self._answer.table.num_rows)

    def __repr__(self) -> str:
        """The first rows as a table of text."""
        found = as_json(self._shown())
        lines = [[column["name"] for column in found["columns"]], *([_text(v) for v in row] for row in found["rows"])]
        widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
        padded = ("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in lines)
        return "\n".join([*(line.rstrip() for line in padded), self._counted()])

    def _repr_html_(self) -> str:
        """The first rows as a table, for notebooks; every value is escaped."""
        return html_table(self._shown(), self._counted())

    def plot(self, x: str | None = None, y: str | Sequence[str] | None = None, kind: Kind = "line") -> Axes:
        """Draw columns `y` (default: all of numbers) over `x` (default: the first other one) with matplotlib.

        Raises QueryRejected for a column that is not there, or not of numbers, EaglerayError without matplotlib.
        """
        table = self._answer.table
        numbers = [field.name for field in table.schema if any(is_number(field.type) for is_number in _NUMBERS)]
        chosen = [y] if isinstance(y, str) else list(y) if y is not None else [name for name in numbers if name != x]
        for name in [*chosen, *([x] if x else [])]:
            if name not in table.column_names:
                raise QueryRejected(f"there is no column {name!r}{instead(name, table.column_names)}")
        if wrong := [name for name in chosen if name not in numbers]:
            raise QueryRejected(f"the column {wrong[0]!r} is no number; numbers are {', '.join(numbers) or 'none'}")
        if not chosen:
            raise QueryRejected("no column is of numbers: there is nothing to plot")
        over = x or next((name for name in table.column_names if name not in chosen), None)
        axes = _axes()
        places: Any = table[over].to_pylist() if over else list(range(table.num_rows))
        for name in chosen:
            _draw(axes, kind, places, [None if v is None else float(v) for v in table[name].to_pylist()], name)
        if over:
            (axes.set_ylabel if kind == "barh" else axes.set_xlabel)(over)
        axes.legend()
        axes.figure.autofmt_xdate()
        return axes

    def _shown(self) -> Answer:
        return Answer(self._answer.table.slice(0, ROWS_SHOWN), self._answer.types)

    def _counted(self) -> str:
        count = self._answer.table.num_rows
        more = f", the first {ROWS_SHOWN} shown" if count > ROWS_SHOWN else ""
        return f"{count:,} row{'' if count == 1 else 's'}{more}"


def html_table(answer: Answer, said: str) -> str:
    """Rows as HTML with `said` below; text is escaped, long texts are cut, further columns are named."""
    found = as_json(answer)
    columns = found["columns"][:COLUMNS_SHOWN]
    hidden = [column["name"] for column in found["columns"][COLUMNS_SHOWN:]]
    head = "".join(
        f'<th title="{html.escape(column["type"])}">{html.escape(column["name"])}</th>' for column in columns
    )
    rows = "".join(f"<tr>{''.join(map(_cell, row[:COLUMNS_SHOWN]))}</tr>" for row in found["rows"])
    left_out = f"; {len(hidden)} columns hidden: {html.escape(', '.join(hidden))}" if hidden else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table><p>{html.escape(said)}{left_out}</p>"


def _text(value: Any) -> str:
    if value is None:
        return "null"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= CELL_MAX else f"{text[:CELL_MAX]}…"


def _cell(value: Any) -> str:
    if value is None:
        return '<td style="opacity:.5">null</td>'
    cut = _text(value)
    right = ' style="text-align:right"' if isinstance(value, int | float) and not isinstance(value, bool) else ""
    return f"<td{right}>{html.escape(cut)}</td>"


def _axes() -> Axes:
    try:
        from matplotlib import pyplot
    except ImportError:
        raise EaglerayError("plots need matplotlib: pip install 'eagleray[plot]'") from None
    _, axes = pyplot.subplots()
    return axes


def _draw(axes: Axes, kind: Kind, places: list[Any], values: list[Any], name: str) -> None:
    if kind == "line":
        axes.plot(places, [float("nan") if v is None else v for v in values], label=name)
        return
    kept = [(place, value) for place, value in zip(places, values, strict=True) if value is not None]
    over, heights = [place for place, _ in kept], [value for _, value in kept]
    if kind == "scatter":
        axes.scatter(over, heights, label=name)
    elif kind == "area":
        axes.fill_between(over, heights, alpha=0.4, label=name)
    else:
        getattr(axes, kind)(over if kind == "bar" else [str(place) for place in over], heights, label=name)
