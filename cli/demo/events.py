"""The demo's events: three streams of a game, as untidy as real ones. Pure: the same seed give the same bytes.

Players are Zipf-distributed; some events come out of order, some far too late, some twice, and some are broken.
"""

from __future__ import annotations

import json
import random
from bisect import bisect
from collections import deque
from collections.abc import Callable
from itertools import accumulate
from typing import Any, NamedTuple

from eagleray.cluster.clock import iso

STREAMS = ("ui_events", "game_events", "service_calls")
SHARES = (0.4, 0.3, 0.3)
PLAYERS = 2000
OUT_OF_ORDER, OUT_OF_ORDER_US = 0.15, 1_500_000  # within max_out_of_orderness: nobody notices
LATE, LATE_US = 0.002, 30_000_000  # long after their windows closed
TWICE = 0.01
BROKEN = 0.003
RECENT = 500  # events that a repeated one is taken from
COUNTRIES = ("DE", "FR", "US", "JP", "BR", "PL", "KR")
ENDPOINTS = {"matchmaking": "/match", "inventory": "/items", "payments": "/pay", "chat": "/say"}
ITEMS = {"skin": 4.99, "sword": 1.99, "pet": 9.99, "pass": 19.99}


class Sent(NamedTuple):
    """One line as sent. `id` is None for a broken event, which must be rejected."""

    line: bytes
    id: str | None


class Game:
    """Makes events. Times are microseconds since the epoch."""

    def __init__(self, seed: int) -> None:
        """The whole run follows from `seed` and from the times that `tick` is called with."""
        self._random = random.Random(seed)
        self._zipf = list(accumulate(1 / rank for rank in range(1, PLAYERS + 1)))
        self._number = 0
        self._recent: dict[str, deque[Sent]] = {stream: deque(maxlen=RECENT) for stream in STREAMS}

    def tick(self, at_us: int, events: int) -> dict[str, list[Sent]]:
        """About `events` events that happened around `at_us`, by stream."""
        return {
            stream: [self._one(stream, at_us) for _ in range(round(events * share))]
            for stream, share in zip(STREAMS, SHARES, strict=True)
        }

    def _one(self, stream: str, at_us: int) -> Sent:
        luck, recent = self._random.random(), self._recent[stream]
        if luck < TWICE and recent:
            return self._random.choice(recent)
        self._number += 1
        time_us = at_us
        if luck > 1 - LATE:
            time_us -= LATE_US
        elif luck > 1 - LATE - OUT_OF_ORDER:
            time_us -= self._random.randrange(OUT_OF_ORDER_US)
        identity = f"{stream[0]}{self._number}"
        event = self._made(stream, identity, time_us)
        if TWICE <= luck < TWICE + BROKEN:
            return Sent(self._broken(stream, event), None)
        sent = Sent(json.dumps(event).encode(), identity)
        recent.append(sent)
        return sent

    def _made(self, stream: str, identity: str, time_us: int) -> dict[str, Any]:
        if stream == "service_calls":
            return self._call(identity, time_us)
        player = f"player-{bisect(self._zipf, self._random.random() * self._zipf[-1]) + 1}"
        event = {"event_id": identity, "time": iso(time_us // 1000 * 1000), "player": player}
        return event | (self._touch() if stream == "ui_events" else self._deed(player))

    def _touch(self) -> dict[str, Any]:
        choice, number = self._random.choice, self._random.randrange
        return {
            "screen": choice(("home", "home", "home", "lobby", "lobby", "shop", "profile", "settings")),
            "action": choice(("open", "tap", "tap", "tap", "scroll", "close")),
            "x": number(1920),
            "y": number(1080),
            "device": {"os": choice(("android", "ios", "windows")), "model": f"m{number(40)}"},
        }

    def _deed(self, player: str) -> dict[str, Any]:
        kind = self._random.choices(("match_start", "kill", "death", "purchase", "match_end"), (2, 5, 5, 1, 2))[0]
        # A player stays in one country: the number decides, by a multiplier that shuffles.
        deed: dict[str, Any] = {"kind": kind, "country": COUNTRIES[int(player[7:]) * 31 % len(COUNTRIES)]}
        deed["level"] = self._random.randrange(1, 60)
        if kind == "purchase":
            deed["item"], deed["amount"] = self._random.choice(list(ITEMS.items()))
        elif kind == "match_end":
            deed["details"] = {"won": self._random.random() < 0.5, "score": self._random.randrange(5000)}
        return deed

    def _call(self, identity: str, time_us: int) -> dict[str, Any]:
        service = self._random.choice(list(ENDPOINTS))
        return {
            "request_id": identity,
            "at_ms": time_us // 1000,
            "service": service,
            "endpoint": "/healthz" if self._random.random() < 0.05 else ENDPOINTS[service],
            "status": 500 if self._random.random() < 0.01 else 200,
            "duration_ms": round(self._random.lognormvariate(2.5 + len(service) % 3 * 0.4, 0.6), 2),
        }

    def _broken(self, stream: str, event: dict[str, Any]) -> bytes:
        spoil: Callable[[dict[str, Any]], bytes] = self._random.choice((_cut, _mistyped, _timeless, _tomorrow))
        return spoil(event)


def _cut(event: dict[str, Any]) -> bytes:
    return json.dumps(event).encode()[:-9]


def _mistyped(event: dict[str, Any]) -> bytes:
    wrong = {key: "seven" for key in ("x", "level", "duration_ms") if key in event}
    return json.dumps(event | wrong).encode()


def _timeless(event: dict[str, Any]) -> bytes:
    return json.dumps({key: value for key, value in event.items() if key not in ("time", "at_ms")}).encode()


def _tomorrow(event: dict[str, Any]) -> bytes:
    if "at_ms" in event:
        return json.dumps(event | {"at_ms": event["at_ms"] + 86_400_000}).encode()
    return json.dumps(event | {"time": "2199-01-01T00:00:00Z"}).encode()
