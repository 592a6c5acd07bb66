"""`eagleray schema`: what becomes of a schema. It needs no platform."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eagleray.cli.schema_infer import infer

if TYPE_CHECKING:  # loaded when a command runs
    from eagleray.cluster.events.shape import Shape

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.command()(infer)
_TYPES = {"text": "string", "instant": "timestamptz", "day": "date", "integer": "long", "number": "double"}
_RULES = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength")
_VALUES_SHOWN = 5


@app.callback()
def _group() -> None:
    """Show what becomes of a schema, or make a first one of sample events."""


@app.command()
def show(
    schema: Annotated[str, typer.Argument(help="A schema file, FILE#/a/part of one, or package.module:Model.")],
) -> None:
    """Show the columns of a schema, their types, and what is checked where."""
    from eagleray.cluster.events.schema import load_schema

    shape = load_schema("eagleray schema show", schema, Path()).shape()
    rows = [("column", "type", "", "checked with the column", "checked value by value"), *_rows(shape)]
    widths = [max(len(row[at]) for row in rows) for at in range(4)]
    for row in rows:
        print("  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[4]]).rstrip())
    leaves = [row for row in rows[1:] if not row[1].startswith(("struct", "list"))]
    typed = sum(row[1] != "json" for row in leaves)
    print(f"\n{len(leaves)} leaves, {typed} of them typed, {len(leaves) - typed} JSON text")
    if shape.rest:
        print(f"of the whole event, checked one by one: {_words(shape.rest)}")
    print(_BEYOND[shape.extras])


_BEYOND = {
    "keep": "fields that the schema does not name are kept in _extra",
    "refuse": "events with fields that the schema does not name are rejected",
    "check": "fields that the schema does not name are checked one by one, and kept in _extra",
}


def _rows(shape: Shape, path: str = "") -> Iterator[tuple[str, str, str, str, str]]:
    for member in shape.members:
        yield from _described(member.shape, f"{path}{member.name}", "required" if member.required else "", member.loose)


def _described(shape: Shape, path: str, required: str, loose: bool) -> Iterator[tuple[str, str, str, str, str]]:
    kind = "list" if shape.item is not None else _TYPES.get(shape.kind, shape.kind)
    by_value = _words(shape.rest)
    if shape.kind == "json":
        by_value = f"{_why(shape)}: {_words((shape.schema,))}" if shape.checked else ""
    if loose:
        by_value = "; ".join(filter(None, [by_value, "where no branch declares it, any value, kept in _extra"]))
    yield path, kind, required, _with_column(shape), by_value
    yield from _rows(shape, f"{path}.")
    if shape.item is not None:
        yield from _described(shape.item, f"{path}[]", "", False)


def _why(shape: Shape) -> str:
    if shape.cut:
        return "leads back to itself"
    if isinstance(shape.schema, dict) and "prefixItems" in shape.schema:
        return "a tuple"
    return "of several types or names"


def _with_column(shape: Shape) -> str:
    schema = shape.schema if isinstance(shape.schema, dict) and shape.kind != "json" else {}
    said = ["null or a value" if shape.nullable else "a value"]
    if shape.allowed is not None:
        shown = ", ".join(map(str, shape.allowed[:_VALUES_SHOWN]))
        said.append(f"one of {shown}{', …' if len(shape.allowed) > _VALUES_SHOWN else ''}")
    said += [f"{rule} {schema[rule]}" for rule in (*_RULES, "minItems", "maxItems") if rule in schema]
    said += [f"{rule} {schema[rule]}" for rule in ("pattern", "format") if rule in schema]
    if schema.get("uniqueItems"):
        said.append("uniqueItems")
    if shape.kind == "json" and shape.types:
        said.append(" or ".join(sorted(shape.types)))
    return ", ".join(said)


def _words(schemas: tuple[Any, ...]) -> str:
    """The keywords of some schemas, each once."""
    found = dict.fromkeys(word for schema in schemas if isinstance(schema, dict) for word in schema if word[0] != "$")
    return ", ".join(found)
