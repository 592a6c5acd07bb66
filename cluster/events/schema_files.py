"""The files that a schema is made of: read once each, checked, and found by what a `$ref` says. Nothing is fetched.

Called by `schema_document`. `referencing` resolves `$id`, anchors and pointers; this module finds the file: by the
`$id` of a file read before, by its place beside the file that refers to it (or above), or by the `$id` of any there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import yaml
from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]
from referencing import Registry, Resource
from referencing.exceptions import NoSuchResource, Unresolvable

from eagleray.cluster.errors import ConfigError
from eagleray.cluster.events.schema_dialects import NAMES, Dialect, named, of_description, of_own, stated, unstated

FILES_MAX = 2_000  # of a directory that are looked at for a `$id`
LEVELS_MAX = 4  # directories above a file in which a relative reference is looked for, if there is nothing beside it
_DATA = frozenset({"const", "enum", "default", "example", "examples"})  # what is below them is no schema
_TYPES = "array, boolean, integer, null, number, object or string"
_ENDINGS = ("", ".json", ".schema.json", ".yaml", ".yml")


def pointer(*parts: object) -> str:
    """A JSON pointer as a fragment: `#/properties/a~1b`."""
    return "#" + "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


@dataclass(frozen=True)
class Place:
    """Where a part of a schema stands."""

    file: str  # as messages name it
    pointer: str
    path: Path | None  # None: of a document that comes with the standard
    dialect: Dialect

    def __str__(self) -> str:
        return f"{self.file}{self.pointer}" if self.pointer != "#" else self.file


def read_file(where: str, file: Path) -> Any:
    """What is in a JSON or YAML file; raises ConfigError."""
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix in (".yaml", ".yml"):
            return yaml.load(text, _Plain)
        return json.loads(text, parse_float=_finite, parse_constant=_finite)
    except FileNotFoundError:
        raise ConfigError(where, f"no such file: {file}; expected a JSON Schema or module:PydanticModel") from None
    except OSError as error:
        raise ConfigError(where, f"{file} is not readable: {error.strerror}") from None
    except (ValueError, yaml.YAMLError) as error:
        kind = "YAML" if file.suffix in (".yaml", ".yml") else "JSON"
        raise ConfigError(where, f"{file} is not {kind}: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ConfigError(where, f"{file} is nested too deeply to be a schema") from None


class _Plain(yaml.SafeLoader):
    """YAML with the values of JSON, as of YAML 1.2: dates stay text, and so do `on` and `no`."""


_Plain.yaml_implicit_resolvers = {
    first: [(tag, rule) for tag, rule in rules if tag.rpartition(":")[2] not in ("timestamp", "bool")]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Plain.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("true|false|True|False|TRUE|FALSE"), list("tfTF"))


def _finite(text: str) -> float:
    if not isfinite(number := float(text)):
        raise ValueError(f"{text} is not a number that can be held")
    return number


@dataclass
class SchemaFiles:
    """The files of one schema, `where` being the setting that names it."""

    where: str
    file: Path
    given: Any = None  # what is in the file, where it is none
    places: dict[int, Place] = field(default_factory=dict)  # by id(): of every object and array that was read
    _paths: dict[Path, Resource[Any]] = field(default_factory=dict)
    _ids: dict[str, Resource[Any]] = field(default_factory=dict)  # Invariant: every `$id` of every file in _paths
    _reading: Path | None = None  # the file whose places are noted
    _kept: list[Any] = field(default_factory=list)  # keeps alive what `places` names by id()
    _own: dict[str, Dialect] = field(default_factory=dict)  # by the `$schema` that a file here answers
    _asked: set[str] = field(default_factory=set)
    _roots: list[tuple[str, Path]] = field(default_factory=list)  # the `$id` of each file that has one

    def root(self, fragment: str) -> tuple[Any, Any]:
        """The schema itself, or the part of the file that `fragment` names, and its resolver; raises ConfigError."""
        path = self.file.resolve()
        resource = self._load(path)
        resolver = self.registry().resolver(path.as_uri()).in_subresource(resource)
        if not fragment:
            return resource.contents, resolver
        found = resolver.lookup("#" + fragment)
        return found.contents, found.resolver

    def beside(self, reference: str, place: Place) -> Any:
        """What a relative reference names by its file: beside the one that refers to it, or in a directory above.

        So it is meant where files have an `$id` that is no address. Raises Unresolvable where there is no such file.
        """
        name, _, fragment = reference.partition("#")
        if name and place.path is not None and not urlsplit(name).scheme:
            above = place.path.parent
            for directory in (above, *list(above.parents)[:LEVELS_MAX]):
                for path in _with_endings(directory / unquote(name).lstrip("/")):
                    if path.is_file():
                        self._load(path.resolve())
                        return self.registry().resolver(path.resolve().as_uri()).lookup("#" + fragment)
        raise Unresolvable(ref=reference)

    def registry(self) -> Registry[Any]:
        """What finds every document by its address."""
        path = self.file.resolve()
        self._load(path)
        resources = [(path.as_uri(), resource) for path, resource in self._paths.items()]
        found: Registry[Any] = Registry(retrieve=self._retrieve).with_resources(resources)  # type: ignore[call-arg]
        return found

    def place(self, part: Any, fallback: Place) -> Place:
        """Where a part stands; booleans have no place of their own."""
        return self.places.get(id(part), fallback)

    def parts(self) -> Iterator[dict[str, Any]]:
        """Every object in every file that was read so far."""
        return (part for part in self._kept if isinstance(part, dict))

    def _load(self, path: Path) -> Resource[Any]:
        if path in self._paths:
            return self._paths[path]
        own = self.given is not None and path == self.file.resolve()
        document = self.given if own else read_file(self.where, path)
        name = self._name(path)
        dialect = self._dialect(name, document)
        self._reading = path
        resource = self._adopt(name, path.as_uri(), document, dialect)
        self._paths[path] = resource
        if address := resource.id():
            self._roots.append((urljoin(path.as_uri(), address), path))
        return resource

    def _name(self, path: Path) -> str:
        above = self.file.resolve().parent
        return f"{self.where}: {path.relative_to(above) if path.is_relative_to(above) else path}"

    def _adopt(self, name: str, uri: str, document: Any, dialect: Dialect) -> Resource[Any]:
        try:
            self._note(name, document, (), dialect)
        except RecursionError:
            raise ConfigError(name, "is nested too deeply to be a schema") from None
        resource = dialect.specification.create_resource(document)
        for address, below in _named_resources(resource, uri):
            self._ids.setdefault(address, below)
        return resource

    def _dialect(self, name: str, document: Any) -> Dialect:
        """The document's dialect, by whose own schema it is a schema; raises ConfigError."""
        if not isinstance(document, dict | bool):
            raise ConfigError(name, f"expected a JSON object, found {type(document).__name__}")
        if (described := of_description(document)) is not None:
            return described
        try:
            dialect = self._stated(name, document) or unstated(document)
            problem = dialect.problem(document)
        except RecursionError:
            raise ConfigError(name, "is nested too deeply to be a schema") from None
        if problem is not None:
            found = problem.message
            if [*problem.absolute_path][-1:] == ["type"] and problem.context:
                found = f"{problem.instance!r} is no type; expected {_TYPES}, or a list of these"
            raise ConfigError(name + pointer(*problem.absolute_path), f"not a JSON Schema: {found}")
        return dialect

    def _stated(self, place: str, part: Any) -> Dialect | None:
        """The dialect that a part's `$schema` names, perhaps that of a file; None: it names none. Raises ConfigError.

        One of one's own is what the meta-schema with this `$id` is written in, as far as its `$vocabulary` goes.
        """
        if not isinstance(part, dict) or "$schema" not in part:
            return None
        uri = stated(part)
        if uri is not None and (known := named(uri) or self._own.get(uri.rstrip("#"))) is not None:
            return known
        where = f"{place}{'' if '#' in place else '#'}/$schema"
        unsupported = ConfigError(where, f"{part['$schema']!r} is not supported; expected {NAMES}")
        if uri is None or uri.rstrip("#") in self._asked:
            raise unsupported
        self._asked.add(uri.rstrip("#"))  # one that is written in itself has no dialect
        reading = self._reading
        try:
            found = self._retrieve(uri.rstrip("#")).contents
        except NoSuchResource:
            raise unsupported from None
        base = self._stated(uri, found)
        try:
            own = of_own(base or unstated(found), uri, found.get("$vocabulary"))
        except ValueError as error:
            raise ConfigError(where, f"{uri} {error}") from None
        self._own[uri.rstrip("#")], self._reading = own, reading
        return own

    def _note(self, name: str, part: Any, path: tuple[object, ...], dialect: Dialect) -> None:
        if isinstance(part, dict):
            if isinstance(part.get("$id"), str) and not _DATA & set(path):  # a resource of its own
                dialect = self._stated(f"{name}{pointer(*path)}" if path else name, part) or dialect
            elif (uri := stated(part)) is not None:
                dialect = named(uri) or dialect
            below: Any = part.items()
        elif isinstance(part, list):
            below = enumerate(part)
        else:
            return
        self.places[id(part)] = Place(name, pointer(*path), self._reading, dialect)
        self._kept.append(part)
        for key, value in below:
            self._note(name, value, (*path, key), dialect)

    def _retrieve(self, uri: str) -> Resource[Any]:
        """The document at an absolute address; raises NoSuchResource, or ConfigError where it is no schema."""
        if uri in self._ids:
            return self._ids[uri]
        for path in self._candidates(uri):
            if path.is_file():
                return self._load(path.resolve())
        if (specification := REGISTRY.get(uri)) is not None:
            dialect = named(str(specification.contents.get("$schema", ""))) or unstated({})
            self._reading = None
            return self._adopt(uri, uri, specification.contents, dialect)
        if (found := self._beside(uri)) is not None:
            self._load(found)
            return self._ids[uri]
        raise NoSuchResource(uri)

    def _candidates(self, uri: str) -> Iterator[Path]:
        """Files that may be at this address: beside those whose own address is known, or further up."""
        address = urlsplit(uri)
        if address.scheme == "file":
            yield from _with_endings(Path(unquote(address.path)))
        for known, path in self._roots:
            own = urlsplit(known)
            if (own.scheme, own.netloc) == (address.scheme, address.netloc):
                above = PurePosixPath(own.path).parent
                if PurePosixPath(address.path).is_relative_to(above):
                    yield from _with_endings(path.parent / PurePosixPath(address.path).relative_to(above))

    def _beside(self, uri: str) -> Path | None:
        """The file below the schema's directory that has this `$id`."""
        for at, path in enumerate(sorted(self.file.resolve().parent.rglob("*.json"))):
            if at == FILES_MAX:
                return None
            try:
                document = json.loads(path.read_bytes())
            except (OSError, ValueError, RecursionError):
                continue
            found = (document.get("$id") or document.get("id")) if isinstance(document, dict) else None
            if isinstance(found, str) and urljoin(path.as_uri(), found).rstrip("#") == uri:
                return path
        return None


def _with_endings(path: Path) -> Iterator[Path]:
    return (path.with_name(path.name + ending) for ending in _ENDINGS if path.name)


def _named_resources(resource: Resource[Any], base: str) -> Iterator[tuple[str, Resource[Any]]]:
    """The resource and those within it, each by its address."""
    address = resource.id() if isinstance(resource.contents, dict) else None
    if address:
        base = urljoin(base, address).rstrip("#")
        yield base, resource
    if isinstance(resource.contents, dict):
        for below in resource.subresources():
            yield from _named_resources(below, base)
