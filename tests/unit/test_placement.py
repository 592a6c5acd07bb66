"""Where workers go in a cluster, and who owns which partition."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagleray.actors.placement import Node, emptiest, find, nodes_of, places, share_out
from eagleray.cluster.errors import EaglerayError
from tests.examples import examples

HEAD, A, B = Node("0" * 8, "10.0.0.1"), Node("a" * 8, "10.0.0.2", cpus=4), Node("b" * 8, "10.0.0.3", cpus=4)
names = st.sets(st.integers(0, 30).map(lambda n: f"window-{n}"), min_size=1, max_size=8)


@examples(60)
@given(names, st.integers(1, 16))
def test_partitions_are_shared_out_evenly_and_the_same_each_time(workers: set[str], partitions: int) -> None:
    owners = share_out(["a", "b"], partitions, sorted(workers))
    assert owners == share_out(["b", "a"], partitions, sorted(workers, reverse=True))
    for stream in ("a", "b"):
        held = Counter(name for (of, _), name in owners.items() if of == stream)
        counts = [held[name] for name in workers]
        assert sum(counts) == partitions and max(counts) - min(counts) <= 1


def test_a_worker_that_is_away_moves_little_but_its_own_and_gets_it_back() -> None:
    workers = ["writer-0", "writer-1", "writer-2"]
    before = share_out(["s"], 30, workers)
    without = share_out(["s"], 30, workers[:2])
    moved = {partition for partition in before if without[partition] != before[partition]}
    lost = {partition for partition, name in before.items() if name == "writer-2"}
    assert lost <= moved and len(moved - lost) <= 6
    assert share_out(["s"], 30, workers) == before
    assert share_out(["s"], 30, []) == {}


def test_roles_keep_pools_apart_and_a_node_without_cores_has_no_workers() -> None:
    edge, stream = Node("e", "1", "edge", 4), Node("s", "2", "stream", 4)
    batch, leaving = Node("j", "3", "batch", 4), Node("l", "4", cpus=4, draining=True)
    every = [HEAD, edge, stream, batch, leaving, A]
    assert places("validate", every) == [A, edge]
    assert places("committer", every) == [A, stream]


def test_a_new_worker_goes_where_the_fewest_of_its_pool_are_then_of_all() -> None:
    assert emptiest([A, B], [A.id], [A.id, B.id, B.id]) == B
    assert emptiest([A, B], [A.id, B.id], [A.id, A.id, B.id]) == B
    assert emptiest([], [], []) is None


def test_nodes_are_read_from_rays_table() -> None:
    row = {"NodeID": "a" * 8, "NodeManagerAddress": "10.0.0.2", "Alive": True, "Resources": {"CPU": 4.0}, "Labels": {}}
    dead = {**row, "NodeID": "d" * 8, "Alive": False}
    assert nodes_of([row, dead], set()) == {A.id: A}
    marked = {**row, "Labels": {"eagleray-role": "edge"}}
    assert nodes_of([marked], {A.id}) == {A.id: Node(A.id, A.ip, "edge", 4.0, draining=True)}


def test_a_node_is_found_by_address_or_the_beginning_of_its_id() -> None:
    nodes = {node.id: node for node in (HEAD, A, B)}
    assert find(nodes, "10.0.0.2") == find(nodes, "aaaa") == A
    with pytest.raises(EaglerayError, match=r"names no nodes.*10\.0\.0\.1, 10\.0\.0\.2"):
        find(nodes, "a")
