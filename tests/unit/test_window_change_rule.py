"""The rule of changed definitions, over random configurations: what is final, open or late is every event, once."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from eagleray.cluster.windowing.era import Era
from tests.examples import examples
from tests.window_rig import SCHEMA, SECOND, WindowRig, us

BEGIN = us("12:00:00")

kinds = st.one_of(
    st.sampled_from([20, 30, 60, 90, 300]).map(lambda size: {"tumble": f"{size}s"}),
    st.sampled_from([(60, 20), (40, 20), (300, 60)]).map(lambda hop: {"hop": f"{hop[0]}s", "every": f"{hop[1]}s"}),
    st.sampled_from([15, 45]).map(lambda gap: {"session_gap": f"{gap}s"}),
)
aggregates = st.sampled_from([{"n": "count()", "least": "min(v)"}, {"n": "count()", "total": "sum(v)"}])
definitions = st.tuples(kinds, st.sampled_from([["k"], ["g"], []]), aggregates).map(
    lambda parts: parts[0] | {"group_by": parts[1], "aggregate": parts[2]}
)
FILTER = "v % 3 <> 0"
NUMBER = {"type": "number"}
WIDE, NARROW = (
    {**SCHEMA, "properties": {**SCHEMA["properties"], "t2": SCHEMA["properties"]["t"], **v}, "required": []}
    for v in ({"v": NUMBER}, {})
)
configurations = st.fixed_dictionaries(
    {
        "windows": st.fixed_dictionaries({}, optional={"w": definitions, "other": definitions}),
        "allowed_lateness": st.sampled_from(["0s", "30s", "10m"]),
        "max_out_of_orderness": st.sampled_from(["0s", "10s", "5m"]),
    },
    optional={
        "clock_slack": st.just("1h"),
        "idle_timeout": st.just("1h"),
        "filter": st.just(FILTER),
        "time": st.just("t2"),
        "key": st.just("g"),
        "schema": st.just(WIDE),
    },
)
steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("events"), st.lists(st.tuples(st.integers(0, 60), st.integers(0, 90)), min_size=1, max_size=6)
        ),
        st.tuples(st.just("change"), configurations),
        st.tuples(st.just("back"), st.none()),
        st.tuples(st.sampled_from(["round", "kill", "snapshot", "lose", "silence"]), st.none()),
    ),
    min_size=4,
    max_size=12,
)


class Life:
    """A stream that lives through `steps`; v numbers its events. A field that was widened stays so."""

    def __init__(self, directory: Path, first: dict[str, Any]) -> None:
        self.lived = [{"schema": NARROW} | first]
        self.rig = WindowRig(directory, partitions=2, **self.lived[0])
        self.times: list[int] = []
        self.now = BEGIN

    def step(self, what: str, value: Any) -> None:
        if what == "events":
            for forward, behind in value:
                self.now += forward * SECOND
                self.append(len(self.times) % 2, self.now - behind * SECOND)
        elif what == "round":
            self.rig.round()
            self.rig.read()
        elif what == "silence":
            self.rig.settle()
            self.rig.clock.advance(3 * SECOND)
            self.rig.settle()
        elif what == "change":
            self.restart({"schema": self.lived[-1]["schema"]} | value)
        elif what == "back":
            self.restart(self.lived[-2 if len(self.lived) > 1 else -1] | {"schema": self.lived[-1]["schema"]})
        elif what == "lose":
            self.rig.settle()
            self.rig.store()
            self.rig.decide()
            self.rig.lose_state()
            self.rig.up(**self.lived[-1])
        else:
            self.restart(self.lived[-1], snapshot=what == "snapshot")

    def append(self, partition: int, time: int) -> None:
        self.rig.append(partition, [(time, "ab"[time % 2], len(self.times))])
        self.times.append(time)

    def restart(self, configuration: dict[str, Any], snapshot: bool = False) -> None:
        self.lived.append(configuration)
        self.rig.kill(snapshot)
        self.rig.up(**configuration)

    def check(self, window: str = "w") -> None:
        self.rig.settle()
        history = self.rig.committer.histories["s"].windows.get(window)
        if history is None:
            assert all(window not in configuration["windows"] for configuration in self.lived)
            return
        rows = [(start, row) for start, _, row in self.rig.spans(window)]
        groups = {path.column for era in history for path in era.spec.group_by}
        places = Counter((start, *(row.get(group) for group in sorted(groups))) for start, row in rows)
        assert set(places.values()) <= {1}, "one row per window start and group"
        if not any(era.spec.overlapping for era in history):
            self.check_overlap(window, groups)
        if window not in self.lived[-1]["windows"]:
            return  # its open windows are not to be seen
        late = sum(row["window"] == window for row in self.rig.lake.read("s.late").to_pylist())
        counted = sum(row["n"] for _, row in rows) + sum(row["n"] for row in self.rig.open(window))
        assert counted + late == sum(self.expected(window, history)), "final + open + late = events"

    def expected(self, window: str, history: Sequence[Era]) -> Iterator[int]:
        """In how many windows each event is, whether it came in time or not."""
        throughout = all(window in one["windows"] and "filter" not in one for one in self.lived)
        for number, time in enumerate(self.times):
            starts = 0
            for era in history:
                if era.definition.filter is None or number % 3:
                    spec = era.spec
                    step = spec.every_us if spec.overlapping else 1
                    among = range(time // step * step, time - (spec.size_us if spec.overlapping else 1), -step)
                    starts += sum(era.from_us <= start < era.until_us for start in among)
            assert starts == 1 or not throughout or any(era.spec.overlapping for era in history)
            yield starts

    def check_overlap(self, window: str, groups: set[str]) -> None:
        """No instant of a group is in two rows, whatever their definitions."""
        spans: dict[Any, list[tuple[int, int]]] = {}
        for start, end, row in self.rig.spans(window):
            spans.setdefault(tuple(row.get(group) for group in sorted(groups)), []).append((start, end))
        for mine in spans.values():
            mine.sort()
            assert all(end <= start for (_, end), (start, _) in pairwise(mine))


@examples(5)
@given(first=configurations, life=steps)
def test_final_open_and_late_rows_are_all_events_through_every_change(first: dict[str, Any], life: list) -> None:
    with tempfile.TemporaryDirectory() as directory:
        stream = Life(Path(directory), first)
        for what, value in life:
            stream.step(what, value)
        stream.check()
        stream.check("other")
        # and when all of it is closed
        stream.now += 7200 * SECOND
        for partition in range(2):
            stream.append(partition, stream.now)
        stream.check()
        stream.check("other")
