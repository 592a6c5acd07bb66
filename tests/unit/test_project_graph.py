"""The graph is derived: every job comes after those whose tables it reads, cycles and unknown tables are refused."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagleray.cluster.errors import ConfigError
from eagleray.jobs.model import Check, Job, Source
from eagleray.jobs.project.graph import Graph, build_graph
from tests.examples import examples


def job(name: str, *inputs: str, checks: tuple[Check, ...] = ()) -> Job:
    return Job(name, f"t.{name}", "full", Source(Path(f"jobs/{name}.sql"), 4, sql=""), inputs, checks=checks)


def graph(*jobs: Job, known: tuple[str, ...] = ("s.events",)) -> Graph:
    return build_graph({each.name: each for each in jobs}, known, list)


@st.composite
def needs(draw: st.DrawFn) -> dict[str, set[str]]:
    """Any graph without cycles: a job needs some of those before it; then the names are shuffled."""
    count = draw(st.integers(0, 12))
    names = draw(st.permutations([f"j{number}" for number in range(count)]))
    return {name: draw(st.sets(st.sampled_from(names[:place]))) if place else set() for place, name in enumerate(names)}


@examples(50)
@given(needs())
def test_every_job_comes_after_all_that_it_needs(needs: dict[str, set[str]]) -> None:
    made = Graph(needs)
    place = {name: at for at, name in enumerate(made.order())}
    assert place.keys() == needs.keys()
    for name in needs:
        assert made.needs(name) == needs[name]
        assert all(place[before] < place[name] for before in made.upstream(name))
        assert all(name in made.upstream(after) for after in made.downstream(name))
        assert made.upstream(name) == needs[name].union(*(made.upstream(before) for before in needs[name]))


@examples(50)
@given(needs(), st.data())
def test_a_subgraph_has_the_needs_among_its_jobs(needs: dict[str, set[str]], data: st.DataObject) -> None:
    kept = data.draw(st.sets(st.sampled_from(sorted(needs)))) if needs else set()
    part = Graph(needs).subgraph(kept)
    assert set(part.order()) == kept
    assert all(part.needs(name) == needs[name] & kept for name in kept)


@examples(50)
@given(needs(), st.data())
def test_an_edge_back_is_refused_with_the_path(needs: dict[str, set[str]], data: st.DataObject) -> None:
    made = Graph(needs)
    pairs = [(name, before) for name in needs for before in made.upstream(name)]
    if not pairs:
        return
    name, before = data.draw(st.sampled_from(sorted(pairs)))
    with pytest.raises(ValueError, match="need one another: ") as refused:
        Graph({**needs, before: needs[before] | {name}})
    path = str(refused.value).partition(": ")[2].split(" → ")
    assert path[0] == path[-1] and len(path) > 2
    back = {**needs, before: needs[before] | {name}}
    assert all(one in back[other] for one, other in itertools.pairwise(path))


def test_the_order_among_equals_is_by_name() -> None:
    assert graph(job("c", "t.a"), job("b"), job("a"), job("d", "t.b")).order() == ["a", "b", "c", "d"]


def test_a_deep_graph_is_no_problem() -> None:
    jobs = [job("j0", "s.events"), *(job(f"j{n}", f"t.j{n - 1}") for n in range(1, 3000))]
    made = graph(*jobs)
    assert made.order()[-1] == "j2999" and len(made.upstream("j2999")) == 2999


def test_a_cycle_is_refused_with_file_and_path() -> None:
    with pytest.raises(ConfigError) as refused:
        graph(job("a", "t.c"), job("b", "t.a"), job("c", "t.b"), job("d", "t.c"))
    assert str(refused.value) == "jobs/a.sql:4: a: the jobs need one another: a → b → c → a"


def test_an_unknown_table_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError) as refused:
        graph(job("a", "s.event"), job("b", "s.events"))
    assert str(refused.value) == "jobs/a.sql:4: a: table s.event does not exist; did you mean s.events?"


def test_the_lake_is_asked_only_for_what_nobody_makes() -> None:
    asked: list[str] = []

    def lake() -> list[str]:
        asked.append("asked")
        return ["old.table"]

    build_graph({"a": job("a", "s.events")}, ["s.events"], lake)
    assert not asked
    build_graph({"a": job("a", "old.table")}, ["s.events"], lake)
    assert asked


def test_what_a_check_compares_with_is_needed_too() -> None:
    check = Check("relationships", {"column": "x", "to": "t.b", "field": "x"}, "r", tables=("t.b",))
    assert graph(job("a", "s.events", checks=(check,)), job("b")).needs("a") == {"b"}
