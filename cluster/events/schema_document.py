"""One document out of the files of a schema: draft 2020-12, every reference within it, nothing that asserts nothing.

Called by `schema`; `shape` and `validator` rely on every promise made here. Whatever dialect a file is written in
(`schema_dialects`), what it says is said here in the words of one. What cannot be said is refused, never ignored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from referencing.exceptions import NoSuchAnchor, NoSuchResource, Unresolvable
from referencing.jsonschema import DynamicAnchor, lookup_recursive_ref

from eagleray.cluster.errors import ConfigError
from eagleray.cluster.events.formats import FORMATS
from eagleray.cluster.events.patterns import python_pattern
from eagleray.cluster.events.schema_dialects import Dialect, of_description
from eagleray.cluster.events.schema_files import Place, SchemaFiles, pointer

_COPIED = frozenset(
    "type enum const maximum minimum multipleOf maxLength minLength maxItems minItems uniqueItems required "
    "maxProperties minProperties dependentRequired maxContains minContains".split()
)
_ONE = frozenset(
    "additionalProperties not if then else contains propertyNames unevaluatedItems unevaluatedProperties".split()
)
_SEVERAL = frozenset("allOf anyOf oneOf prefixItems".split())
_BY_NAME = frozenset("properties dependentSchemas".split())
Scope = tuple[tuple[str, str], ...]
"""By dynamic anchor, the outermost document on the way here that has it."""
LookUp = Callable[[Any, str], Any]  # by a resolver, of a reference


def _as_written(resolver: Any, reference: str) -> Any:
    return resolver.lookup(reference)


def lookup(document: dict[str, Any], reference: str) -> Any:
    """What a reference of a document made here (`#`, `#/$defs/x`) points at; raises KeyError where there is nothing."""
    found: Any = document
    for part in reference.removeprefix("#").split("/")[1:]:
        found = found[part.replace("~1", "/").replace("~0", "~")]
    return found


def read_document(
    where: str, file: Path, fragment: str = "", given: dict[str, Any] | None = None
) -> tuple[str, dict[str, Any]]:
    """The schema in `file` (or the part of it that `fragment`, such as `/components/schemas/X`, names).

    `given` is what is in the file, where there is none. With it `where` with the file named. Raises ConfigError that
    names file and JSON pointer.
    """
    files = SchemaFiles(where, file, given)
    where = f"{where}: {file.name}"
    try:
        contents, resolver = files.root(fragment)
    except Unresolvable:
        raise ConfigError(where, f"nothing at #{fragment}") from None
    if (dialect := of_description(contents)) is not None:
        raise ConfigError(where, _which(file, contents, dialect))
    try:
        return where, Writer(files, contents).document(resolver)
    except RecursionError:
        raise ConfigError(where, "is nested too deeply to be a schema") from None
    except (AttributeError, TypeError, ValueError) as error:  # a reference leads to what no draft's own schema looks at
        raise ConfigError(where, f"not a JSON Schema: {error}") from None


def _which(file: Path, contents: dict[str, Any], dialect: Dialect) -> str:
    found = contents.get("components", {}).get("schemas") or contents.get("definitions") or {}
    path = "/definitions/" if "swagger" in contents else "/components/schemas/"
    names = ", ".join(sorted(found)[:10]) or "none"
    return f"describes an API; name one of its schemas: {file.name}#{path}NAME (it has {names})"


class Writer:
    """Writes one document."""

    def __init__(self, files: SchemaFiles, root: Any) -> None:
        """`root` is the schema of an event, a part of one of `files`."""
        self._files = files
        self._root = root
        self._names: dict[tuple[int, Scope], str] = {}  # of definitions, by id() of what they are made of, and scope
        self._defs: dict[str, Any] = {}

    def document(self, resolver: Any) -> dict[str, Any]:
        """The whole of it; raises ConfigError."""
        if not isinstance(self._root, dict):
            raise ConfigError(self._files.where, f"expected a JSON object, found {type(self._root).__name__}")
        self._within = (id(self._root), self._scope(resolver))
        found = self._schema(self._root, resolver, self._files.places[id(self._root)])
        document = {**found, "$defs": self._defs} if self._defs else found
        if circle := _circle({"#": found, **{pointer("$defs", name): part for name, part in self._defs.items()}}):
            raise ConfigError(self._files.where, f"its references lead in a circle: {' → '.join(circle)}")
        return document

    def _schema(self, schema: Any, resolver: Any, above: Place) -> Any:
        if isinstance(schema, bool):
            return schema
        place = self._files.place(schema, above)
        if not isinstance(schema, dict):
            raise ConfigError(str(place), f"expected a schema, found {type(schema).__name__}")
        dialect = place.dialect
        resolver = resolver.in_subresource(dialect.specification.create_resource(schema))
        known = {keyword: schema[keyword] for keyword in schema if keyword in dialect.keywords}
        if "$ref" in known and dialect.lone_reference:
            known = {keyword: known[keyword] for keyword in ("$ref", "nullable") if keyword in known}
        found: dict[str, Any] = {}
        for keyword in known:
            self._write(found, keyword, known, _Here(self, place, resolver))
        return _nullable(found) if known.get("nullable") is True else found

    def _write(self, found: dict[str, Any], keyword: str, known: dict[str, Any], here: _Here) -> None:
        value = known[keyword]
        if keyword in _COPIED:
            found.setdefault(keyword, value)
        elif keyword in _ONE:
            found[keyword] = here.schema(value)
        elif keyword in _SEVERAL:
            found.setdefault(keyword, []).extend(here.schema(below) for below in value)
        elif keyword in _BY_NAME:
            found.setdefault(keyword, {}).update((name, here.schema(below)) for name, below in value.items())
        elif keyword in _WRITTEN:
            _WRITTEN[keyword](found, value, known, here)

    def reference(self, reference: str, resolver: Any, place: Place, look_up: LookUp) -> str:
        """The reference within the document that stands for one as written; raises ConfigError."""
        try:
            try:
                target = look_up(resolver, reference)
            except Unresolvable:
                target = self._files.beside(reference, place)
        except Exception as error:  # what the look-up raised is in what `referencing` raises
            raise _unresolved(self._files, reference, place, error) from None
        key = id(target.contents), self._scope(target.resolver)
        if key == self._within:
            return "#"
        if key not in self._names:
            if not isinstance(target.contents, dict | bool):
                raise ConfigError(f"{place}/$ref", f"{reference} is not a schema")
            name = self._names[key] = self._name(reference)
            self._defs[name] = True  # so that its place is its own; what it holds may lead back to it
            self._defs[name] = self._schema(target.contents, target.resolver, place)
        return pointer("$defs", self._names[key])

    def _name(self, reference: str) -> str:
        """A name for a definition: the last part of what refers to it, and a number where that is taken."""
        stem = re.sub(r"[^A-Za-z0-9_-]", "_", reference.rstrip("/#").rpartition("/")[2].rpartition("#")[2]) or "part"
        name, taken = stem, set(self._names.values())
        for number in range(2, len(taken) + 3):
            if name not in taken:
                break
            name = f"{stem}_{number}"
        return name

    def _scope(self, resolver: Any) -> Scope:
        """What the dynamic references below would find here: a schema is written once for each."""
        names = {part["$dynamicAnchor"] for part in self._files.parts() if isinstance(part.get("$dynamicAnchor"), str)}
        frames = [(uri, registry) for uri, registry in resolver.dynamic_scope()]
        found: list[tuple[str, str]] = []
        for name in sorted(names):
            outermost = [uri for uri, registry in frames if _is_dynamic(registry, uri, name)][-1:]
            found += [(name, uri) for uri in outermost]
        if any(part.get("$recursiveAnchor") is True for part in self._files.parts()):
            found.append(("", str(id(lookup_recursive_ref(resolver).contents))))
        return tuple(found)


def _circle(parts: Mapping[str, Any]) -> list[str] | None:
    """References that lead back to where they began without a step into a value: no value could ever be judged."""
    leads = {place: sorted(_leads(part)) for place, part in parts.items()}
    done: set[str] = set()
    for start in parts:
        path, branches = [start], [iter(leads[start])]
        while branches:
            further = next(branches[-1], None)
            if further is None:
                branches.pop()
                done.add(path.pop())
            elif further in path:
                return [*path[path.index(further) :], further]
            elif further not in done:
                path.append(further)
                branches.append(iter(leads[further]))
    return None


def _leads(schema: Any) -> set[str]:
    """The references that a schema applies to the very value that it is applied to."""
    if not isinstance(schema, dict):
        return set()
    below = [schema[keyword] for keyword in ("not", "if", "then", "else") if keyword in schema]
    below += [part for keyword in ("allOf", "anyOf", "oneOf") for part in schema.get(keyword, [])]
    below += schema.get("dependentSchemas", {}).values()
    own = {schema["$ref"]} if "$ref" in schema else set()
    return own.union(*map(_leads, below))


def _is_dynamic(registry: Any, uri: str, name: str) -> bool:
    try:
        return isinstance(registry.anchor(uri, name).value, DynamicAnchor)
    except (NoSuchAnchor, NoSuchResource):
        return False


class _Here:
    """Where something is written."""

    def __init__(self, writer: Writer, place: Place, resolver: Any) -> None:
        self.writer = writer
        self.place = place
        self._resolver = resolver

    def schema(self, below: Any) -> Any:
        return self.writer._schema(below, self._resolver, self.place)

    def reference(self, reference: str, look_up: LookUp = _as_written) -> str:
        return self.writer.reference(reference, self._resolver, self.place, look_up)

    def refuse(self, keyword: str, problem: str) -> ConfigError:
        base = str(self.place) if self.place.pointer != "#" else f"{self.place.file}#"
        return ConfigError(f"{base}{pointer(keyword)[1:]}", problem)


def _unresolved(files: SchemaFiles, reference: str, place: Place, error: BaseException) -> ConfigError:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConfigError | RecursionError):
            return cause if isinstance(cause, ConfigError) else ConfigError(str(place), "leads too deep")
        cause = cause.__cause__
    where = f"{place}/$ref" if place.pointer != "#" else f"{place.file}#/$ref"
    if "://" in reference and not reference.startswith("file:"):
        return ConfigError(
            where, f"{reference} is not fetched; expected a file with this $id below {files.file.resolve().parent}"
        )
    return ConfigError(where, f"nothing at {reference}")


def _reference(found: dict[str, Any], value: str, known: dict[str, Any], here: _Here) -> None:
    _refer(found, here.reference(value))


def _refer(found: dict[str, Any], reference: str) -> None:
    if found.setdefault("$ref", reference) != reference:
        found.setdefault("allOf", []).append({"$ref": reference})


def _recursive(found: dict[str, Any], value: str, known: dict[str, Any], here: _Here) -> None:
    _refer(found, here.reference(value, lambda resolver, _: lookup_recursive_ref(resolver)))


def _items(found: dict[str, Any], value: Any, known: dict[str, Any], here: _Here) -> None:
    if not isinstance(value, list):
        found["items"] = here.schema(value)
        return
    if value:
        found["prefixItems"] = [here.schema(below) for below in value]
    if "additionalItems" in known:
        found["items"] = here.schema(known["additionalItems"])


def _dependencies(found: dict[str, Any], value: dict[str, Any], known: dict[str, Any], here: _Here) -> None:
    for name, needed in value.items():
        if isinstance(needed, list):
            found["dependentRequired"] = {**found.get("dependentRequired", {}), name: needed}
        else:
            found.setdefault("dependentSchemas", {})[name] = here.schema(needed)


def _format(found: dict[str, Any], value: str, known: dict[str, Any], here: _Here) -> None:
    if value in FORMATS:  # any other is an annotation
        found["format"] = value


def _pattern(found: dict[str, Any], value: str, known: dict[str, Any], here: _Here) -> None:
    if problem := _pattern_problem(value):
        raise here.refuse("pattern", problem)
    found["pattern"] = value


def _patterns(found: dict[str, Any], value: dict[str, Any], known: dict[str, Any], here: _Here) -> None:
    for pattern in value:
        if problem := _pattern_problem(pattern):
            raise here.refuse("patternProperties", problem)
    # in Python's dialect: the validator, which matches names in several keywords, knows no other
    found["patternProperties"] = {python_pattern(pattern): here.schema(below) for pattern, below in value.items()}


def _pattern_problem(pattern: str) -> str | None:
    try:
        python_pattern(pattern)
    except re.error as error:
        return f"not a regular expression: {error}"
    return None


def _exclusive(bound: str, keyword: str) -> Callable[[dict[str, Any], Any, dict[str, Any], _Here], None]:
    """Draft 04 and OpenAPI 3.0 say `exclusiveMinimum: true` beside the minimum."""

    def write(found: dict[str, Any], value: Any, known: dict[str, Any], here: _Here) -> None:
        if not isinstance(value, bool):
            found[keyword] = value
        elif value and bound in known:
            found[keyword] = known[bound]

    return write


_WRITTEN: dict[str, Callable[[dict[str, Any], Any, dict[str, Any], _Here], None]] = {
    "$ref": _reference,
    "$dynamicRef": _reference,
    "$recursiveRef": _recursive,
    "items": _items,
    "dependencies": _dependencies,
    "format": _format,
    "pattern": _pattern,
    "patternProperties": _patterns,
    "exclusiveMinimum": _exclusive("minimum", "exclusiveMinimum"),
    "exclusiveMaximum": _exclusive("maximum", "exclusiveMaximum"),
}


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """OpenAPI's `nullable`: null passes as well, whatever else the schema says."""
    types = schema.get("type")
    plain = set(schema) <= {"type", "format", "enum", "items", "properties", "required", "additionalProperties"}
    if isinstance(types, str) and plain:
        found = {**schema, "type": [types, "null"]}
        return {**found, "enum": [*schema["enum"], None]} if None not in schema.get("enum", [None]) else found
    return {"anyOf": [schema, {"type": "null"}]} if schema else {}
