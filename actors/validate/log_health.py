"""Whether events can be made durable now: what the last append to each stream said, and room on the disk.

A stream whose append failed is tried again with a control record that means nothing, the same way that events take,
until one is written: who asks for readiness sends no events that could find out. Used by `worker`.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from eagleray.cluster.errors import EaglerayError, LogUnavailable
from eagleray.cluster.log.protocol import Entry, EventLog, Kind
from eagleray.cluster.log.record import encode_control

logger = logging.getLogger(__name__)

TRY_AGAIN_S = 1.0
ROOM_BYTES = 8 << 20  # below this, records of ordinary size may not fit
_PROBE = Entry(0, Kind.CONTROL, 0, encode_control({"probe": True}))


class LogHealth:
    """Appends to `log`, and remembers what came of it. Threads may share it."""

    def __init__(self, log: EventLog, directory: Path, streams: Iterable[str]) -> None:
        """`directory`: the embedded log's, for the room on its disk; it need not exist."""
        self._log = log
        self._directory = directory
        self._failures: dict[str, str] = {}  # by stream, until an append to it succeeds
        # Appends that failed, by stream and error: from 0 on for what is to be expected.
        self.errors = Counter({(stream, LogUnavailable.__name__): 0 for stream in streams})
        self._mutex = threading.Lock()
        self._probing: threading.Thread | None = None
        self._closed = threading.Event()

    def append(self, stream: str, entries: Sequence[Entry]) -> list[int]:
        """As `EventLog.append`."""
        try:
            offsets = self._log.append(stream, entries)
        except EaglerayError as error:
            self._failed(stream, error)
            raise
        if self._failures:
            self._failures.pop(stream, None)
        return offsets

    def problem(self) -> str:
        """Why an append would fail now; empty: it would not, as far as is known."""
        if failures := list(self._failures.values()):
            return failures[0]
        with suppress(OSError):
            free = shutil.disk_usage(self._directory).free
            if free < ROOM_BYTES:
                return f"{free:,} bytes are left on the disk; expected at least {ROOM_BYTES:,}"
        return ""

    def close(self) -> None:
        """Try no more."""
        self._closed.set()
        if probing := self._probing:
            probing.join()

    def _failed(self, stream: str, error: EaglerayError) -> None:
        with self._mutex:
            self.errors[stream, type(error).__name__] += 1
            self._failures[stream] = str(error)
            if self._probing is None:
                self._probing = threading.Thread(target=self._probe, name="log-probe", daemon=True)
                self._probing.start()

    def _probe(self) -> None:
        while not self._closed.wait(TRY_AGAIN_S):
            for stream in list(self._failures):
                try:
                    self._log.append(stream, [_PROBE])
                except EaglerayError as error:
                    self._failures[stream] = str(error)
                else:
                    logger.warning("log %s can be written again", stream)
                    self._failures.pop(stream, None)
            with self._mutex:
                if not self._failures:
                    self._probing = None
                    return
