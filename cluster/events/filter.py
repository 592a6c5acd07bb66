"""Stream filters: a SQL predicate over one event, evaluated on whole batches."""

from __future__ import annotations

import pyarrow as pa


def check_filter(where: str, predicate: str, schema: pa.Schema) -> None:
    """Refuse a predicate that is not a deterministic boolean expression over the event's fields; raises ConfigError."""
    raise NotImplementedError
