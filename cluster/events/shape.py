"""What an event looks like, references resolved: a tree that Arrow types, decoders, columns and arbiter all follow.

Made from a checked document (`schema_document`). Where a schema leaves more than one type open, its
shape is JSON text, and the validator (`validator`) judges each value: so every document has a
shape, and what is fast is a matter of shape alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from eagleray.cluster.errors import ConfigError
from eagleray.cluster.events.schema_document import ASSERTIONS, is_annotation, is_draft_7, lookup
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


def root_shape(where: str, document: dict[str, Any]) -> Shape:
    """The shape of an event; raises ConfigError where the document describes no objects with fields."""
    return _Builder(where, document).root()


@dataclass
class _Builder:
    where: str
    document: dict[str, Any]
    rules: Any = field(init=False)

    def __post_init__(self) -> None:
        self.rules = validator(self.document)

    def root(self) -> Shape:
        schema, seen = self._resolved(self.document, frozenset())
        if not isinstance(schema, dict) or not schema.get("properties"):
            raise ConfigError(self.where, "expected an object with properties: an event's fields become columns")
        if schema.get("type", "object") != "object" or self._assertions(schema) - _STRUCT:
            odd = sorted(self._assertions(schema) - _STRUCT) or ["type"]
            raise ConfigError(
                f"{self.where}#/{odd[0]}", "not supported at the top: an event is an object with properties"
            )
        struct = self._struct(schema, seen)
        if struct is None:
            raise ConfigError(f"{self.where}#/required", "names a field that properties does not have")
        return struct

    def shape(self, schema: Any, seen: frozenset[str]) -> Shape:
        schema, seen = self._resolved(schema, seen)
        if not isinstance(schema, dict) or "$ref" in schema or set(schema) - ASSERTIONS - _annotations(schema):
            return Shape("json", schema, nullable=True) if schema is True else self._checked(schema)
        if "anyOf" in schema or "oneOf" in schema:
            return self._union(schema, seen)
        allowed = self._allowed(schema)
        types = _types(schema, allowed)
        if types is None or len(types - {"null"}) != 1 or self._fixed_whole(allowed):
            return self._mixed(schema, types)
        nullable = "null" in types and (allowed is None or None in allowed)
        shape = self._typed(next(iter(types - {"null"})), schema, allowed, seen)
        return replace(shape, nullable=nullable) if shape else replace(self._checked(schema), types=types)

    def _resolved(self, schema: Any, seen: frozenset[str]) -> tuple[Any, frozenset[str]]:
        """Follow references; one that leads back to itself, or has constraints beside it, stays."""
        while isinstance(schema, dict) and "$ref" in schema:
            reference = schema["$ref"]
            beside = set() if is_draft_7(self.document) else self._assertions(schema) - {"$ref"}
            if schema is self.document and beside <= _STRUCT and not beside & {"properties"}:
                beside = set()
            if reference in seen or beside:
                break
            schema, seen = lookup(self.document, reference), seen | {reference}
        return schema, seen

    def _assertions(self, schema: Mapping[str, Any]) -> set[str]:
        return {keyword for keyword in schema if not is_annotation(keyword)}

    def _checked(self, schema: Any) -> Shape:
        return Shape("json", schema, nullable=self.rules.evolve(schema=schema).is_valid(None), checked=True)

    def _mixed(self, schema: dict[str, Any], types: frozenset[str] | None) -> Shape:
        """JSON text: nothing to hold but its types, or for the validator to judge."""
        if self._assertions(schema) - {"type"}:
            return self._checked(schema)
        return Shape("json", schema, nullable=types is None or "null" in types, types=types)

    def _union(self, schema: dict[str, Any], seen: frozenset[str]) -> Shape:
        """A union with null is a nullable value; any other is JSON text."""
        branches: list[Any] = schema["anyOf"] if "anyOf" in schema else schema["oneOf"]
        others = [branch for branch in branches if branch != {"type": "null"}]
        if len(branches) == 2 and len(others) == 1 and len(self._assertions(schema)) == 1:
            inner = self.shape(others[0], seen)
            if not (inner.nullable and "oneOf" in schema):
                return replace(inner, nullable=True)
        return self._checked(schema)

    def _allowed(self, schema: dict[str, Any]) -> tuple[Any, ...] | None:
        if "enum" not in schema and "const" not in schema:
            return None
        valid = self.rules.evolve(schema=schema).is_valid
        return tuple(value for value in (schema["enum"] if "enum" in schema else [schema["const"]]) if valid(value))

    @staticmethod
    def _fixed_whole(allowed: tuple[Any, ...] | None) -> bool:
        return allowed is not None and any(isinstance(value, dict | list) for value in allowed)

    def _typed(self, name: str, schema: dict[str, Any], allowed: Any, seen: frozenset[str]) -> Shape | None:
        if name == "string":
            return Shape(_TEXTS.get(schema.get("format", ""), "text"), schema, allowed=allowed)
        if name in _SCALARS:
            return Shape(_SCALARS[name], schema, allowed=allowed)
        if name == "object" and schema.get("properties"):
            return self._struct(schema, seen)
        if name == "array" and schema.get("items", True) not in (True, {}):
            return Shape("list", schema, item=self.shape(schema["items"], seen))
        free = schema.get("additionalProperties", True) in (True, {}) and schema.get("items", True) in (True, {})
        if free and self._assertions(schema) <= {"type", "properties", "additionalProperties", "items"}:
            return Shape("json", schema, types=frozenset({name}))
        return None

    def _struct(self, schema: dict[str, Any], seen: frozenset[str]) -> Shape | None:
        beyond = schema.get("additionalProperties", True)
        extras: Extras = "refuse" if beyond is False else "keep" if beyond in (True, {}) else "check"
        required = schema.get("required", [])
        undeclared = [name for name in required if name not in schema["properties"]]
        if undeclared and extras != "keep":
            return None
        fields = {**schema["properties"], **dict.fromkeys(undeclared, True)}
        self._check_names(list(fields))
        members = [Member(name, self.shape(below, seen), name in required) for name, below in fields.items()]
        return Shape("struct", schema, members=tuple(members), extras=extras)

    def _check_names(self, names: list[str]) -> None:
        lower: dict[str, str] = {}
        for name in names:
            if not name:
                raise ConfigError(self.where, "a property has an empty name; it cannot be a column")
            if (other := lower.setdefault(name.lower(), name)) != name:
                raise ConfigError(self.where, f"the properties {other!r} and {name!r} differ by case only; SQL cannot")


_STRUCT = {"type", "properties", "required", "additionalProperties"}


def _annotations(schema: Mapping[str, Any]) -> set[str]:
    return {keyword for keyword in schema if is_annotation(keyword)}


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
