"""What a window is, read from its configuration: kind, sizes, groups, aggregates. Knows no events in motion."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

import pyarrow as pa

from eagleray.cluster.column_names import clash, sameness
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.events.field_path import FieldPath
from eagleray.cluster.sections import WindowConfig
from eagleray.cluster.windowing.watermark import FOREVER, NEVER

Function = Literal["count", "sum", "min", "max", "avg", "approx_distinct", "quantile", "first", "last"]
FUNCTIONS: tuple[str, ...] = get_args(Function)
FINAL = "final"
"""What an answer says of each row of a window besides its columns."""

_CALL = re.compile(r"^\s*([a-z_]+)\s*\(\s*(.*?)\s*\)\s*$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Aggregate:
    """One output column of a window: `function` over the field at `path` (None only for `count()`)."""

    name: str
    function: Function
    path: FieldPath | None
    q: float | None = None  # quantile only: 0 ≤ q ≤ 1


@dataclass(frozen=True, slots=True)
class WindowSpec:
    """A window of a stream; sizes in microseconds.

    Windows are aligned to the epoch: a tumbling window of size s is [n·s, (n+1)·s), a hopping one of size s
    every e is [n·e, n·e + s). A session holds events no more than `gap_us` apart; its end is its last event's time
    plus the gap.
    """

    name: str
    kind: Literal["tumble", "hop", "session"]
    size_us: int  # 0 for sessions
    every_us: int  # = size_us for tumbling windows, 0 for sessions
    gap_us: int  # 0 but for sessions
    group_by: tuple[FieldPath, ...]
    aggregates: tuple[Aggregate, ...]
    schema: pa.Schema  # of the table: window_start, window_end (timestamp us UTC), group columns, aggregates
    # An era of the window (see era.py): windows that start in [from_us, until_us), sessions of events in there. Where
    # no edge of the new definition is one of this, the last tumbling window and the last sessions end at until_us.
    from_us: int = NEVER  # a multiple of every_us
    until_us: int = FOREVER

    @property
    def overlapping(self) -> bool:
        """Whether an instant may be in several of its windows."""
        return self.size_us > self.every_us

    @property
    def last_start_us(self) -> int:
        """The start of the last tumbling or hopping window."""
        return (self.until_us - 1) // self.every_us * self.every_us


def _parse_aggregate(name: str, text: str) -> Aggregate:
    call = _CALL.match(text)
    if not call or call[1] not in FUNCTIONS:
        expected = f"one of {', '.join(FUNCTIONS)} with a field, such as sum(amount)"
        raise ValueError(f"{text!r} is not an aggregate; expected {expected}")
    function: Function = call[1]  # type: ignore[assignment]
    argument, q = call[2], None
    if function == "quantile":
        argument, _, number = argument.rpartition(",")
        try:
            q = float(number)
        except ValueError:
            raise ValueError(f"{text!r}: expected quantile(field, q) with q between 0 and 1") from None
        if not 0 <= q <= 1:
            raise ValueError(f"{text!r}: q is {q:g}; expected a number between 0 and 1")
    if not argument.strip():
        if function != "count":
            raise ValueError(f"{text!r}: {function} needs a field")
        return Aggregate(name, function, None)
    return Aggregate(name, function, FieldPath.parse(argument.strip()), q)


def _result_type(aggregate: Aggregate, argument: pa.DataType | None) -> pa.DataType:
    if aggregate.function == "count":
        return pa.int64()
    assert argument is not None and aggregate.path is not None
    column = aggregate.path.column
    numeric = pa.types.is_integer(argument) or pa.types.is_floating(argument)
    if aggregate.function in ("sum", "avg", "quantile") and not numeric:
        raise ValueError(f"{aggregate.function} needs a number, and {column} is {argument}")
    if aggregate.function in ("avg", "quantile"):
        return pa.float64()
    if pa.types.is_nested(argument):
        raise ValueError(f"{aggregate.function} cannot take the {argument} {column}")
    return pa.int64() if aggregate.function == "approx_distinct" else argument


def _said_twice(first: str, second: str) -> str:
    if first == FINAL:
        return f"the column {second!r} is one with {FINAL!r}, which every row of a window's answer has"
    return f"the columns {first!r} and {second!r} of the window {sameness(first, second)}"


def field_type(schema: pa.Schema, path: FieldPath) -> pa.DataType:
    """The type of the field at `path`; raises ValueError that lists what there is."""
    fields: dict[str, pa.DataType] = {field.name: field.type for field in schema}
    for depth, name in enumerate(path.names):
        if name not in fields:
            place = ".".join(path.names[:depth]) or "the schema"
            raise ValueError(f"unknown field {path.sql}; {place} has {', '.join(sorted(fields)) or 'no fields'}")
        found = fields[name]
        fields = {f.name: f.type for f in found.fields} if pa.types.is_struct(found) else {}
    return found


def parse_window(where: str, name: str, config: WindowConfig, schema: pa.Schema) -> WindowSpec:
    """Check a window against its stream's event schema; raises ConfigError with `where` and the key in it."""
    kind: Literal["tumble", "hop", "session"] = "tumble" if config.tumble else "hop" if config.hop else "session"
    columns: list[pa.Field] = [
        pa.field("window_start", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("window_end", pa.timestamp("us", "UTC"), nullable=False),
    ]
    key = "group_by"
    try:
        groups = tuple(FieldPath.parse(text) for text in config.group_by)
        for path in groups:
            if pa.types.is_nested(found := field_type(schema, path)):
                raise ValueError(f"cannot group by {path.column}, a {found}")
            columns.append(pa.field(path.column, found))
        aggregates = []
        for column, text in config.aggregate.items():
            key = f"aggregate.{column}"
            aggregate = _parse_aggregate(column, text)
            argument = field_type(schema, aggregate.path) if aggregate.path else None
            aggregates.append(aggregate)
            columns.append(pa.field(column, _result_type(aggregate, argument)))
        # A column's own key is named where it has one: an aggregate may be renamed, a group may not.
        names = [FINAL, *(column.name for column in columns)]
        if twice := clash(names):
            key = f"aggregate.{twice[1]}" if twice[1] in config.aggregate else "group_by"
            raise ValueError(_said_twice(*twice))
    except ValueError as error:
        raise ConfigError(f"{where}.{key}", str(error)) from None
    return WindowSpec(
        name=name,
        kind=kind,
        size_us=config.tumble or config.hop or 0,
        every_us=config.tumble or config.every or 0,
        gap_us=config.session_gap or 0,
        group_by=groups,
        aggregates=tuple(aggregates),
        schema=pa.schema(columns),
    )
