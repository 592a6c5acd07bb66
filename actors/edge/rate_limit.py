"""Rate limits: token buckets per key, of events sent and of events rejected.

The long-run rate holds whatever the size of requests. A request is charged for its events before they are judged. A
bucket may go into debt and then refuses until it is paid; it holds one second's worth at most. Each edge process has
buckets of its own and pays also for what others took, which it hears twice a second (`rate_exchange`): together they
let through the rate, not the rate times their number.

Rejected events become dead letters, which cost more than events that are accepted: each is judged one by one, and kept
whole. So every key, also one without a rate, may make so many a second (edge.dead_letters_rate, and LETTERS_S seconds'
worth at once); beyond that its requests are refused before they are read, so that nothing of them is lost.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping

from eagleray.actors.edge.refusal import Refusal, retry_after
from eagleray.cluster.api_keys import ApiKey

LETTERS_S = 60.0  # a key may make so many seconds' worth of dead letters at once, and owes no more than that
BUCKETS_MAX = 10_000  # names of identity providers come and go; full buckets are forgotten
_LETTERS = "dead_letters:"  # no key's name has a colon, and a token's name begins otherwise


class Bucket:
    """Tokens that come back at `rate` a second, at most `most` of them, with a debt of at most `debt_max`."""

    __slots__ = ("at", "debt_max", "most", "rate", "tokens")

    def __init__(self, rate: float, most: float, debt_max: float, at: float) -> None:
        """Full, `at` a time in seconds."""
        self.rate = rate
        self.most = most
        self.debt_max = debt_max
        self.tokens = most
        self.at = at

    def fill(self, now: float) -> None:
        """Put in what came back until `now`."""
        self.tokens = min(self.tokens + (now - self.at) * self.rate, self.most)
        self.at = now

    def take(self, tokens: float) -> None:
        """Take out, into debt where there are not enough."""
        self.tokens = max(self.tokens - tokens, -self.debt_max)

    def wait_s(self) -> float:
        """Until there is one."""
        return (1.0 - self.tokens) / self.rate


class Rates:
    """The buckets of all keys, for one event loop."""

    def __init__(self, dead_letters_rate: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Every key starts with full buckets. `dead_letters_rate` is in events a second."""
        self._letters_rate = dead_letters_rate
        self._monotonic = monotonic
        self._buckets: dict[str, Bucket] = {}
        self._spent: defaultdict[str, float] = defaultdict(float)  # since the last exchange

    def admit(self, key: ApiKey) -> None:
        """Take one event from the key's bucket; refuses with 429 and the time until there is one."""
        letters = self._buckets.get(_LETTERS + key.name)
        if letters is not None:
            letters.fill(self._monotonic())
            if letters.tokens < 1.0:
                detail = (
                    f"too many events of key {key.name!r} were rejected: at most edge.dead_letters_rate "
                    f"({letters.rate:g}/s); mend what is sent"
                )
                raise Refusal(429, "rate_limited", detail, headers=retry_after(letters.wait_s()))
        if key.rate is None:
            return
        bucket = self._filled(key.name, key.rate)
        if bucket.tokens < 1.0:
            detail = f"key {key.name!r} may send {key.rate:g} events/s"
            raise Refusal(429, "rate_limited", detail, headers=retry_after(bucket.wait_s()))
        bucket.tokens -= 1.0
        self._spent[key.name] += 1.0

    def charge(self, key: ApiKey, events: int) -> None:
        """Take `events` more than what was taken; negative: give back what turned out not to be events."""
        if key.rate is not None and events:
            self._filled(key.name, key.rate).take(events)
            self._spent[key.name] += events

    def rejected(self, key: ApiKey, events: int) -> None:
        """Count `events` as dead letters of the key."""
        name = _LETTERS + key.name
        self._letters(name).take(events)
        self._spent[name] += events

    def exchange(self, elsewhere: Mapping[str, float]) -> dict[str, float]:
        """Pay for what keys spent at other processes; returns what they spent here since the last exchange."""
        now = self._monotonic()
        for name, events in elsewhere.items():
            bucket = self._letters(name) if name.startswith(_LETTERS) else self._buckets.get(name)
            if bucket is not None:
                bucket.fill(now)
                bucket.take(events)
        spent, self._spent = dict(self._spent), defaultdict(float)
        self._forget_full(now)
        return spent

    def _letters(self, name: str) -> Bucket:
        now = self._monotonic()
        bucket = self._buckets.get(name)
        if bucket is None:
            most = LETTERS_S * self._letters_rate
            bucket = self._buckets[name] = Bucket(self._letters_rate, most, most, now)
        bucket.fill(now)
        return bucket

    def _filled(self, name: str, rate: float) -> Bucket:
        now = self._monotonic()
        bucket = self._buckets.get(name)
        if bucket is None or bucket.rate != rate:  # a key made anew under the same name may have another rate
            bucket = self._buckets[name] = Bucket(rate, max(rate, 1.0), float("inf"), now)
        bucket.fill(now)
        return bucket

    def _forget_full(self, now: float) -> None:
        if len(self._buckets) <= BUCKETS_MAX:
            return
        for name, bucket in list(self._buckets.items()):
            bucket.fill(now)
            if bucket.tokens >= bucket.most:
                del self._buckets[name]
