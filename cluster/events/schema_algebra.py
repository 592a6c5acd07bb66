"""What a schema says in the words that columns know: `allOf` and references merged, the branches of a union joined.

Called by `shape`, with documents of `schema_document`. `Plain.schema` is what every valid value satisfies, and
`Plain.rest` what it leaves unsaid: rules that the validator holds, value by value. Together they are the schema.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from math import lcm
from typing import Any

from eagleray.cluster.events.schema_document import lookup

JOINED = "$joined"
"""A keyword of ours: `anyOf` that is held elsewhere, so that it leaves nothing to the validator."""
LOOSE = "$loose"
"""A keyword of ours: names of properties that some branch of a union leaves open, where they may be anything."""

_WORDS = frozenset(
    "type enum const minimum maximum exclusiveMinimum exclusiveMaximum multipleOf minLength maxLength pattern format "
    "items minItems maxItems uniqueItems properties required additionalProperties patternProperties".split()
)
_UNIONS = ("anyOf", "oneOf", JOINED)
_CONDITIONS = ("if", "then", "else")
_LEFT_OUT = frozenset({"$defs", "$ref", "allOf", "if", "then", "else", "minContains", "maxContains"})
_NULL = {"type": "null"}
_ANY = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})


@dataclass(frozen=True)
class Plain:
    """A schema in words that columns know."""

    schema: Any  # a dict of _WORDS and LOOSE, or False: nothing is valid
    rest: tuple[Any, ...] = ()  # schemas that hold besides
    seen: frozenset[str] = frozenset()  # references that were followed


class Cycle(Exception):
    """A reference leads back to itself."""


def _references(schema: Any) -> Iterator[str]:
    """Every reference within a schema, definitions left out."""
    if isinstance(schema, list):
        for below in schema:
            yield from _references(below)
    elif isinstance(schema, dict):
        if isinstance(reference := schema.get("$ref"), str):
            yield reference
        for keyword, below in schema.items():
            if keyword not in ("$defs", "enum", "const"):
                yield from _references(below)


@dataclass
class Algebra:
    """Makes plain the schemas of one document."""

    document: dict[str, Any]
    _reach: dict[str, frozenset[str]] = field(default_factory=dict)  # what a reference leads to, itself left out

    def recurs(self, reference: str) -> bool:
        """Whether what a reference points at leads back to it."""
        return reference in self._reached(reference)

    def _reached(self, reference: str) -> frozenset[str]:
        if reference not in self._reach:
            found: set[str] = set()
            waiting = [reference]
            while waiting:
                more = set(_references(lookup(self.document, waiting.pop()))) - found
                found |= more
                waiting += more
            self._reach[reference] = frozenset(found)
        return self._reach[reference]

    def plain(self, schema: Any, seen: frozenset[str]) -> Plain:
        """`schema` made plain; raises Cycle where it needs a reference that is in `seen`."""
        flat = _Flat(self)
        flat.add(schema, seen)
        found: Any = reduce(meet, flat.words, {})
        rest = list(flat.rest)
        for keyword, branches in flat.unions:
            joined, more, below = self._union(keyword, branches, found, flat.seen)
            found, flat.seen = _met_with_union(found, joined), below
            rest += more
        if found and "allOf" in found:
            rest += found.pop("allOf")
        return Plain(found, () if found is False else tuple(rest), flat.seen)

    def _union(
        self, keyword: str, branches: Iterable[Any], around: Any, seen: frozenset[str]
    ) -> tuple[Any, list[Any], frozenset[str]]:
        """What all valid values of a union satisfy, and what that leaves unsaid. `around` is what holds besides."""
        types = {"type": around["type"]} if around and "type" in around else {}
        parts: list[Plain] = []
        for branch in branches:
            part = self.plain(branch, seen)
            seen |= part.seen
            if (narrowed := meet(part.schema, types)) is not False:
                parts.append(Plain(narrowed, part.rest))
        if not parts:
            return False, [], seen
        if len(parts) == 1 and keyword != JOINED:
            return parts[0].schema, list(parts[0].rest), seen
        if (exact := _or_null(keyword, parts)) is not None:
            return exact, [], seen
        joined = reduce(join, (part.schema for part in parts))
        return joined, [] if keyword == JOINED else [{keyword: list(branches)}], seen


def _or_null(keyword: str, parts: list[Plain]) -> Any:
    """A union of null and one thing more, said without a union; None where it is something else."""
    others = [part for part in parts if part.schema != _NULL or part.rest]
    if len(parts) != 2 or len(others) != 1 or others[0].rest:
        return None
    schema = others[0].schema
    types = _types(schema)
    if types is None or ("null" in types and keyword == "oneOf"):
        return None
    found = {**schema, "type": _stated(types | {"null"})}
    if (values := _values(schema)) is not None:
        found.pop("const", None)
        found["enum"] = [*values, *([] if None in values else [None])]
    return found


@dataclass
class _Flat:
    """A schema taken apart into what holds at once."""

    algebra: Algebra
    words: list[Any] = field(default_factory=list)
    unions: list[tuple[str, list[Any]]] = field(default_factory=list)
    rest: list[Any] = field(default_factory=list)
    seen: frozenset[str] = frozenset()

    def add(self, schema: Any, seen: frozenset[str]) -> None:
        self.seen |= seen
        if isinstance(schema, bool):
            self.words += [] if schema else [False]
            return
        for keyword in schema:  # in their order, which is that of columns
            if keyword == "$ref":
                if (reference := schema["$ref"]) in seen:
                    raise Cycle(reference)
                followed = seen | {reference} if self.algebra.recurs(reference) else seen
                self.add(lookup(self.algebra.document, reference), followed)
            elif keyword == "allOf":
                for part in schema["allOf"]:
                    self.add(part, seen)
            elif keyword == "properties":
                self._words(schema)
        if "properties" not in schema:
            self._words(schema)
        for keyword in schema:
            self._rest(keyword, schema)

    def _words(self, schema: Mapping[str, Any]) -> None:
        words = {keyword: schema[keyword] for keyword in schema if keyword in _WORDS or keyword == LOOSE}
        if "prefixItems" in schema:  # then `items` are the others, and there is no one type for all
            words.pop("items", None)
        if _closes(schema):
            words.setdefault("additionalProperties", False)
        if words:
            self.words.append(words)

    def _rest(self, keyword: str, schema: Mapping[str, Any]) -> None:
        if keyword in _UNIONS:
            self.unions.append((keyword, schema[keyword]))
        elif keyword == "if" and ("then" in schema or "else" in schema):
            self.rest.append({part: schema[part] for part in _CONDITIONS if part in schema})
            self.unions.append((JOINED, [schema.get("then", True), schema.get("else", True)]))
        elif keyword == "dependentSchemas":
            self.rest.append({keyword: schema[keyword]})
            self.unions += [(JOINED, [True, below]) for below in schema[keyword].values()]
        elif keyword in ("unevaluatedItems", "unevaluatedProperties"):
            if not (keyword == "unevaluatedProperties" and _closes(schema)):
                self.rest.append(dict(schema))  # it depends on all that stands beside it
        elif keyword in ("prefixItems", "contains"):
            words = ("prefixItems", "items") if keyword == "prefixItems" else ("contains", "minContains", "maxContains")
            self.rest.append({word: schema[word] for word in words if word in schema})
        elif keyword == "minProperties" and schema[keyword] <= len(schema.get("required", ())):
            return  # said already
        elif keyword not in _WORDS and keyword not in _LEFT_OUT and keyword != LOOSE:
            self.rest.append({keyword: schema[keyword]})


def _closes(schema: Mapping[str, Any]) -> bool:
    """Whether `unevaluatedProperties: false` says what `additionalProperties: false` would: nothing else names any."""
    return schema.get("unevaluatedProperties") is False and not (
        set(schema) & {"$ref", "allOf", "anyOf", "oneOf", "if", "dependentSchemas", "additionalProperties", "not"}
    )


def _types(schema: Mapping[str, Any]) -> frozenset[str] | None:
    """The types that may pass, integers being numbers; None: any."""
    stated = schema.get("type")
    if stated is None:
        return None
    types = frozenset([stated] if isinstance(stated, str) else stated)
    return types | {"integer"} if "number" in types else types


def _stated(types: frozenset[str]) -> str | list[str]:
    """`type` for some types."""
    found = sorted(types - {"integer"} if "number" in types else types)
    return found[0] if len(found) == 1 else found


def _values(schema: Mapping[str, Any]) -> list[Any] | None:
    """The values of `enum` and `const`; None: any."""
    if "const" in schema:
        return [schema["const"]]
    return list(schema["enum"]) if "enum" in schema else None


def meet(a: Any, b: Any) -> Any:
    """What satisfies both of two plain schemas; False where nothing does."""
    if a is False or b is False:
        return False
    if not a or not b:
        return a or b
    found: dict[str, Any] = {}
    for keyword in [*a, *(keyword for keyword in b if keyword not in a)]:
        if keyword in _OBJECT:
            continue
        if keyword in a and keyword in b:
            _MET[keyword](found, keyword, a[keyword], b[keyword])
        else:
            found[keyword] = a.get(keyword, b.get(keyword))
    if "type" in a and "type" in b and not found["type"]:
        return False
    _meet_objects(found, a, b)
    return found


_OBJECT = ("properties", "additionalProperties", "patternProperties", LOOSE)


def _meet_types(found: dict[str, Any], keyword: str, a: Any, b: Any) -> None:
    both = (_types({"type": a}) or _ANY) & (_types({"type": b}) or _ANY)
    found[keyword] = _stated(both) if both else []


def _unsaid(found: dict[str, Any], keyword: str, a: Any, b: Any) -> None:
    """Two values of a keyword that are not said in one: an `allOf` that shapes do not read, and validators do."""
    found[keyword] = a
    if a != b:
        found.setdefault("allOf", []).append({keyword: b})


def _both(choose: Callable[[Any, Any], Any]) -> Callable[[dict[str, Any], str, Any, Any], None]:
    def met(found: dict[str, Any], keyword: str, a: Any, b: Any) -> None:
        found[keyword] = choose(a, b)

    return met


def _multiple(found: dict[str, Any], keyword: str, a: Any, b: Any) -> None:
    if isinstance(a, int) and isinstance(b, int):
        found[keyword] = lcm(a, b)
    else:
        _unsaid(found, keyword, a, b)


def _meet_formats(found: dict[str, Any], keyword: str, a: str, b: str) -> None:
    first, second = (b, a) if b in ("date-time", "date") else (a, b)  # the one that makes the column's type
    _unsaid(found, keyword, first, second)


_MET: dict[str, Callable[[dict[str, Any], str, Any, Any], None]] = {
    "type": _meet_types,
    "enum": _unsaid,
    "const": _unsaid,
    "pattern": _unsaid,
    "format": _meet_formats,
    "multipleOf": _multiple,
    "required": _both(lambda a, b: [*a, *(name for name in b if name not in a)]),
    "uniqueItems": _both(lambda a, b: a or b),
    "items": _both(lambda a, b: a if a == b else {"allOf": [a, b]}),
    "allOf": _both(lambda a, b: [*a, *b]),
    **{keyword: _both(max) for keyword in ("minimum", "exclusiveMinimum", "minLength", "minItems")},
    **{keyword: _both(min) for keyword in ("maximum", "exclusiveMaximum", "maxLength", "maxItems")},
}


def _meet_objects(found: dict[str, Any], a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    names = {**a.get("properties", {}), **b.get("properties", {})}
    properties = {name: _all_of(property_of(a, name), property_of(b, name)) for name in names}
    if properties or "properties" in a or "properties" in b:
        found["properties"] = properties
    beyond = _all_of(a.get("additionalProperties", True), b.get("additionalProperties", True))
    patterns = _meet_patterns(a, b)
    if patterns:
        found["patternProperties"] = patterns
    if beyond is not True:
        found["additionalProperties"] = beyond
    if loose := {*a.get(LOOSE, ()), *b.get(LOOSE, ())}:
        found[LOOSE] = sorted(loose)


def _meet_patterns(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """Patterns of either; where one is closed to what the other's patterns name, the closed one's rule is weakened.

    Invariant: what is weakened here concerns names that are no column; `shape` leaves those to the validator.
    """
    found = dict(a.get("patternProperties", {}))
    for pattern, below in b.get("patternProperties", {}).items():
        found[pattern] = _all_of(found.get(pattern, True), below)
    return found


def property_of(schema: Mapping[str, Any], name: str) -> Any:
    """What a plain schema says of a property, whether it names it or not."""
    patterns = [below for pattern, below in schema.get("patternProperties", {}).items() if matches(pattern, name)]
    if name in schema.get("properties", {}):
        return _all_of(schema["properties"][name], *patterns)
    return _all_of(*patterns) if patterns else schema.get("additionalProperties", True)


def matches(pattern: str, name: str) -> bool:
    """Whether `patternProperties` with this pattern applies to a name."""
    return re.search(pattern, name) is not None


def _all_of(*schemas: Any) -> Any:
    parts: list[Any] = []
    for schema in schemas:
        if schema is not True and schema != {} and schema not in parts:
            parts.append(schema)
    if any(part is False for part in parts):
        return False
    return True if not parts else parts[0] if len(parts) == 1 else {"allOf": parts}


def join(a: Any, b: Any) -> Any:
    """What values of either of two plain schemas satisfy."""
    if a is False or b is False:
        return b if a is False else a
    found: dict[str, Any] = {}
    if "type" in a and "type" in b:
        found["type"] = _stated((_types(a) or _ANY) | (_types(b) or _ANY))
    for keyword, weaker in _WEAKER.items():
        if keyword in a and keyword in b:
            found[keyword] = weaker(a[keyword], b[keyword])
    for keyword in ("format", "pattern", "multipleOf", "uniqueItems"):
        if keyword in a and a[keyword] == b.get(keyword):
            found[keyword] = a[keyword]
    first, second = _values(a), _values(b)
    if first is not None and second is not None:
        found["enum"] = [*first, *(value for value in second if not _among(value, first))]
    if "items" in a and "items" in b:
        found["items"] = _any_of(a["items"], b["items"])
    _join_objects(found, a, b)
    return found


_WEAKER: dict[str, Callable[[Any, Any], Any]] = {
    **{keyword: min for keyword in ("minimum", "exclusiveMinimum", "minLength", "minItems")},
    **{keyword: max for keyword in ("maximum", "exclusiveMaximum", "maxLength", "maxItems")},
}


def _among(value: Any, values: list[Any]) -> bool:
    return any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in values)


def _any_of(a: Any, b: Any) -> Any:
    return a if a == b else {JOINED: [a, b]}


def _join_objects(found: dict[str, Any], a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    """The properties of both. One that a branch neither names nor refuses is loose: there, it may be anything."""
    properties, loose = {}, {*a.get(LOOSE, ()), *b.get(LOOSE, ())}
    for name in {**a.get("properties", {}), **b.get("properties", {})}:
        one, other = property_of(a, name), property_of(b, name)
        if one is False or other is False:
            properties[name] = other if one is False else one
        elif one is True and name not in a.get("properties", {}):
            properties[name] = other
            loose.add(name)
        elif other is True and name not in b.get("properties", {}):
            properties[name] = one
            loose.add(name)
        else:
            properties[name] = _any_of(one, other)
    if properties:
        found["properties"] = properties
    if required := [name for name in a.get("required", ()) if name in b.get("required", ())]:
        found["required"] = required
    closed = a.get("additionalProperties") is False and b.get("additionalProperties") is False
    if closed and not a.get("patternProperties") and not b.get("patternProperties"):
        found["additionalProperties"] = False
    if loose:
        found[LOOSE] = sorted(loose)


def _met_with_union(found: Any, joined: Any) -> Any:
    """As `meet`; a property that is loose in the union is what is said of it beside the union, if that names it."""
    if found is False or joined is False or not joined:
        return meet(found, joined) if joined is False or found is False else found
    fixed = {name for name in joined.get(LOOSE, ()) if name in found.get("properties", {})}
    if fixed:
        properties = {name: below for name, below in joined["properties"].items() if name not in fixed}
        joined = {**joined, "properties": properties, LOOSE: [n for n in joined[LOOSE] if n not in fixed]}
        if joined.get("additionalProperties") is False:
            del joined["additionalProperties"]
    return meet(found, joined)
