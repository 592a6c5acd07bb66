"""Where workers go in a cluster of several nodes, and who owns which partition. Pure; called by the controller.

1. A node is for a pool where its role says so, or where it has none.
2. Edges and validators are on every node that is for them. Workers of other pools are spread: each new one goes where
   the fewest of its pool are.
3. Partitions of a stream are shared out evenly, within one. Who owns which follows from the names of those that can
   own some, so a controller that starts anew finds the same, and a worker that goes moves little but what it had.
4. What a worker does not hear of while its node is away is given to the others, and it gets it back when it answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from eagleray.actors.messages import PartitionId
from eagleray.cluster.errors import EaglerayError

ROLE = "eagleray-role"
"""The label of a node that is for some of the pools alone: `edge`, `stream` or `batch`."""

POOLS = {
    "edge": ("edge", "validate"),
    "stream": ("window", "writer", "committer", "sql", "scheduler", "postgres"),
    "batch": (),
}
"""The pools of each role. A node without one is for all of them."""


@dataclass(frozen=True)
class Node:
    """A node of the Ray cluster that lives."""

    id: str
    ip: str
    role: str = ""
    cpus: float = 0.0
    draining: bool = False

    def takes(self, pool: str) -> bool:
        """Whether workers of `pool` may be there (rule 1). One without cores, as a head should be, takes none."""
        return self.cpus > 0 and (not self.role or pool in POOLS.get(self.role, ()))


def nodes_of(table: Iterable[Mapping[str, Any]], draining: Collection[str]) -> dict[str, Node]:
    """The living nodes of Ray's table, by id."""
    return {
        row["NodeID"]: Node(
            row["NodeID"],
            row["NodeManagerAddress"],
            row.get("Labels", {}).get(ROLE, ""),
            float(row.get("Resources", {}).get("CPU", 0.0)),
            row["NodeID"] in draining,
        )
        for row in table
        if row["Alive"]
    }


def places(pool: str, nodes: Iterable[Node]) -> list[Node]:
    """The nodes that new workers of `pool` may go to, in order."""
    return sorted((node for node in nodes if node.takes(pool) and not node.draining), key=lambda node: node.id)


def emptiest(choices: Sequence[Node], held: Iterable[str], all_held: Iterable[str]) -> Node | None:
    """Where the next worker of a pool goes (rule 2); None: nowhere. `held`: the nodes of the pool's workers now."""
    of_pool, of_all = Counter(held), Counter(all_held)
    return min(choices, key=lambda node: (of_pool[node.id], of_all[node.id], node.id), default=None)


def share_out(streams: Iterable[str], partitions: int, names: Collection[str]) -> dict[PartitionId, str]:
    """An owner for each partition, by rule 3; empty where nobody can own any."""
    found: dict[PartitionId, str] = {}
    for stream in sorted(streams) if names else ():
        least, above = divmod(partitions, len(names))
        held: Counter[str] = Counter()
        for partition in range(partitions):
            full = sum(count > least for count in held.values()) >= above
            for name in sorted(names, key=lambda name: _rank(stream, partition, name)):
                if held[name] < least or (held[name] == least and not full):
                    held[name] += 1
                    found[stream, partition] = name
                    break
    return found


def _rank(stream: str, partition: int, name: str) -> bytes:
    return blake2b(f"{stream}/{partition}/{name}".encode(), digest_size=8).digest()


def find(nodes: Mapping[str, Node], asked: str) -> Node:
    """The node that is meant by `asked`, an address or the beginning of an id; raises EaglerayError."""
    hits = [node for node in nodes.values() if asked == node.ip or (len(asked) >= 4 and node.id.startswith(asked))]
    if len(hits) == 1:
        return hits[0]
    known = ", ".join(sorted(node.ip for node in nodes.values()))
    raise EaglerayError(f"{asked!r} names {len(hits) or 'no'} nodes that live; expected one of {known}")
