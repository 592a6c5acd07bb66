"""A stream's schema, read from a JSON Schema file or a pydantic model: the one source of Arrow types and verdicts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa


@dataclass(frozen=True)
class EventSchema:
    """How events of a stream look.

    `arrow` holds one column per property: string, int64, double, bool, timestamp[us, UTC] (format date-time), date32
    (format date), list, struct; what has no fixed shape is JSON text (string, field metadata `{b"json": b"1"}`).
    """

    arrow: pa.Schema
    document: dict[str, Any]  # the JSON Schema, references as written


def load_schema(where: str, reference: str, base: Path) -> EventSchema:
    """Read `reference` (a file below `base`, or `module:Model`); raises ConfigError at `where`."""
    raise NotImplementedError
