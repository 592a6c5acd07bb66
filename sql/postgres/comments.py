"""What tables and columns are, in a sentence each, for the lists that SQL tools show.

A comment that a table carries itself (Iceberg's `doc`, the property `comment`) comes first; then the `description` in
the stream's JSON Schema; then what every stream's tables have in common.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from eagleray.cluster.config import Config
from eagleray.cluster.quantities import format_duration
from eagleray.cluster.sections import WindowConfig

_TABLES = {
    "events": "Every accepted event of the stream, once.",
    "dead_letters": "Events that were rejected, as they came, with the reason.",
    "late": "Events that came after their window was final, one row for each window missed.",
}
_COLUMNS = {
    "_ingested_at": "When the event was accepted (UTC).",
    "_source": "The API key that sent it.",
    "_partition": "Partition of the event log.",
    "_offset": "Offset of its record in that partition.",
    "_row": "Place in its record.",
    "_extra": "Fields that the schema does not name, as JSON.",
    "window_start": "Begin of the window, inclusive.",
    "window_end": "End of the window, exclusive.",
}


class Comments:
    """The comments of a project."""

    def __init__(self, config: Config) -> None:
        """Schemas are read when they are asked for."""
        self._config = config

    def table(self, namespace: str, name: str) -> str:
        """A table's comment; empty where nothing is known."""
        stream = self._config.streams.get(namespace)
        if stream is None:
            return ""
        window = stream.windows.get(name)
        return _window(window) if window else _TABLES.get(name, "")

    def column(self, namespace: str, table: str, name: str) -> str:
        """A column's comment; empty where nothing is known."""
        if namespace not in self._config.streams:
            return ""
        window = self._config.streams[namespace].windows.get(table)
        if window is not None and name in window.aggregate:
            return window.aggregate[name]
        return _COLUMNS.get(name) or self._described.get(namespace, {}).get(name, "")

    @cached_property
    def _described(self) -> Mapping[str, Mapping[str, str]]:
        folder = self._config.file.parent
        return {name: _descriptions(folder / stream.schema_) for name, stream in self._config.streams.items()}


def _window(window: WindowConfig) -> str:
    if window.session_gap is not None:
        kind = f"sessions that end after {format_duration(window.session_gap)} of silence"
    elif window.hop is not None and window.every is not None:
        kind = f"windows of {format_duration(window.hop)} every {format_duration(window.every)}"
    else:
        kind = f"windows of {format_duration(window.tumble or 0)}"
    by = f" by {', '.join(window.group_by)}" if window.group_by else ""
    return f"Final rows of {kind}{by}."


def _descriptions(file: Path) -> Mapping[str, str]:
    """The `description` of each property; none where the schema is no JSON Schema file that can be read."""
    try:
        properties: Any = json.loads(file.read_text()).get("properties", {})
        return {name: str(one["description"]) for name, one in properties.items() if "description" in one}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
