"""The rule of changed definitions, over random configurations: what is final, open or late is every event, once."""

from __future__ import annotations

import tempfile
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.examples import examples
from tests.window_rig import SECOND, WindowRig, us

BEGIN = us("12:00:00")

kinds = st.one_of(
    st.sampled_from([20, 30, 60, 90, 300]).map(lambda size: {"tumble": f"{size}s"}),
    st.sampled_from([(60, 20), (40, 20), (300, 60)]).map(lambda hop: {"hop": f"{hop[0]}s", "every": f"{hop[1]}s"}),
    st.sampled_from([15, 45]).map(lambda gap: {"session_gap": f"{gap}s"}),
)
definitions = st.tuples(kinds, st.sampled_from([["k"], ["g"], []])).map(
    lambda parts: parts[0] | {"group_by": parts[1], "aggregate": {"n": "count()", "least": "min(v)"}}
)
configurations = st.fixed_dictionaries(
    {
        "windows": st.fixed_dictionaries({"w": definitions}, optional={"other": definitions}),
        "allowed_lateness": st.sampled_from(["0s", "30s", "10m"]),
        "max_out_of_orderness": st.sampled_from(["0s", "10s", "5m"]),
    }
)
steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("events"), st.lists(st.tuples(st.integers(0, 60), st.integers(0, 90)), min_size=1, max_size=6)
        ),
        st.tuples(st.just("change"), configurations),
        st.tuples(st.sampled_from(["round", "kill", "snapshot", "lose"]), st.none()),
    ),
    min_size=4,
    max_size=14,
)


class Life:
    """A stream that lives through `steps`; v numbers its events."""

    def __init__(self, directory: Path, first: dict[str, Any]) -> None:
        self.rig = WindowRig(directory, partitions=2, **first)
        self.configuration = first
        self.times: list[int] = []
        self.now = BEGIN
        self.hops: list[bool] = [self.hopping(first)]
        self.changes = 0

    @staticmethod
    def hopping(configuration: dict[str, Any]) -> bool:
        return "hop" in configuration["windows"]["w"]

    def step(self, what: str, value: Any) -> None:
        if what == "events":
            for forward, behind in value:
                self.now += forward * SECOND
                time = self.now - behind * SECOND
                self.rig.append(len(self.times) % 2, [(time, "ab"[time % 2], len(self.times))])
                self.times.append(time)
        elif what == "round":
            self.rig.round()
            self.rig.read()
        elif what == "change":
            self.restart(value)
        elif what == "lose":
            self.rig.settle()
            self.rig.store()
            self.rig.decide()
            self.rig.lose_state()
            self.rig.up(**self.configuration)
        else:
            self.restart(self.configuration, snapshot=what == "snapshot")

    def restart(self, configuration: dict[str, Any], snapshot: bool = False) -> None:
        self.changes += configuration != self.configuration
        self.configuration = configuration
        self.hops.append(self.hopping(configuration))
        self.rig.kill(snapshot)
        self.rig.up(**configuration)

    def check(self) -> None:
        self.rig.settle()
        rows = [(start, row) for start, _, row in self.rig.spans()]
        opened = self.rig.open()
        groups = {path.column for era in self.rig.committer.histories["s"].windows["w"] for path in era.spec.group_by}
        places = Counter((start, *(row.get(group) for group in sorted(groups))) for start, row in rows)
        assert set(places.values()) <= {1}, "one row per window start and group"
        if any(self.hops):
            return  # an event is in several windows; test_window_era counts which
        late = [row for row in self.rig.lake.read("s.late").to_pylist() if row["window"] == "w"]
        counted = sum(row["n"] for _, row in rows) + sum(row["n"] for row in opened)
        assert counted + len(late) == len(self.times), "final + open + late = events"
        self.check_overlap(groups)

    def check_overlap(self, groups: set[str]) -> None:
        """No instant of a group is in two rows, whatever their definitions."""
        spans: dict[Any, list[tuple[int, int]]] = {}
        for start, end, row in self.rig.spans():
            spans.setdefault(tuple(row.get(group) for group in sorted(groups)), []).append((start, end))
        for mine in spans.values():
            mine.sort()
            assert all(end <= start for (_, end), (start, _) in pairwise(mine))


@examples(6)
@given(first=configurations, life=steps)
def test_final_open_and_late_rows_are_all_events_through_every_change(first: dict[str, Any], life: list) -> None:
    with tempfile.TemporaryDirectory() as directory:
        stream = Life(Path(directory), first)
        for what, value in life:
            stream.step(what, value)
        stream.check()
        # and when all of it is closed
        stream.now += 7200 * SECOND
        for partition in range(2):
            stream.rig.append(partition, [(stream.now, "c", 0)])
            stream.times.append(stream.now)
        stream.check()
