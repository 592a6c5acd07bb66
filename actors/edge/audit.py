"""Who was turned away, and who did what only few may do: one line each in the edge's log, with client and key.

Called by app after an answer. Bounded: a flood of refusals must not push everything else out of the log.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

LINES_PER_S = 20.0
LINES_AT_ONCE = 100.0


class Audit:
    """Writes the lines of one process."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Nothing was left out yet."""
        self._monotonic = monotonic
        self._lines = LINES_AT_ONCE
        self._at = monotonic()
        self._left_out = 0

    def note(self, call: str, status: int, client: str, key: str | None) -> None:
        """`call` was answered with `status` to `client`, who came with `key`."""
        now = self._monotonic()
        self._lines = min(self._lines + (now - self._at) * LINES_PER_S, LINES_AT_ONCE)
        self._at = now
        if self._lines < 1.0:
            self._left_out += 1
            return
        self._lines -= 1.0
        fields = {"call": call, "status": status, "client": client, "key": key or ""}
        if self._left_out:
            fields["left_out"] = self._left_out
            self._left_out = 0
        logger.info("audit", extra=fields)
