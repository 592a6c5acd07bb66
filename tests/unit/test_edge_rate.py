from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagleray.actors.edge.rate_limit import Rates
from eagleray.actors.edge.refusal import Refusal
from eagleray.actors.rate_exchange import Exchange
from eagleray.cluster.api_keys import ApiKey


class Ticks:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def key(rate: float | None) -> ApiKey:
    return ApiKey("k", frozenset({"write:*"}), rate)


def test_burst_of_one_second_is_let_through_and_then_refused() -> None:
    ticks = Ticks()
    rates = Rates(1000, ticks)
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
    rates = Rates(1000, ticks)
    rates.admit(key(10))
    rates.charge(key(10), 59)
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
    rates = Rates(1000, ticks)
    sent = largest = 0
    for pause, events in requests:
        ticks.now += pause
        try:
            rates.admit(key(rate))
        except Refusal:
            continue
        rates.charge(key(rate), events - 1)
        sent, largest = sent + events, max(largest, events)
    assert sent <= rate * ticks.now + rate + largest


def test_key_without_a_rate_is_never_refused() -> None:
    rates = Rates(1000, Ticks())
    for _ in range(1000):
        rates.admit(key(None))
        rates.charge(key(None), 1000)
    assert rates.exchange({}) == {}  # nothing is held against it elsewhere


def test_rate_below_one_event_per_second_works() -> None:
    ticks = Ticks()
    rates = Rates(1000, ticks)
    rates.admit(key(0.1))
    with pytest.raises(Refusal):
        rates.admit(key(0.1))
    ticks.now += 10
    rates.admit(key(0.1))


@given(st.integers(1, 5), st.lists(st.tuples(st.integers(0, 4), st.integers(1, 40)), min_size=50, max_size=400))
def test_several_processes_together_let_through_the_rate_of_one(
    processes: int, requests: list[tuple[int, int]]
) -> None:
    rate, ticks, exchange = 10.0, Ticks(), Exchange()
    edges = {f"edge-{n}": Rates(1000, ticks) for n in range(processes)}
    passed, largest = 0, 0
    for turn, (edge, events) in enumerate(requests):
        try:
            edges[f"edge-{edge % processes}"].admit(key(rate))
        except Refusal:
            pass
        else:
            edges[f"edge-{edge % processes}"].charge(key(rate), events - 1)
            passed, largest = passed + events, max(largest, events)
        ticks.now += 0.1
        if turn % 5 == 4:
            for name, rates in edges.items():
                exchange.answered(name, rates.exchange(exchange.waiting(name)), edges)
        # each may be full at first and be a second late to hear, and the last request may go into debt
        assert passed <= rate * ticks.now + processes * (2 * rate + largest)


def test_a_process_pays_for_what_others_let_through() -> None:
    ticks, exchange = Ticks(), Exchange()
    edges = {"edge-0": Rates(1000, ticks), "edge-1": Rates(1000, ticks)}
    for rates in edges.values():
        rates.admit(key(10))
    edges["edge-0"].charge(key(10), 99)
    for name, rates in edges.items():
        exchange.answered(name, rates.exchange(exchange.waiting(name)), edges)
    with pytest.raises(Refusal):
        edges["edge-1"].admit(key(10))
    ticks.now += 9.2
    edges["edge-1"].admit(key(10))
    exchange.answered("edge-1", {}, ["edge-1"])
    assert exchange.waiting("edge-0") == {}


def test_edges_that_are_told_at_the_same_time_hear_of_each_other_once_and_the_next_time() -> None:
    exchange, edges = Exchange(), ("edge-0", "edge-1")
    for edge in edges:
        assert exchange.waiting(edge) == {}
    exchange.answered("edge-0", {"key": 3.0}, edges)
    exchange.answered("edge-1", {"key": 0.1}, edges)
    assert exchange.waiting("edge-0") == {"key": 0.1} and exchange.waiting("edge-1") == {"key": 3.0}
    exchange.answered("edge-0", {"key": -0.5}, edges)  # given back
    exchange.answered("edge-1", {}, edges)
    assert exchange.waiting("edge-0") == {} and exchange.waiting("edge-1") == {"key": -0.5}


def test_what_was_charged_too_much_is_given_back() -> None:
    ticks = Ticks()
    rates = Rates(1000, ticks)
    rates.admit(key(10))
    rates.charge(key(10), 99)
    rates.charge(key(10), -95)  # five of a hundred were events
    for _ in range(5):
        rates.admit(key(10))
    with pytest.raises(Refusal):
        rates.admit(key(10))
    assert rates.exchange({}) == {"k": 10.0}


def test_a_key_of_many_dead_letters_waits_a_minute_at_most_and_others_do_not() -> None:
    ticks = Ticks()
    rates = Rates(100, ticks)
    rates.admit(key(None))
    rates.rejected(key(None), 5_999)
    rates.admit(key(None))  # a minute's worth at once
    rates.rejected(key(None), 100_000)
    with pytest.raises(Refusal, match=r"edge\.dead_letters_rate") as refused:
        rates.admit(key(None))
    assert refused.value.status == 429 and refused.value.headers == {"Retry-After": "61"}
    rates.admit(ApiKey("other", frozenset({"write:*"})))
    ticks.now += 61
    rates.admit(key(None))


def test_dead_letters_made_at_one_process_count_at_all() -> None:
    ticks, exchange = Ticks(), Exchange()
    edges = {"edge-0": Rates(10, ticks), "edge-1": Rates(10, ticks)}
    edges["edge-0"].rejected(key(None), 5_000)
    for name, rates in edges.items():
        exchange.answered(name, rates.exchange(exchange.waiting(name)), edges)
    for name, rates in edges.items():
        exchange.answered(name, rates.exchange(exchange.waiting(name)), edges)
    with pytest.raises(Refusal, match="rejected"):
        edges["edge-1"].admit(key(None))
