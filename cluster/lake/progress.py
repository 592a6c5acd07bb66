"""How far a table is, kept in the table itself: the property `eagleray.progress`, set together with the data it covers.

Pure functions over text and maps. The keys are those of `actors.messages.Progress`: `p<n>` → offset of the first record
that is not covered; `closed` → closing time of the last closed windows; `w<n>` (`late` alone) → the watermark there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

PROPERTY = "eagleray.progress"
"""Table property and snapshot summary key. The property survives the expiry of snapshots and compaction."""

MARKS = "eagleray.marks"
"""Table property: by partition, the mark (`log.lineage.mark`) of the last record that the progress covers."""

NEVER = -(2**62)
"""`closed` of a table whose windows were never closed."""

CLOSED = "closed"
"""The progress key of a window's table."""


def watermark_key(partition: int) -> str:
    """The key in `late`: the partition's watermark after the records below its `p<n>`."""
    return f"w{partition}"


def decode(properties: Mapping[str, str], key: str = PROPERTY) -> dict[str, int]:
    """The progress (or the marks) in a table's properties; empty before the first commit."""
    return dict(json.loads(properties.get(key, "{}")))


def encode(progress: Mapping[str, int]) -> str:
    """The text of the property."""
    return json.dumps(dict(progress), sort_keys=True, separators=(",", ":"))


def standing(progress: Mapping[str, int], keys: Mapping[str, int]) -> dict[str, int]:
    """Where the table stands on `keys`; what was never committed stands at 0 (`closed`, watermarks: at NEVER)."""
    return {key: progress.get(key, 0 if key.startswith("p") else NEVER) for key in keys}


def check_step(begins: Mapping[str, int], ends: Mapping[str, int]) -> None:
    """Raise ValueError unless `ends` has the keys of `begins`, goes back nowhere, and forward somewhere."""
    if begins.keys() != ends.keys() or any(ends[key] < begins[key] for key in begins) or dict(begins) == dict(ends):
        raise ValueError(f"progress cannot go from {dict(begins)} to {dict(ends)}")
