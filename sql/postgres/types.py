"""DuckDB's types as Postgres' clients know them, and values of parameters as SQL. Used in the child.

A result's columns are described by oid, size and modifier; `packing` writes their values. Types that Postgres has no
like of (structs, maps, lists of lists) are sent as JSON.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal

from eagleray.cluster.errors import QueryRejected
from eagleray.sql.engine import literal

BOOL, BYTEA, CHAR, INT8, INT2, INT4, TEXT, OID, JSON, FLOAT4, FLOAT8 = 16, 17, 18, 20, 21, 23, 25, 26, 114, 700, 701
VARCHAR, DATE, TIME, TIMESTAMP, TIMESTAMPTZ, INTERVAL, NUMERIC, UUID, JSONB = (
    1043, 1082, 1083, 1114, 1184, 1186, 1700, 2950, 3802,
)  # fmt: skip
NAME, BPCHAR, UNKNOWN = 19, 1042, 705

ARRAYS: Mapping[int, int] = {
    BOOL: 1000, BYTEA: 1001, CHAR: 1002, NAME: 1003, INT8: 1016, INT2: 1005, INT4: 1007, TEXT: 1009, OID: 1028,
    JSON: 199, FLOAT4: 1021, FLOAT8: 1022, VARCHAR: 1015, DATE: 1182, TIME: 1183, TIMESTAMP: 1115, TIMESTAMPTZ: 1185,
    INTERVAL: 1187, NUMERIC: 1231, UUID: 2951, JSONB: 3807,
}  # fmt: skip
"""The oid of the array type, by that of its elements."""

ELEMENTS: Mapping[int, int] = {array: element for element, array in ARRAYS.items()}
SIZES: Mapping[int, int] = {
    BOOL: 1, CHAR: 1, INT8: 8, INT2: 2, INT4: 4, OID: 4, FLOAT4: 4, FLOAT8: 8, DATE: 4, TIME: 8, TIMESTAMP: 8,
    TIMESTAMPTZ: 8, INTERVAL: 16, UUID: 16, NAME: 64,
}  # fmt: skip
"""Bytes of a value; all others vary."""

_OIDS: Mapping[str, int] = {
    "BOOLEAN": BOOL, "TINYINT": INT2, "SMALLINT": INT2, "UTINYINT": INT2, "INTEGER": INT4, "USMALLINT": INT4,
    "BIGINT": INT8, "UINTEGER": INT8, "UBIGINT": NUMERIC, "HUGEINT": NUMERIC, "UHUGEINT": NUMERIC, "FLOAT": FLOAT4,
    "DOUBLE": FLOAT8, "VARCHAR": TEXT, "BLOB": BYTEA, "DATE": DATE, "TIME": TIME, "TIME_NS": TIME,
    "TIMESTAMP": TIMESTAMP, "TIMESTAMP_S": TIMESTAMP, "TIMESTAMP_MS": TIMESTAMP, "TIMESTAMP_NS": TIMESTAMP,
    "TIMESTAMP WITH TIME ZONE": TIMESTAMPTZ, "INTERVAL": INTERVAL, "UUID": UUID, "JSON": JSON, "NULL": TEXT,
}  # fmt: skip
_CATALOG: Mapping[str, int] = {"UINTEGER": OID}
"""What is different in the catalog's tables (`sql.postgres.catalog`): there an enum is a `"char"` as well."""

_DECIMAL = re.compile(r"DECIMAL\((\d+),\s*(\d+)\)")
_CASTS: Mapping[int, str] = {
    BOOL: "BOOLEAN", BYTEA: "BLOB", CHAR: "VARCHAR", INT8: "BIGINT", INT2: "SMALLINT", INT4: "INTEGER", TEXT: "VARCHAR",
    NAME: "VARCHAR", OID: "UINTEGER", JSON: "JSON", JSONB: "JSON", FLOAT4: "FLOAT", FLOAT8: "DOUBLE",
    VARCHAR: "VARCHAR", BPCHAR: "VARCHAR", DATE: "DATE", TIME: "TIME", TIMESTAMP: "TIMESTAMP",
    TIMESTAMPTZ: "TIMESTAMPTZ",
    INTERVAL: "INTERVAL", UUID: "UUID",
}  # fmt: skip
_EPOCH = date(2000, 1, 1)
_ZONED_DATE = re.compile(r"(\d{4}-\d\d-\d\d) [+-]\d\d(?::?\d\d)?")  # how pgjdbc sends a date
_PLAIN_NUMBER = re.compile(r"-?\d{1,38}(?:\.\d{1,38})?")
_UNSCALED_DIGITS_MAX = 38


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a result: its name, the oid of its type, and Postgres' type modifier (-1: none)."""

    name: str
    oid: int
    modifier: int = -1

    @property
    def size(self) -> int:
        """Bytes of a value; -1: they vary."""
        return SIZES.get(self.oid, -1)


def described(name: str, kind: str, catalog: bool = False) -> Column:
    """The column of DuckDB's type `kind`; of the catalog's tables where `catalog` says so."""
    if match := _DECIMAL.fullmatch(kind):
        return Column(name, NUMERIC, (int(match[1]) << 16 | int(match[2])) + 4)
    return Column(name, oid_of(kind, catalog))


def oid_of(kind: str, catalog: bool = False) -> int:
    """The oid for DuckDB's type `kind`."""
    if catalog and kind in _CATALOG:
        return _CATALOG[kind]
    if kind in _OIDS:
        return _OIDS[kind]
    if kind.endswith("[]"):
        return ARRAYS.get(oid_of(kind[:-2], catalog), JSON)
    if kind.startswith("DECIMAL"):
        return NUMERIC
    if kind.startswith("ENUM"):
        return CHAR if catalog else TEXT
    return JSON


@dataclass(frozen=True, slots=True)
class Value:
    """A parameter as the client sent it. `oid` 0: of no type that anybody knows; `data` None: null."""

    oid: int
    binary: bool
    data: bytes | None


def constant(value: Value) -> str:
    """`value` as SQL; raises QueryRejected for bytes that are no such value."""
    kind = sql_type(value.oid)
    if value.data is None:
        return f"CAST(NULL AS {kind})" if kind else "NULL"
    try:
        if value.oid in ELEMENTS:
            items = _binary_array(value.data) if value.binary else text_array(value.data.decode(), ELEMENTS[value.oid])
            return f"CAST({items} AS {kind})"
        text = _binary(value) if value.binary else _text(value.data.decode(), value.oid)
    except (struct.error, ValueError, IndexError, OverflowError) as error:
        raise QueryRejected(f"a parameter of type {value.oid} cannot be read: {error}", "22P03") from None
    return text if not kind or value.oid == NUMERIC else f"CAST({text} AS {kind})"


def sql_type(oid: int) -> str:
    """DuckDB's name of a parameter's type; empty where it has none of its own."""
    if oid in ELEMENTS:
        element = ELEMENTS[oid]
        return f"{'DECIMAL(38,9)' if element == NUMERIC else _CASTS[element]}[]"
    return "DECIMAL(38,9)" if oid == NUMERIC else _CASTS.get(oid, "")


def null_of(oid: int) -> str:
    """A null of the parameter's type, to plan with; a text where it has none."""
    return f"CAST(NULL AS {sql_type(oid) or 'VARCHAR'})"


def _text(text: str, oid: int) -> str:
    if oid == NUMERIC:
        return _number(text)
    if oid == BYTEA:
        return _blob(bytes.fromhex(text[2:]) if text.startswith("\\x") else text.encode())
    if oid in (0, UNKNOWN) and (match := _ZONED_DATE.fullmatch(text)):
        text = match[1]
    return literal(text)


def _number(text: str) -> str:
    if _PLAIN_NUMBER.fullmatch(text) and sum(map(str.isdigit, text)) <= _UNSCALED_DIGITS_MAX:
        return f"({text})"
    return f"CAST({literal(text)} AS DOUBLE)"


def _blob(data: bytes) -> str:
    return "'" + "".join(f"\\x{byte:02X}" for byte in data) + "'"


def _unpacked(form: str) -> Callable[[bytes], str]:
    return lambda data: literal(str(struct.unpack(form, data)[0]))


def _numeric(data: bytes) -> str:
    count, weight, sign, scale = struct.unpack_from("!hhHH", data)
    if sign == 0xC000:
        return "CAST('NaN' AS DOUBLE)"
    digits = struct.unpack_from(f"!{count}h", data, 8)
    value = sum((Decimal(digit).scaleb(4 * (weight - at)) for at, digit in enumerate(digits)), Decimal(0))
    return _number(f"{'-' if sign == 0x4000 else ''}{value:.{scale}f}")


def _days(data: bytes) -> str:
    (days,) = struct.unpack("!i", data)
    return literal((_EPOCH + timedelta(days=days)).isoformat())


def _clock(microseconds: int) -> str:
    seconds, fraction = divmod(microseconds, 1_000_000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{fraction:06d}"


def _moment(data: bytes) -> str:
    (microseconds,) = struct.unpack("!q", data)
    days, rest = divmod(microseconds, 86_400_000_000)
    return f"{(_EPOCH + timedelta(days=days)).isoformat()} {_clock(rest)}"


def _span(data: bytes) -> str:
    microseconds, days, months = struct.unpack("!qii", data)
    return literal(f"{months} months {days} days {microseconds} microseconds")


_BINARY: Mapping[int, Callable[[bytes], str]] = {
    BOOL: lambda data: "true" if data != b"\0" else "false",
    BYTEA: _blob,
    INT8: _unpacked("!q"),
    INT2: _unpacked("!h"),
    INT4: _unpacked("!i"),
    OID: _unpacked("!I"),
    FLOAT4: _unpacked("!f"),
    FLOAT8: _unpacked("!d"),
    DATE: _days,
    TIME: lambda data: literal(_clock(struct.unpack("!q", data)[0])),
    TIMESTAMP: lambda data: literal(_moment(data)),
    TIMESTAMPTZ: lambda data: literal(_moment(data) + "+00"),
    INTERVAL: _span,
    NUMERIC: _numeric,
    UUID: lambda data: literal(data.hex()),
    JSONB: lambda data: literal(data[1:].decode()),
}


def _binary(value: Value) -> str:
    assert value.data is not None
    read = _BINARY.get(value.oid)
    return read(value.data) if read else literal(value.data.decode())


def _binary_array(data: bytes) -> str:
    dimensions, _, element = struct.unpack_from("!iii", data)
    if dimensions > 1:
        raise ValueError(f"an array of {dimensions} dimensions")
    items: list[str] = []
    count = struct.unpack_from("!i", data, 12)[0] if dimensions else 0
    at = 20
    for _ in range(count):
        (length,) = struct.unpack_from("!i", data, at)
        at += 4
        items.append("NULL" if length < 0 else constant(Value(element, True, data[at : at + length])))
        at += max(length, 0)
    return f"[{', '.join(items)}]"


_ITEM = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|([^",{}\\]*(?:\\.[^",{}\\]*)*))\s*([,}])', re.DOTALL)


def text_array(text: str, element: int) -> str:
    """A SQL list of what an array's text (`{1,2,"x"}`) says; raises ValueError."""
    body = text.strip()
    if not body.startswith("{") or not body.endswith("}"):
        raise ValueError(f"{text[:40]!r} is no array")
    items: list[str] = []
    at = 1
    while body[1:-1].strip() and at < len(body):
        match = _ITEM.match(body, at)
        if match is None:
            raise ValueError(f"{text[:40]!r} is no array of one dimension")
        quoted, bare = match[1], (match[2] or "").strip()
        item = re.sub(r"\\(.)", r"\1", quoted if quoted is not None else bare)
        items.append("NULL" if quoted is None and bare.upper() == "NULL" else _text(item, element))
        at = match.end()
    return f"[{', '.join(items)}]"
