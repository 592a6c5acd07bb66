"""What a column may be called, and when two names are one: the single rule for streams, windows and jobs.

Used where names are read (schemas, windows, partitions) and where they meet a table (`cluster.lake.column_changes`).
SQL reads names without regard to case, and files hold an escaped form of them (`a.b` is `a_x2Eb`, `1a` is `_1a`): two
names of one struct that are equal so would be one column to some reader. Pure functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

import pyarrow as pa


def file_name(name: str) -> str:
    """The name that files hold, as Iceberg's writers escape it; `name` is not empty."""
    first, rest = name[0], name[1:]
    head = first if first.isalpha() or first == "_" else _escaped(first)
    return head + "".join(sign if sign.isalnum() or sign == "_" else _escaped(sign) for sign in rest)


def _escaped(sign: str) -> str:
    return f"_{sign}" if sign.isdigit() else f"_x{ord(sign):X}"


@lru_cache(maxsize=10_000)
def column_key(name: str) -> str:
    """Equal for names that are one column to SQL or in files, and for no others; `name` is not empty."""
    return file_name(name).casefold()


def clash(names: Iterable[str]) -> tuple[str, str] | None:
    """The first two of `names` that are one column; None where all can be told apart. Equal names are one, too."""
    seen: dict[str, str] = {}
    for name in names:
        key = column_key(name)
        if key in seen:
            return seen[key], name
        seen[key] = name
    return None


def sameness(first: str, second: str) -> str:
    """Why two names are one column, as the end of a sentence about both."""
    if first == second:
        return "are the same name"
    if first.casefold() == second.casefold():
        return "differ by case only; SQL cannot tell them apart"
    return f"are both {column_key(first)} in files, where other characters are escaped"


def column_problem(name: str) -> str | None:
    """Why no table can have a column of this name; None where it can."""
    if not name:
        return "is empty; it cannot be a column"
    if "\0" in name:
        return "holds the character U+0000; it cannot be a column"
    if any("\ud800" <= sign <= "\udfff" for sign in name):
        return "holds half of a surrogate pair, which no encoding can write; it cannot be a column"
    return None


def field_problem(name: str) -> str | None:
    """Why no event can have a field of this name that becomes a column; None where it can."""
    held = sorted({sign for sign in name if sign in '"\\' or sign < " "})
    if held and held != ["\0"]:
        return (
            f"holds {', '.join(map(_shown, held))}; expected a name without quotes, backslashes and control characters"
        )
    return column_problem(name)


def _shown(sign: str) -> str:
    return sign if sign >= " " else f"U+{ord(sign):04X}"


def schema_problem(schema: pa.Schema) -> str | None:
    """Why no table can have these columns, by their names alone; None where it can."""
    return _struct_problem("", list(schema)) or _path_problem(schema)


def _struct_problem(place: str, fields: list[pa.Field]) -> str | None:
    for field in fields:
        if problem := column_problem(field.name):
            return f"the column {place + field.name!r} {problem}"
    if twice := clash(field.name for field in fields):
        if twice[0] == twice[1]:
            return f"there are two columns {place + twice[0]!r}"
        return f"the columns {place + twice[0]!r} and {place + twice[1]!r} {sameness(*twice)}"
    below = ((f"{place}{field.name}.", _children(field.type)) for field in fields)
    return next((problem for inner, children in below if (problem := _struct_problem(inner, children))), None)


def _children(kind: pa.DataType) -> list[pa.Field]:
    """The fields of the structs that a value of `kind` is or holds."""
    if pa.types.is_struct(kind):
        return list(kind.fields)
    if pa.types.is_map(kind):
        return [*_children(kind.key_type), *_children(kind.item_type)]
    return _children(kind.value_type) if pa.types.is_list(kind) or pa.types.is_large_list(kind) else []


def _path_problem(schema: pa.Schema) -> str | None:
    """Tables find a nested column by its path, so that `a.b` may be a name or a path, and not both."""
    seen: dict[str, str] = {}
    for path, shown in _paths("", "", list(schema)):
        if (other := seen.setdefault(path.casefold(), shown)) != shown:
            return f"the columns {other} and {shown} are both {path} to a table: a dot in a name is as one in a path"
    return None


def _paths(place: str, shown: str, fields: Iterable[pa.Field]) -> Iterator[tuple[str, str]]:
    """The path of every column, as tables and as people write it: `a.b`, and `a."b.c"`."""
    for field in fields:
        path, quoted = f"{place}{field.name}", f'{shown}"{field.name}"'
        yield path, quoted
        yield from _paths(f"{path}.", f"{quoted}.", _inner(field.type))


def _inner(kind: pa.DataType) -> list[pa.Field]:
    if pa.types.is_struct(kind):
        return list(kind.fields)
    if pa.types.is_map(kind):
        return [pa.field("key", kind.key_type), pa.field("value", kind.item_type)]
    return [pa.field("element", kind.value_type)] if pa.types.is_list(kind) or pa.types.is_large_list(kind) else []
