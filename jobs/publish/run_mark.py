"""Who made a snapshot of a job's table: written into its summary by `jobs.publish.publish`, and found there again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from eagleray.cluster.lake.lake import Lake
from eagleray.jobs.engines.incremental import Position

RUN_ID = "eagleray.run"
_JOB, _PERIOD, _ATTEMPT, _INPUTS = "eagleray.job", "eagleray.period", "eagleray.attempt", "eagleray.inputs"
_ROWS, _BYTES, _FILES = "eagleray.rows", "eagleray.bytes", "eagleray.files"


@dataclass(frozen=True)
class RunMark:
    """A run of a job. `inputs`: the snapshot read of each; `since`: where an incremental job began.

    `tables`: which table each input is (`Pinned.identity`), whatever it is called.
    """

    run_id: str
    job: str
    period: str
    attempt: int
    inputs: Mapping[str, int | None]
    since: Mapping[str, Position] | None = None
    tables: Mapping[str, str] = field(default_factory=dict)

    def summary(self, rows: int, size: int, files: int) -> dict[str, str]:
        """What the snapshot of this run says about it."""
        return {
            RUN_ID: self.run_id,
            _JOB: self.job,
            _PERIOD: self.period,
            _ATTEMPT: str(self.attempt),
            _INPUTS: json.dumps(dict(self.inputs), sort_keys=True),
            _ROWS: str(rows),
            _BYTES: str(size),
            _FILES: str(files),
        }


@dataclass(frozen=True)
class Published:
    """A result that readers see. `already`: an earlier attempt of the same run had published it."""

    rows: int
    bytes: int
    files: int
    snapshot_id: int | None
    already: bool = False


def published(lake: Lake, output: str, run_id: str) -> Published | None:
    """What the run `run_id` has published in the table `output`, as far as its snapshots are kept."""
    if lake.find(output) is None:
        return None
    for snapshot_id, summary in lake.history(output):
        if summary.get(RUN_ID) == run_id:
            rows, size, files = (int(summary[key]) for key in (_ROWS, _BYTES, _FILES))
            return Published(rows, size, files, snapshot_id, already=True)
    return None
