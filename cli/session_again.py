"""A session that ended against our will is started again: `up` becomes itself, with a word of how things stood.

Tables and log are the truth, so a session is cheap to give up. What is left of the old one is ended first, to the last
process: nothing of it may ack, commit or listen beside the new one. Then the process executes its own command, and so
begins in the state that a start needs (no threads, no Ray), under the same process id. The word is in `platform.json`,
signed with process id and start time, which no other process shares.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NoReturn

from eagleray.cluster.descendants import start_ticks
from eagleray.cluster.errors import EaglerayError

ENDS_MAX, ENDS_WITHIN_S = 3, 600.0  # more sessions lost than that: whatever ends them, starting again is no cure
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class SessionLost(EaglerayError):
    """Ray or the controller ended, or hangs for good. The message says which."""


@dataclass(frozen=True)
class Before:
    """The sessions of this `up` before this one."""

    run: str  # what the controllers of all of them belong to
    port: int = 0  # of the edge, once there was one
    announced: bool = False  # `ready` was printed
    ends: tuple[float, ...] = ()  # when they ended, by time.monotonic


def read_before(place: Path) -> Before | None:
    """What this very process left in `place` before it became itself; None for a first start."""
    try:
        found = json.loads(place.read_text())
        if (found["pid"], found["started"]) != (os.getpid(), start_ticks()):
            return None
        before = found["before"]
        return Before(before["run"], before["port"], before["announced"], tuple(before["ends"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_platform(place: Path, url: str, data_dir: Path, before: Before | None = None) -> None:
    """Leave the platform's URL, process and directory in `place`; and, for this process alone, how things stood."""
    word = {"url": url, "pid": os.getpid(), "data_dir": str(data_dir), "started": start_ticks()}
    place.write_text(json.dumps(word | ({"before": asdict(before)} if before else {})))


def with_this_end(before: Before, lost: SessionLost) -> Before:
    """Note that a session ended now; raises EaglerayError where that happened too often."""
    now = time.monotonic()
    recent = tuple(at for at in before.ends if now - at < ENDS_WITHIN_S)
    if len(recent) >= ENDS_MAX:
        raise EaglerayError(
            f"{lost}, the {len(recent) + 1}th time within {ENDS_WITHIN_S / 60:g} minutes; nothing acked is lost: it is "
            "in the log, and the next `up` goes on from there"
        )
    return replace(before, ends=(*recent, now))


def start_again(environment: Mapping[str, str]) -> NoReturn:
    """Become this command anew, with `environment`; no process is left below this one."""
    # A signal that comes in between is delivered when `heed` unblocks it.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
