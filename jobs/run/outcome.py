"""How an attempt ended: an Outcome, or a Failure that says whether another attempt may mend it. Plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["wrong", "checks", "failed", "timeout", "memory", "killed"]
"""Why an attempt failed: the job is wrong as written; its checks found bad rows; it raised; it took too long; it took
too much memory; its process died of something else."""


@dataclass(frozen=True)
class Outcome:
    """A published result. `inputs`: by table, the snapshot that was read and how far a stream's table was."""

    rows: int
    bytes: int
    files: int
    snapshot_id: int | None
    already: bool = False  # an earlier attempt had published it
    inputs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CheckFailure:
    """A check that found `count` bad rows, some of them as JSON."""

    name: str
    count: int
    sample: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Failure:
    """Why there is no result."""

    kind: Kind
    message: str
    retry: bool = False
    checks: tuple[CheckFailure, ...] = ()


Ending = Outcome | Failure
