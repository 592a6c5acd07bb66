"""The dialects of schemas: drafts 04 to 2020-12, OpenAPI 3.0. Which words each knows, and its own checks.

Called by `schema_files`, which finds a file's dialect, and `schema_document`, which says everything in 2020-12. A word
that a dialect does not know says nothing, as the standard has it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jsonschema
import referencing.jsonschema as drafts
from jsonschema.exceptions import ValidationError, best_match
from referencing import Specification

_DRAFT_4 = frozenset(
    "type enum maximum exclusiveMaximum minimum exclusiveMinimum multipleOf maxLength minLength pattern format "
    "items additionalItems maxItems minItems uniqueItems properties patternProperties additionalProperties required "
    "maxProperties minProperties dependencies allOf anyOf oneOf not $ref nullable".split()
)
_DRAFT_6 = _DRAFT_4 | {"const", "contains", "propertyNames"}
_DRAFT_7 = _DRAFT_6 | {"if", "then", "else"}
_DRAFT_2019 = _DRAFT_7 | frozenset(
    "dependentRequired dependentSchemas unevaluatedItems unevaluatedProperties maxContains minContains "
    "$recursiveRef".split()
)
_DRAFT_2020 = (_DRAFT_2019 - {"additionalItems", "$recursiveRef"}) | {"prefixItems", "$dynamicRef"}


@dataclass(frozen=True)
class Dialect:
    """A way to write a schema."""

    name: str
    keywords: frozenset[str]  # that it knows, and that say something of validity
    lone_reference: bool  # whether `$ref` hides what stands beside it
    specification: Specification[Any]  # how it names and finds parts of documents
    checker: Any  # of `jsonschema`: its own schema

    def problem(self, document: Any) -> ValidationError | None:
        """Why the document is no schema of this dialect; None where it is one."""
        errors = self.checker(self.checker.META_SCHEMA).iter_errors(document)
        found: ValidationError | None = best_match(error for error in errors if not _is_harmless(error))
        return found


def _is_harmless(error: ValidationError) -> bool:
    """Draft 04 wants at least one name in `required`; the world writes none where there is none."""
    return error.validator == "minItems" and list(error.absolute_path)[-1:] == ["required"]


DRAFT_2020 = "https://json-schema.org/draft/2020-12/schema"
DRAFT_7 = "http://json-schema.org/draft-07/schema"
_2020 = Dialect("2020-12", _DRAFT_2020, False, drafts.DRAFT202012, jsonschema.Draft202012Validator)
_2019 = Dialect("2019-09", _DRAFT_2019, False, drafts.DRAFT201909, jsonschema.Draft201909Validator)
_7 = Dialect("draft-07", _DRAFT_7, True, drafts.DRAFT7, jsonschema.Draft7Validator)
_6 = Dialect("draft-06", _DRAFT_6, True, drafts.DRAFT6, jsonschema.Draft6Validator)
_4 = Dialect("draft-04", _DRAFT_4, True, drafts.DRAFT4, jsonschema.Draft4Validator)
_OPENAPI = Dialect("OpenAPI 3.0", _DRAFT_4, True, drafts.DRAFT4, jsonschema.Draft4Validator)
_UNSTATED = (_2020, _7, _4)  # what a document without `$schema` may be: the newest that it is written well in

_BY_URI: Mapping[str, Dialect] = {
    "json-schema.org/draft/2020-12/schema": _2020,
    "json-schema.org/draft/2019-09/schema": _2019,
    "json-schema.org/draft-07/schema": _7,
    "json-schema.org/draft-06/schema": _6,
    "json-schema.org/draft-04/schema": _4,
    "json-schema.org/schema": _2020,
    "spec.openapis.org/oas/3.1/dialect/base": _2020,
    "iglucentral.com/schemas/com.snowplowanalytics.self-desc/schema/jsonschema/1-0-0": _4,
}
NAMES = f"{DRAFT_2020}, {DRAFT_7}#, one of the drafts 2019-09, 06 and 04, or that of a file beside it with this $id"


_VOCABULARIES: Mapping[str, frozenset[str]] = {
    "core": frozenset({"$ref", "$dynamicRef", "$recursiveRef"}),
    "applicator": frozenset(
        "prefixItems items additionalItems contains additionalProperties properties patternProperties dependencies "
        "dependentSchemas propertyNames if then else allOf anyOf oneOf not".split()
    ),
    "unevaluated": frozenset({"unevaluatedItems", "unevaluatedProperties"}),
    "validation": frozenset(
        "type enum const maximum exclusiveMaximum minimum exclusiveMinimum multipleOf maxLength minLength pattern "
        "maxItems minItems uniqueItems maxContains minContains maxProperties minProperties required dependentRequired "
        "nullable".split()
    ),
    "format": frozenset({"format"}),
    "format-annotation": frozenset({"format"}),
    "format-assertion": frozenset({"format"}),
    "content": frozenset(),
    "meta-data": frozenset(),
}
"""What each of the standard's vocabularies, of 2019-09 and 2020-12, says of validity."""
_VOCABULARY = re.compile(r"https://json-schema\.org/draft/20(?:19-09|20-12)/vocab/([a-z-]+)")


def of_own(base: Dialect, uri: str, vocabularies: Any) -> Dialect:
    """The dialect of a meta-schema of one's own, which is written in `base` and states these `$vocabulary`.

    As the standard has it, a vocabulary that is needed (`true`) and not known makes it no dialect that can be read:
    raises ValueError that names it. Keywords of vocabularies that are not stated are annotations.
    """
    if not isinstance(vocabularies, dict):
        return replace(base, name=uri)
    keywords = _VOCABULARIES["core"]
    for vocabulary, needed in vocabularies.items():
        match = _VOCABULARY.fullmatch(vocabulary)
        if match is not None and match[1] in _VOCABULARIES:
            keywords |= _VOCABULARIES[match[1]]
            if match[1] == "applicator" and "2019-09" in vocabulary:
                keywords |= _VOCABULARIES["unevaluated"]
        elif needed:
            raise ValueError(f"needs the vocabulary {vocabulary}, which is not known")
    return replace(base, name=uri, keywords=base.keywords & keywords)


def stated(document: Any) -> str | None:
    """The `$schema` of a schema; None: it has none."""
    found = document.get("$schema") if isinstance(document, dict) else None
    return found if isinstance(found, str) else None


def named(uri: str) -> Dialect | None:
    """The dialect of a `$schema`; None: of no known one."""
    return _BY_URI.get(uri.rstrip("#").partition("://")[2])


def of_description(document: Any) -> Dialect | None:
    """The dialect of the schemas in an OpenAPI or AsyncAPI document; None: it is none."""
    if not isinstance(document, dict):
        return None
    if isinstance(document.get("openapi"), str):
        return _OPENAPI if document["openapi"].startswith("3.0") else _2020
    if isinstance(document.get("swagger"), str):
        return _OPENAPI
    return _7 if isinstance(document.get("asyncapi"), str) else None


def unstated(document: Any) -> Dialect:
    """The dialect of a document that names none."""
    return next((dialect for dialect in _UNSTATED if dialect.problem(document) is None), _2020)
