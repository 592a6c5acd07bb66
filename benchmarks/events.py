"""Makes 350-byte game events, fast enough to be no part of what is measured (5 million events/s and more).

A `Feed` holds rows of finished JSON text as a matrix of bytes, one event a row, all of one width, and for each body
writes only what must differ into it: id, sequence number and time. Used by load.py; schema: game/plays.schema.json.
"""

from __future__ import annotations

import json
import random
import time
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

EVENT_BYTES = 350
FIRST_SEQ = 1_000_000_000  # ten digits from the first to the last: JSON numbers have no leading zeros
KINDS = ("login", "move", "fight", "loot", "trade", "purchase", "chat", "logout")
COUNTRIES = (
    "AR",
    "BR",
    "CA",
    "CN",
    "DE",
    "ES",
    "FR",
    "GB",
    "ID",
    "IN",
    "IT",
    "JP",
    "KR",
    "MX",
    "NL",
    "PL",
    "SE",
    "TR",
    "US",
    "VN",
)
DEVICES = ("Pixel 7 Pro", "iPhone 14", "Galaxy S23", "Steam Deck", "ThinkPad X1", "iPad Air")
ITEMS = ("sword", "bow", "potion", "map", "torch", "rope", "shield", "gem")
USERS = 50_000
DAY_MS = 86_400_000

_SEQ = "##########"
_TIME = "2000-01-01T00:00:00.000Z"
_THREE = np.frombuffer("".join(f"{n:03d}" for n in range(1000)).encode(), np.uint8).reshape(1000, 3)
_CLOCK = np.frombuffer(
    "".join(f"{s // 3600:02d}:{s // 60 % 60:02d}:{s % 60:02d}" for s in range(86_400)).encode(), np.uint8
).reshape(86_400, 8)


def _event(rng: random.Random, run: str) -> dict[str, Any]:
    kind = rng.choices(KINDS, (2, 40, 20, 12, 6, 3, 15, 2))[0]
    return {
        "id": f"{run}-{_SEQ}",
        "time": _TIME,
        "seq": _SEQ,
        "user": f"u{int(USERS * rng.random() ** 3):06d}",  # skewed: the first 1 % of users send 22 % of events
        "session": f"{rng.getrandbits(64):016x}",
        "kind": kind,
        "country": COUNTRIES[int(len(COUNTRIES) * rng.random() ** 2)],
        "level": 1 + int(60 * rng.random() ** 2),
        "amount": round(rng.expovariate(0.1), 2) if kind in ("trade", "purchase") else 0.0,
        "duration_ms": int(rng.lognormvariate(5, 1)),
        "platform": rng.choice(("ios", "android", "pc", "console")),
        "build": f"3.{rng.randrange(20)}.{rng.randrange(9)}",
        "device": rng.choice(DEVICES),
        "items": rng.sample(ITEMS, rng.randrange(4)),
        "won": rng.choice((True, False, None)),
    }


def _line(rng: random.Random, run: str) -> bytes:
    """One event as a line of exactly EVENT_BYTES + 1 bytes; `trace` fills up what is missing."""
    text = json.dumps(_event(rng, run), separators=(",", ":")).replace(f'"seq":"{_SEQ}"', f'"seq":{_SEQ}')
    room = EVENT_BYTES - len(text) - len(',"trace":""')
    trace = f"{rng.getrandbits(4 * max(room, 1)):0{max(room, 0)}x}"[: max(room, 0)]
    line = f'{text[:-1]},"trace":"{trace}"}}\n'.encode()
    if len(line) != EVENT_BYTES + 1:
        raise ValueError(f"an event of {len(line) - 1} bytes, expected {EVENT_BYTES}: {line!r}")
    return line


class Feed:
    """Bodies of `rows` events each. `body` returns the feed's own memory: use it up before asking for the next one."""

    def __init__(
        self,
        rows: int,
        *,
        run: str = "r000",
        pool: int = 4000,
        seed: int = 0,
        form: Literal["ndjson", "json"] = "ndjson",
    ) -> None:
        """`run` (four characters) begins every id; `pool` different events are repeated with new ids and times."""
        rng = random.Random(seed)
        width = EVENT_BYTES + 1
        self.rows = rows
        self._blocks = max(1, pool // rows)
        lines = b"".join(_line(rng, run) for _ in range(self._blocks * rows))
        pad = 1 if form == "json" else 0  # room for the array's "["
        self._bytes = np.empty((self._blocks, pad + rows * width), np.uint8)
        self._bytes[:, pad:] = np.frombuffer(lines, np.uint8).reshape(self._blocks, rows * width)
        if pad:
            self._bytes[:, 0] = ord("[")
            self._bytes[:, width::width] = ord(",")
            self._bytes[:, -1] = ord("]")
        self._width, self._pad = width, pad
        first = lines[:width]
        self._id = first.index(_SEQ.encode())
        self._seq = first.index(_SEQ.encode(), self._id + 1)
        self._time = first.index(_TIME.encode())
        late = np.random.default_rng(seed).exponential(150, self._blocks * rows)  # a network's disorder, in ms
        self._behind = np.minimum(late, 4000).astype(np.int64).reshape(self._blocks, rows)
        self._count = np.arange(rows, dtype=np.int64)
        self._turn = 0

    def body(self, first_seq: int, now_s: float | None = None) -> memoryview:
        """The next body: its events are numbered `first_seq`, `first_seq` + 1, …, their times just before `now_s`."""
        block = self._turn % self._blocks
        self._turn += 1
        flat = self._bytes[block]
        rows = np.lib.stride_tricks.as_strided(flat[self._pad :], (self.rows, self._width), (self._width, 1))
        digits = np.empty((self.rows, 10), np.uint8)
        seq = self._count + first_seq
        digits[:, 0] = 48 + first_seq // FIRST_SEQ
        for at in (7, 4, 1):
            seq, low = np.divmod(seq, 1000)
            digits[:, at : at + 3] = _THREE[low]
        rows[:, self._id : self._id + 10] = digits
        rows[:, self._seq : self._seq + 10] = digits
        self._stamp(rows, block, time.time() if now_s is None else now_s)
        return memoryview(flat)

    def _stamp(self, rows: NDArray[np.uint8], block: int, now_s: float) -> None:
        day, in_day = divmod(int(now_s * 1000), DAY_MS)
        second, milli = np.divmod(np.maximum(in_day - self._behind[block], 0), 1000)  # never before midnight
        at = self._time
        rows[:, at : at + 10] = np.frombuffer(str(np.datetime64(day, "D")).encode(), np.uint8)
        rows[:, at + 11 : at + 19] = _CLOCK[second]
        rows[:, at + 20 : at + 23] = _THREE[milli]
