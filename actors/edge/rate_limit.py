"""Rate limits: one token bucket per key, in events. The long-run rate holds whatever the size of requests.

How many events a request has is known only after validation, so a bucket may go into debt and then
refuses until it is paid; a bucket holds one second's worth at most. Each edge process has buckets
of its own and pays also for what others took, which it hears twice a second (`rate_exchange`):
together they let through the rate, not the rate times their number.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping

from eagleray.actors.edge.refusal import Refusal, retry_after
from eagleray.cluster.api_keys import ApiKey


class _Bucket:
    __slots__ = ("at", "rate", "tokens")

    def __init__(self, rate: float, at: float) -> None:
        self.rate = rate
        self.tokens = max(rate, 1.0)
        self.at = at


class Rates:
    """The buckets of all keys that have a rate; their number is bounded by the number of keys."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Every key starts with a full bucket."""
        self._monotonic = monotonic
        self._buckets: dict[str, _Bucket] = {}
        self._spent: defaultdict[str, float] = defaultdict(float)  # since the last exchange

    def admit(self, key: ApiKey) -> None:
        """Take one event from the key's bucket; refuses with 429 and the time until there is one."""
        if key.rate is None:
            return
        bucket = self._filled(key.name, key.rate)
        if bucket.tokens < 1.0:
            wait_s = (1.0 - bucket.tokens) / bucket.rate
            detail = f"key {key.name!r} may send {key.rate:g} events/s"
            raise Refusal(429, "rate_limited", detail, headers=retry_after(wait_s))
        bucket.tokens -= 1.0
        self._spent[key.name] += 1.0

    def charge(self, key: ApiKey, events: int) -> None:
        """Take what the request had besides the event that `admit` took."""
        if key.rate is not None and events > 1:
            self._filled(key.name, key.rate).tokens -= events - 1
            self._spent[key.name] += events - 1

    def exchange(self, elsewhere: Mapping[str, float]) -> dict[str, float]:
        """Pay for the events that keys sent to other processes; returns those sent here since the last exchange."""
        for name, events in elsewhere.items():
            if bucket := self._buckets.get(name):
                self._filled(name, bucket.rate).tokens -= events
        spent, self._spent = dict(self._spent), defaultdict(float)
        return spent

    def _filled(self, name: str, rate: float) -> _Bucket:
        now = self._monotonic()
        bucket = self._buckets.get(name)
        if bucket is None or bucket.rate != rate:  # a key made anew under the same name may have another rate
            bucket = self._buckets[name] = _Bucket(rate, now)
        bucket.tokens = min(bucket.tokens + (now - bucket.at) * rate, max(rate, 1.0))
        bucket.at = now
        return bucket
