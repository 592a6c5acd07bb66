from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.edge.rate import Rates
from actors.edge.refusal import Refusal
from cluster.keys import ApiKey


class Ticks:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def key(rate: float | None) -> ApiKey:
    return ApiKey("k", frozenset({"write:*"}), rate)


def test_burst_of_one_second_is_let_through_and_then_refused() -> None:
    ticks = Ticks()
    rates = Rates(ticks)
    for _ in range(10):
        rates.admit(key(10))
    with pytest.raises(Refusal) as refused:
        rates.admit(key(10))
    assert (refused.value.status, refused.value.code, refused.value.headers) == (
        429,
        "rate_limited",
        {"Retry-After": "1"},
    )
    ticks.now += 0.1
    rates.admit(key(10))


def test_debt_is_paid_before_the_next_request() -> None:
    ticks = Ticks()
    rates = Rates(ticks)
    rates.admit(key(10))
    rates.charge(key(10), 60)
    with pytest.raises(Refusal) as refused:
        rates.admit(key(10))
    assert refused.value.headers == {"Retry-After": "6"}
    ticks.now += 5.2
    rates.admit(key(10))


@given(
    rate=st.integers(1, 50),
    requests=st.lists(st.tuples(st.floats(0, 2), st.integers(1, 100)), min_size=1, max_size=60),
)
def test_long_run_rate_holds_whatever_the_requests(rate: int, requests: list[tuple[float, int]]) -> None:
    ticks = Ticks()
    rates = Rates(ticks)
    sent = largest = 0
    for pause, events in requests:
        ticks.now += pause
        try:
            rates.admit(key(rate))
        except Refusal:
            continue
        rates.charge(key(rate), events)
        sent, largest = sent + events, max(largest, events)
    assert sent <= rate * ticks.now + rate + largest


def test_key_without_a_rate_is_never_refused() -> None:
    rates = Rates(Ticks())
    for _ in range(1000):
        rates.admit(key(None))
        rates.charge(key(None), 1000)


def test_rate_below_one_event_per_second_works() -> None:
    ticks = Ticks()
    rates = Rates(ticks)
    rates.admit(key(0.1))
    with pytest.raises(Refusal):
        rates.admit(key(0.1))
    ticks.now += 10
    rates.admit(key(0.1))
