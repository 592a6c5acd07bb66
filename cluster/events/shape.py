"""What an event looks like, references resolved: a tree that Arrow types, decoders, columns and arbiter all follow.

Made from a document of `schema_document`, made plain by `schema_algebra`. Where a schema leaves more
than one type open, its shape is JSON text, and the validator (`validator`) judges each value; what a
typed shape does not say is its `rest`, which the validator holds as well: so every document has a
shape, and what is fast is a matter of shape alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from eagleray.cluster.column_names import clash, field_problem, sameness
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.events.schema_algebra import LOOSE, Algebra, Cycle, Plain, property_of
from eagleray.cluster.events.validator import validator

Kind = Literal["text", "instant", "day", "integer", "number", "boolean", "list", "struct", "json"]
Extras = Literal["keep", "refuse", "check"]
_SCALARS: dict[str, Kind] = {"integer": "integer", "number": "number", "boolean": "boolean"}
_TEXTS: dict[str, Kind] = {"date-time": "instant", "date": "day"}


@dataclass(frozen=True)
class Shape:
    """The shape of one value."""

    kind: Kind
    schema: Any  # the schema of a value that is not null, references resolved at its top
    nullable: bool = False
    allowed: tuple[Any, ...] | None = None  # enum and const: the values that pass
    members: tuple[Member, ...] = ()  # struct
    extras: Extras = "keep"  # struct: fields beyond the members
    item: Shape | None = None  # list
    types: frozenset[str] | None = None  # json: the types it may have; None: any
    checked: bool = False  # json: the validator must judge each value
    rest: tuple[Any, ...] = ()  # typed: schemas that a value satisfies besides, which only the validator holds
    cut: bool = False  # json: a shape of its own would have led too deep, or back to itself

    @property
    def depth(self) -> int:
        """How many brackets a typed value of this shape can be nested in; JSON text counts 0."""
        below = [member.shape.depth for member in self.members] + ([self.item.depth] if self.item else [])
        return 1 + max(below) if below else 0

    @property
    def holds_text(self) -> bool:
        """Whether a value of this shape is, or has in it, JSON text, which may be nested as it likes."""
        below = [*(member.shape for member in self.members), *([self.item] if self.item else [])]
        return self.kind == "json" or any(shape.holds_text for shape in below)


@dataclass(frozen=True)
class Member:
    """A named field of a struct."""

    name: str
    shape: Shape
    required: bool
    loose: bool = False  # a branch of a union does not name it: a value there that does not fit is kept as an extra


def root_shape(where: str, document: dict[str, Any]) -> Shape:
    """The shape of an event; raises ConfigError where the document describes no objects with fields."""
    for levels in LEVELS:
        try:
            return _Builder(where, document, levels).root()
        except _TooMany:
            continue
    raise ConfigError(where, f"its fields become more than {SHAPES_MAX} columns; expected a schema with fewer")


SHAPES_MAX = 3_000  # columns of a table, structs counted; where there are more, deeper levels are JSON text
LEVELS = (100, 6, 4, 3, 2, 1)


class _TooMany(Exception):
    """More shapes than SHAPES_MAX."""


@dataclass
class _Builder:
    where: str
    document: dict[str, Any]
    levels: int  # of structs and lists; what is deeper is JSON text
    rules: Any = field(init=False)
    algebra: Algebra = field(init=False)
    built: int = 0
    lead_back: dict[str, Shape] = field(default_factory=dict)  # of references alone: there are many of few

    def __post_init__(self) -> None:
        self.rules = validator(self.document)
        self.algebra = Algebra(self.document)

    def root(self) -> Shape:
        try:
            plain = self.algebra.plain({"allOf": [{"type": "object"}, self.document]}, frozenset())
        except Cycle:
            raise ConfigError(self.where, "its references lead in a circle") from None
        if plain.schema is False:
            raise ConfigError(f"{self.where}#/type", "no object satisfies it: an event is an object with properties")
        allowed = self._allowed(self.document, plain.schema)
        if allowed is not None:  # columns hold an event field by field, never as a whole
            if not any(isinstance(value, dict) for value in allowed):
                raise ConfigError(f"{self.where}#/enum", "no object satisfies it: an event is an object")
            plain = Plain(plain.schema, (*plain.rest, {"enum": list(allowed)}), plain.seen)
        if not plain.schema.get("properties"):
            raise ConfigError(self.where, "expected an object with properties: an event's fields become columns")
        struct = self._struct(plain, self.levels)
        if struct is None:
            raise ConfigError(f"{self.where}#/required", "names a field that properties does not have")
        return struct

    def shape(self, schema: Any, seen: frozenset[str], levels: int) -> Shape:
        self.built += 1
        if self.built > SHAPES_MAX:
            raise _TooMany
        try:
            plain = self.algebra.plain(schema, seen)
        except Cycle:
            return self._leading_back(schema)
        if plain.schema is False:
            return self._checked(schema)
        allowed = self._allowed(schema, plain.schema)
        types = _types(plain.schema, allowed)
        if types is None or len(types - {"null"}) != 1 or self._fixed_whole(allowed):
            return self._mixed(schema, plain, types)
        if allowed is not None:  # judged by the validator already
            kept = {keyword: value for keyword, value in plain.schema.items() if keyword not in ("const", "enum")}
            listed = {"enum": list(allowed)}
            if types & {"object", "array"}:  # none of them is listed, and columns hold them part by part
                plain = Plain(kept, (listed,), plain.seen)
            else:
                plain = Plain({**kept, **listed}, (), plain.seen)
        shape = self._typed(next(iter(types - {"null"})), plain, allowed, levels)
        if shape is None:
            return replace(self._checked(schema), types=types)
        if shape.kind == "json" and plain.rest:
            return self._checked(schema)
        nullable = "null" in types and (allowed is None or None in allowed)
        if nullable and plain.rest:
            nullable = self._valid(schema, None)
        return replace(shape, nullable=nullable, rest=plain.rest)

    def _leading_back(self, schema: Any) -> Shape:
        reference = schema["$ref"] if len(schema) == 1 and "$ref" in schema else None
        if reference is None:
            return replace(self._checked(schema), cut=True)
        if reference not in self.lead_back:
            self.lead_back[reference] = replace(self._checked(schema), cut=True)
        return self.lead_back[reference]

    def _valid(self, schema: Any, value: Any) -> bool:
        return bool(self.rules.evolve(schema=schema).is_valid(value))

    def _checked(self, schema: Any) -> Shape:
        return Shape("json", schema, nullable=self._valid(schema, None), checked=True)

    def _mixed(self, schema: Any, plain: Plain, types: frozenset[str] | None) -> Shape:
        """JSON text: nothing to hold but its types, or for the validator to judge."""
        if set(plain.schema) - {"type"} or plain.rest:
            return self._checked(schema)
        return Shape("json", schema, nullable=types is None or "null" in types, types=types)

    def _allowed(self, schema: Any, plain: dict[str, Any]) -> tuple[Any, ...] | None:
        if "enum" not in plain and "const" not in plain:
            return None
        values = plain["enum"] if "enum" in plain else [plain["const"]]
        return tuple(value for value in values if self._valid(plain, value) and self._valid(schema, value))

    @staticmethod
    def _fixed_whole(allowed: tuple[Any, ...] | None) -> bool:
        return allowed is not None and any(isinstance(value, dict | list) for value in allowed)

    def _typed(self, name: str, plain: Plain, allowed: Any, levels: int) -> Shape | None:
        schema = plain.schema
        if name == "string":
            return Shape(_TEXTS.get(schema.get("format", ""), "text"), schema, allowed=allowed)
        if name in _SCALARS:
            return Shape(_SCALARS[name], schema, allowed=allowed)
        if levels > 0:
            if name == "object" and schema.get("properties"):
                return self._struct(plain, levels - 1)
            if name == "array" and schema.get("items", True) not in (True, {}):
                return Shape("list", schema, item=self.shape(schema["items"], plain.seen, levels - 1))
        free = schema.get("additionalProperties", True) in (True, {}) and schema.get("items", True) in (True, {})
        empty = not schema.get("properties")
        if free and empty and set(schema) <= {"type", "properties", "additionalProperties", "items"}:
            return Shape("json", schema, types=frozenset({name}))
        return None

    def _struct(self, plain: Plain, levels: int) -> Shape | None:
        schema = plain.schema
        beyond = schema.get("additionalProperties", True)
        extras: Extras = "refuse" if beyond is False else "keep" if beyond in (True, {}) else "check"
        if schema.get("patternProperties"):
            extras = "check"
        required, declared = schema.get("required", []), schema["properties"]
        undeclared = [name for name in required if name not in declared]
        if any(property_of(schema, name) is False for name in required):  # then nothing passes
            return None
        fields = {name: property_of(schema, name) for name in [*declared, *undeclared]}
        if extras != "keep":  # what is refused by name need not be a column
            fields = {name: below for name, below in fields.items() if below is not False}
        if not fields:
            return None
        self._check_names(list(fields))
        loose = set(schema.get(LOOSE, ()))
        members = [
            Member(name, self.shape(below, plain.seen, levels), name in required, name in loose)
            for name, below in fields.items()
        ]
        return Shape("struct", schema, members=tuple(members), extras=extras, rest=plain.rest)

    def _check_names(self, names: list[str]) -> None:
        for name in names:
            if problem := field_problem(name):
                raise ConfigError(self.where, f"the property {name!r} {problem}")
        if twice := clash(names):
            raise ConfigError(self.where, f"the properties {twice[0]!r} and {twice[1]!r} {sameness(*twice)}")


def _types(schema: Mapping[str, Any], allowed: tuple[Any, ...] | None) -> frozenset[str] | None:
    """The JSON types that may pass; None where any may."""
    stated = schema.get("type")
    if stated is None:
        return frozenset(_type_of(value) for value in allowed) or None if allowed is not None else None
    types = frozenset([stated] if isinstance(stated, str) else stated)
    return types - {"integer"} if "number" in types else types


def _type_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    names = {str: "string", int: "integer", float: "number", dict: "object", list: "array", type(None): "null"}
    return names[type(value)]
