"""A stream's schema, read from a JSON Schema file or a pydantic model: the one source of Arrow types and verdicts.

`schema_document` makes one document of a schema's files, `shape` makes of it what the others follow, `model` loads
pydantic.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from eagleray.cluster.events.arrow_types import arrow_schema
from eagleray.cluster.events.model import ModelReference, load_model
from eagleray.cluster.events.schema_document import read_document
from eagleray.cluster.events.shape import Shape, root_shape


@dataclass(frozen=True)
class EventSchema:
    """How events of a stream look. Can be pickled: a pydantic model travels by reference.

    `arrow` holds one column per property: string, int64, double, bool, timestamp[us, UTC] (format date-time), date32
    (format date), list, struct; what has no fixed shape is JSON text (string, field metadata `{b"json": b"1"}`).
    """

    arrow: pa.Schema
    document: dict[str, Any]  # the JSON Schema, as `schema_document` writes it
    model: ModelReference | None = None  # the arbiter, besides the document, where the schema is a pydantic model

    @cached_property
    def _shape(self) -> Shape:
        return root_shape("schema", self.document)

    def shape(self) -> Shape:
        """What an event looks like, references resolved."""
        return self._shape


def load_schema(where: str, reference: str, base: Path) -> EventSchema:
    """Read `reference` (a file below `base`, `file#/a/part`, or `module:Model`); raises ConfigError at `where`."""
    name, _, fragment = reference.partition("#")
    if ":" in reference and not (base / name).exists():
        model = ModelReference(reference, str(base))
        given = load_model(where, model).model_json_schema(by_alias=True, mode="validation")
        _, document = read_document(where, base / "model", given=given)
        return EventSchema(arrow_schema(root_shape(where, document)), document, model)
    where, document = read_document(where, base / name, fragment)
    return EventSchema(arrow_schema(root_shape(where, document)), document)
