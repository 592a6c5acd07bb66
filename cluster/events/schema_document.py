"""Reading a JSON Schema document: draft 2020-12 or draft-07, keywords that are held, references that resolve.

Called by `schema`; `shape` may rely on every promise made here. An unsupported keyword is refused, never ignored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import Any

import jsonschema
from jsonschema.exceptions import SchemaError

from eagleray.cluster.errors import ConfigError
from eagleray.cluster.events.formats import FORMATS
from eagleray.cluster.events.patterns import python_pattern

ANNOTATIONS = frozenset(
    "title description default examples $comment $schema $id $defs definitions deprecated readOnly writeOnly "
    "contentEncoding contentMediaType discriminator".split()
)
"""Keywords that say nothing about validity."""

ASSERTIONS = frozenset(
    "type enum const minimum maximum exclusiveMinimum exclusiveMaximum multipleOf minLength maxLength pattern format "
    "items minItems maxItems uniqueItems properties required additionalProperties $ref anyOf oneOf".split()
)
"""Keywords that are held."""

DRAFT_7 = "http://json-schema.org/draft-07/schema"
DRAFT_2020 = "https://json-schema.org/draft/2020-12/schema"


def is_annotation(keyword: str) -> bool:
    """Whether the keyword may be passed over."""
    return keyword in ANNOTATIONS or keyword.startswith("x-")


def is_draft_7(document: dict[str, Any]) -> bool:
    """Whether the document asks for draft-07; 2020-12 is the default."""
    return str(document.get("$schema", "")).rstrip("#") == DRAFT_7


def pointer(*parts: object) -> str:
    """A JSON pointer as a fragment: `#/properties/a~1b`."""
    return "#" + "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def lookup(document: dict[str, Any], reference: str) -> Any:
    """What a local reference (`#/$defs/x`) points at; raises KeyError where there is nothing."""
    found: Any = document
    for part in reference.removeprefix("#").split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~").replace("%25", "%").replace("%22", '"')
        try:
            found = found[int(name)] if isinstance(found, list) else found[name]
        except (KeyError, IndexError, ValueError, TypeError):
            raise KeyError(reference) from None
    return found


def read_document(where: str, file: Path) -> tuple[str, dict[str, Any]]:
    """The document in `file`, and `where` with the file named; raises ConfigError that names file and JSON pointer."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"), parse_float=_finite, parse_constant=_finite)
    except FileNotFoundError:
        raise ConfigError(where, f"no such file: {file}; expected a JSON Schema or module:PydanticModel") from None
    except (OSError, ValueError) as error:
        raise ConfigError(where, f"{file} is not JSON: {error}") from None
    where = f"{where}: {file.name}"
    check_document(where, document)
    return where, document


def _finite(text: str) -> float:
    if not isfinite(number := float(text)):
        raise ValueError(f"{text} is not a number that can be held")
    return number


def check_document(where: str, document: Any) -> None:
    """Refuse what is not a supported JSON Schema for events; raises ConfigError."""
    if not isinstance(document, dict):
        raise ConfigError(where, f"expected a JSON object, found {type(document).__name__}")
    draft = document.get("$schema", DRAFT_2020)
    if not isinstance(draft, str) or draft.rstrip("#") not in (DRAFT_7, DRAFT_2020):
        raise ConfigError(f"{where}#/$schema", f"{draft!r} is not supported; expected {DRAFT_2020} or {DRAFT_7}#")
    validator = jsonschema.Draft7Validator if is_draft_7(document) else jsonschema.Draft202012Validator
    try:
        validator.check_schema(document)
    except SchemaError as error:
        raise ConfigError(where + pointer(*error.absolute_path), f"not a JSON Schema: {error.message}") from None
    for path, schema in subschemas(document, ()):
        if isinstance(schema, dict):
            _check_keywords(where, document, path, schema)


def subschemas(schema: Any, path: tuple[object, ...]) -> Iterator[tuple[tuple[object, ...], Any]]:
    """`schema` and every schema within it, each with its path."""
    yield path, schema
    if not isinstance(schema, dict):
        return
    for keyword in ("properties", "$defs", "definitions"):
        for name, below in schema.get(keyword, {}).items():
            yield from subschemas(below, (*path, keyword, name))
    for keyword in ("items", "additionalProperties"):
        if keyword in schema and not isinstance(schema[keyword], list):
            yield from subschemas(schema[keyword], (*path, keyword))
    for keyword in ("anyOf", "oneOf"):
        for at, below in enumerate(schema.get(keyword, [])):
            yield from subschemas(below, (*path, keyword, at))


def _check_keywords(where: str, document: dict[str, Any], path: tuple[object, ...], schema: dict[str, Any]) -> None:
    def refuse(keyword: str, problem: str) -> ConfigError:
        return ConfigError(where + pointer(*path, keyword), problem)

    for keyword in schema:
        if keyword not in ASSERTIONS and not is_annotation(keyword):
            raise refuse(keyword, f"the keyword {keyword!r} is not supported; see docs/schemas.md for those that are")
    if path and "$id" in schema:
        raise refuse("$id", "is supported at the top of the document only")
    if isinstance(schema.get("items"), list):
        raise refuse("items", "a list of schemas is not supported; expected one schema for every item")
    if schema.get("format", "date") not in FORMATS:
        raise refuse("format", f"{schema['format']!r} is not supported; expected one of {', '.join(FORMATS)}")
    if problem := _pattern_problem(schema.get("pattern", "")):
        raise refuse("pattern", problem)
    if problem := _reference_problem(document, schema.get("$ref", "#")):
        raise refuse("$ref", problem)


def _pattern_problem(pattern: str) -> str | None:
    try:
        python_pattern(pattern)
    except re.error as error:
        return f"not a regular expression: {error}"
    return None


def _reference_problem(document: dict[str, Any], reference: str) -> str | None:
    if reference != "#" and not reference.startswith("#/"):
        return f"{reference!r} is not supported; expected a reference within the document, such as #/$defs/name"
    try:
        target = lookup(document, reference)
    except KeyError:
        return f"nothing at {reference}"
    return None if isinstance(target, dict | bool) else f"{reference} is not a schema"
