"""State beside log and tables: the same law for files of one machine and for Postgres with S3 (tests/backends).

`nodes` gives the state as another node opens it: with the shared version, another directory and connections of its own.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from eagleray.actors.window.snapshot import Needed, Snapshot, SnapshotStore
from eagleray.cluster.log.dedup import run_set
from eagleray.cluster.log.dedup.deduplicator import Deduplicator
from eagleray.cluster.state.files import FilesState
from eagleray.cluster.state.protocol import Claim, Fenced, State

Nodes = Callable[[], State]
PLACE = "clicks/window/p0"


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    yield lambda: FilesState(tmp_path / "state", tmp_path)


def written(claim: Claim, name: str, data: bytes) -> None:
    with (claim.directory / name).open("ab") as file:
        file.write(data)
    claim.store(name, (claim.directory / name).stat().st_size)


def fetched(claim: Claim, name: str, size: int | None = None) -> bytes:
    return claim.fetch(name, size).read_bytes()


def test_each_claim_has_a_greater_epoch_and_hears_the_last_word(nodes: Nodes) -> None:
    first = nodes().place(PLACE).claim()
    assert first.word is None
    first.publish("one")
    assert first.word == "one"
    second = nodes().place(PLACE).claim()
    assert (second.word, second.epoch > first.epoch) == ("one", True)
    second.publish("two")
    second.publish("three")
    assert nodes().place(PLACE).claim().word == "three"
    assert nodes().place("clicks/window/p1").claim().word is None


def test_an_older_epoch_is_refused_whatever_it_does(nodes: Nodes) -> None:
    zombie = nodes().place(PLACE).claim()
    zombie.publish("before")
    owner = nodes().place(PLACE).claim()
    for late in (zombie.check, lambda: zombie.publish("late"), lambda: zombie.sweep(())):
        with pytest.raises(Fenced, match=PLACE):
            late()
    owner.check()
    owner.publish("after")
    assert nodes().place(PLACE).claim().word == "after"


def test_of_many_who_claim_at_once_one_owns(nodes: Nodes) -> None:
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda _: nodes().place(PLACE).claim(), range(16)))
    assert len({claim.epoch for claim in claims}) == 16
    owners = []
    for claim in random.sample(claims, 16):
        try:
            claim.publish(str(claim.epoch))
            owners.append(claim.epoch)
        except Fenced:
            continue
    assert owners == [max(claim.epoch for claim in claims)]


def test_files_that_were_stored_are_fetched_by_the_next_owner(nodes: Nodes) -> None:
    first = nodes().place(PLACE).claim()
    written(first, "a", b"whole")
    written(first, "empty-word", b"x" * 100_000)
    second = nodes().place(PLACE).claim()
    assert fetched(second, "a") == b"whole"
    assert fetched(second, "empty-word") == b"x" * 100_000
    with pytest.raises(FileNotFoundError):
        second.fetch("b")


def test_a_file_that_grows_is_fetched_whole_however_it_grew(nodes: Nodes) -> None:
    generator = random.Random(7)
    owner, data = nodes().place(PLACE).claim(), b""
    for step in range(40):
        more = generator.randbytes(generator.choice((1, 10, 1000, 5000)))
        written(owner, "journal", more)
        data += more
        if step % 9 == 0:
            assert fetched(owner, "journal", len(data)) == data
    successor = nodes().place(PLACE).claim()
    assert fetched(successor, "journal", len(data)) == data
    written(successor, "journal", b"and more")  # what was fetched may grow on
    assert fetched(nodes().place(PLACE).claim(), "journal", len(data) + 8) == data + b"and more"


def test_a_sweep_leaves_what_is_named_and_the_places_below(nodes: Nodes) -> None:
    owner, below = nodes().place(PLACE).claim(), nodes().place(f"{PLACE}/ids").claim()
    for name in ("a", "b", "c"):
        written(owner, name, name.encode())
    written(below, "run", b"below")
    owner.remove("a")
    owner.sweep({"b"})
    successor = nodes().place(PLACE).claim()
    assert fetched(successor, "b") == b"b"
    for name in ("a", "c"):
        with pytest.raises(FileNotFoundError):
            successor.fetch(name)
    assert fetched(nodes().place(f"{PLACE}/ids").claim(), "run") == b"below"


def test_forgetting_takes_a_place_with_all_below_and_nothing_beside(nodes: Nodes) -> None:
    for name in ("s/window/p0", "s/writer/p0", "s_2/window/p0", "sx/window/p0"):
        claim = nodes().place(name).claim()
        written(claim, "file", b"data")
        claim.publish("word")
    nodes().forget("s")
    for name in ("s/window/p0", "s/writer/p0"):
        claim = nodes().place(name).claim()
        assert claim.word is None
        with pytest.raises(FileNotFoundError):
            claim.fetch("file")
    for name in ("s_2/window/p0", "sx/window/p0"):
        claim = nodes().place(name).claim()
        assert (claim.word, fetched(claim, "file")) == ("word", b"data")


def test_a_fact_is_settled_once_for_all(nodes: Nodes) -> None:
    assert nodes().fact("hash.seed") is None
    with ThreadPoolExecutor(8) as pool:
        said = set(pool.map(lambda number: nodes().settle("hash.seed", lambda: f"{number:x}"), range(16)))
    assert said == {nodes().fact("hash.seed")}
    assert nodes().settle("hash.seed", lambda: "another") in said


# ── what is kept in it ─────────────────────────────────────────────────────────────────────────────────────────────


def test_window_state_moves_from_node_to_node(nodes: Nodes) -> None:
    table = pa.table({"g0": ["a", None], "s0_0": [[1, 2], []]})
    needed = {"w": Needed(0)}
    for position in range(1, 6):
        store = SnapshotStore(nodes().place(PLACE), needed)
        found = store.load()
        assert (found.position if found else 0) == position - 1
        store.save(Snapshot(position, position * 10, {"w": table, "late": table}))
        assert store.safe == max(0, position - 1)
    late = SnapshotStore(nodes().place(PLACE), needed)
    with pytest.raises(Fenced):
        store.save(Snapshot(9, 90, {"w": table}))
    found = late.load()
    assert found is not None and found.position == 5 and found.tables["w"].equals(table)


def test_saved_ids_move_from_node_to_node(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_set, "RUNS_MAX", 3)
    place, horizon, count = f"{PLACE}/ids", 1 << 40, 600
    ids = np.random.default_rng(3).integers(0, 1 << 64, (count * 8, 2), np.uint64)
    held: Deduplicator | None = None
    for node in range(8):
        state, mine = nodes(), Deduplicator(horizon)
        assert mine.restore(state.place(place), node * count) == node * count
        upto = ids[: node * count]
        assert not mine.fresh(upto, None, node, node * count).any()
        new = ids[node * count : (node + 1) * count]
        for at in range(0, count, 100):
            offset = np.arange(node * count + at, node * count + at + 100)
            assert mine.fresh(new[at : at + 100], None, node, offset).all()
            mine.save(state.place(place), node * count + at + 100)
            if at == 200 and node % 2:
                mine._spill()
        if held is not None:
            held.save(nodes().place(place), 1 << 40)  # a former owner changes nothing
            held.close()
        held = mine
    assert held is not None
    held.close()
