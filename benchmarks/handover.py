#!/usr/bin/env python
"""Asks how long partitions stand still when a node of a cluster dies or is cut off, or the head goes and comes back.

    benchmarks/handover.py [FAULT …] [--away-s 60] [--logs DIRECTORY]        FAULT: power, cut, head, power-committer, …

The cluster is that of `tests/cluster` (three Ray nodes and a head in namespaces, Kafka, S3, Postgres, Redis; by root),
under the fault tests' load. One cluster takes all faults, so another one costs a minute. `power-committer` and
`cut-controller` take the node where that one is; `power` and `cut` alone one where neither is, if there is one, and
window or writer workers are. `renew` kills controller and committer, which go on with the code as it is then: so two
builds can be compared on one cluster. Seconds are from the fault on (`head`: from when the new head runs):

- noticed: /v1/status has no living worker on the node; assigned: the committer counts handovers, or is another
- window, writer: the position of the last of all partitions is beyond what was reported when the fault came
- events, closed: the same of the progress of the tables `events` and `total`, read from the catalog
"""

from __future__ import annotations

import argparse
import http.client
import json
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pyiceberg.catalog import load_catalog

from eagleray.cluster.lake.progress import CLOSED, decode
from tests.cluster.cluster import Cluster
from tests.running_platform import eventually
from tests.servers.ray_nodes import RayNode

LOOK_S, ASK_S = 0.2, 3.0
GRACE_S = 1.0  # what is reported until then may be of before the fault
HOPELESS_S = 240.0
SETTLE_S = 40.0  # between faults: workers are levelled out after 30 s
PRODUCERS = 48  # a key each; with the fault tests' 12, one of six partitions may have none
MOVING = ("window", "writer", "events", "closed")


@dataclass
class Watch:
    """What can move, as last seen; one thread asks the platform, another the tables."""

    cluster: Cluster
    catalog: dict[str, str]
    status: dict[str, Any] = field(default_factory=dict)
    moves: dict[str, dict[str, int]] = field(default_factory=lambda: {what: {} for what in MOVING})
    without: str = ""  # address of a node that is not asked

    def begin(self) -> None:
        """Look until the process ends."""
        for work in (self._look_at_status, self._look_at_tables):
            threading.Thread(target=_forever, args=(work,), daemon=True).start()

    def _look_at_status(self) -> None:
        for node in self.cluster.workers:
            if node.ip == self.without:
                continue
            connection = http.client.HTTPConnection(node.ip, 8080, timeout=ASK_S)
            try:
                connection.request("GET", "/v1/status", headers=self.cluster.platform.headers)
                self.status = json.loads(connection.getresponse().read())
                break
            except (OSError, http.client.HTTPException, ValueError):
                continue
            finally:
                connection.close()
        for row in self.status["partitions"]:
            for pool in ("window", "writer"):
                if row.get(pool):
                    self._see(pool, str(row["partition"]), row[pool]["position"])

    def _look_at_tables(self) -> None:
        catalog = load_catalog("eagleray", **self.catalog)
        while True:
            for part, place in decode(catalog.load_table("orders.events").properties).items():
                self._see("events", part, place)
            self._see("closed", CLOSED, decode(catalog.load_table("orders.total").properties)[CLOSED])
            time.sleep(LOOK_S)

    def _see(self, what: str, part: str, place: int) -> None:
        self.moves[what][part] = max(place, self.moves[what].get(part, place))

    def places(self) -> dict[str, dict[str, int]]:
        """How far everything is."""
        return {what: dict(parts) for what, parts in self.moves.items()}

    def workers(self, ip: str) -> list[str]:
        """Names of the workers that live on a node, by the last status."""
        return [row["name"] for row in self.status["processes"] if row["alive"] and row.get("node") == ip]

    def handovers(self) -> float:
        """What the committer has counted; one that has just begun counts from 0."""
        counters: dict[str, float] = self.status.get("counters", {})
        return sum(count for name, count in counters.items() if name.startswith("partition_handovers_total"))


def _forever(work: Callable[[], None]) -> None:
    while True:
        with suppress(Exception):  # whatever is away is asked again
            work()
        time.sleep(LOOK_S)


def beyond(watch: Watch, before: dict[str, dict[str, int]], what: str) -> bool:
    """Whether every part has moved on since `before`."""
    now = watch.moves[what]
    return bool(before[what]) and all(now.get(part, place) > place for part, place in before[what].items())


def seconds(began: float, questions: dict[str, Callable[[], bool]]) -> dict[str, float]:
    """For each question, when it was first answered with yes; inf: not within HOPELESS_S."""
    found: dict[str, float] = {}
    while len(found) < len(questions) and time.monotonic() - began < HOPELESS_S:
        for name, holds in questions.items():
            if name not in found and holds():
                found[name] = time.monotonic() - began
        time.sleep(LOOK_S / 4)
    return {name: found.get(name, float("inf")) for name in questions}


def victim(watch: Watch, wanted: str) -> RayNode:
    """The node that a fault of that name hits."""
    nodes = watch.cluster.workers
    has = {node.ip: set(watch.workers(node.ip)) for node in nodes}
    alone = {node.ip: {"committer": any(name.startswith("committer") for name in has[node.ip]),
                       "controller": bool(node.pids("ray::Controller"))} for node in nodes}  # fmt: skip
    if wanted:
        return next(node for node in nodes if alone[node.ip][wanted])
    count = {ip: sum(name.startswith(("window", "writer")) for name in names) for ip, names in has.items()}
    return min(nodes, key=lambda node: (not count[node.ip], sum(alone[node.ip].values()), -count[node.ip]))


def lose(watch: Watch, fault: str) -> None:
    """Take a node away, and bring it back in the end."""
    kind, _, wanted = fault.partition("-")
    node = victim(watch, wanted)
    print(f"{fault}: node {node.number} with {', '.join(watch.workers(node.ip))}", flush=True)
    handed, watch.without = watch.handovers(), node.ip
    (node.cut if kind == "cut" else node.power_off)()
    began = time.monotonic()
    time.sleep(GRACE_S)
    before = watch.places()
    questions: dict[str, Callable[[], bool]] = {
        "noticed": lambda: not watch.workers(node.ip),
        "assigned": lambda: watch.handovers() != handed,
        **{what: lambda what=what: beyond(watch, before, what) for what in MOVING},
    }
    found = seconds(began, questions)
    say(fault, found)
    if kind == "cut":
        node.heal()
        with suppress(Exception):  # a raylet that has not been declared dead goes on
            node.wait_dead(90)
    node.power_off()
    watch.cluster.launch(node)
    node.wait()
    watch.without = ""
    eventually(lambda: watch.cluster.platform.nodes().get(node.ip, {}).get("url"), HOPELESS_S)


def restart_head(watch: Watch, away_s: float) -> None:
    """Take the head away; what moves meanwhile is said too."""
    head = watch.cluster.head
    head.power_off()
    time.sleep(GRACE_S)
    before, gone = watch.places(), time.monotonic()
    meanwhile = seconds(gone - HOPELESS_S + away_s, {what: lambda w=what: beyond(watch, before, w) for what in MOVING})
    moved = [what for what, at in meanwhile.items() if at < float("inf")]
    time.sleep(max(0.0, away_s - (time.monotonic() - gone)))
    print(f"head: while it was away for {away_s:g} s, these moved: {', '.join(moved) or 'nothing'}", flush=True)
    launched = time.monotonic()
    watch.cluster.launch_head()
    head.wait()
    began = time.monotonic()
    print(f"head: it started within {began - launched:.1f} s", flush=True)
    before = watch.places()
    say("head", seconds(began, {what: lambda w=what: beyond(watch, before, w) for what in MOVING}))


def renew(watch: Watch) -> None:
    """Kill controller and committer, which go on with the code as it is now."""
    began, before = time.monotonic(), watch.places()
    for node in watch.cluster.workers:
        for words in ("ray::ControllerActor", "ray::committer"):
            node.signal(words, signal.SIGKILL)
    say("renew", seconds(began, {what: lambda w=what: beyond(watch, before, w) for what in MOVING}))


def say(fault: str, found: dict[str, float]) -> None:
    """Print a line of seconds."""
    print(f"{fault}: {', '.join(f'{what} {at:.1f} s' for what, at in found.items())}", flush=True)


def main() -> int:
    """Measure each fault in turn; exits 1 where the checker finds a loss or a double in the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faults", nargs="*", default=["power", "cut", "head"])
    parser.add_argument("--away-s", type=float, default=60.0, help="how long the head is away")
    parser.add_argument("--logs", type=Path, help="where the workers' logs of all nodes go in the end")
    args = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="eagleray-handover-", dir="/tmp"))
    directory.chmod(0o755)
    began = time.monotonic()
    try:
        with ExitStack() as stack:
            cluster = Cluster(directory, stack)
            cluster.eagleray("deploy")
            cluster.know_edges(len(cluster.workers))
            trial = cluster.trial("load")
            trial.load_options += ["--producers", str(PRODUCERS), "--rows", "15", "--pause", "2"]
            trial.begin()
            stack.callback(trial.end)
            assert trial.catalog
            watch = Watch(cluster, trial.catalog)
            watch.begin()
            print(f"the cluster took {time.monotonic() - began:.0f} s", flush=True)
            for fault in args.faults:
                settle(watch)
                known = {"head": lambda: restart_head(watch, args.away_s), "renew": lambda: renew(watch)}
                known.get(fault, lambda fault=fault: lose(watch, fault))()
                keep_logs(cluster, args.logs)
            settle(watch)
            trial.end()
            trial.close_windows()
            trial.assert_safe(HOPELESS_S)
            print("the checker finds nothing lost and nothing doubled")
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return 0


def settle(watch: Watch) -> None:
    """Until everything moves, and for as long as workers may be levelled out."""
    eventually(lambda: len(watch.moves["events"]) == len(watch.moves["window"]) == 6, HOPELESS_S)
    time.sleep(SETTLE_S)
    before = watch.places()
    try:
        eventually(lambda: all(beyond(watch, before, what) for what in MOVING), HOPELESS_S)
    except AssertionError:
        print(f"not everything moves: {before} and then {watch.places()}", flush=True)


def keep_logs(cluster: Cluster, place: Path | None) -> None:
    """Copy what workers on each node have logged; a node that was powered off has kept what it had."""
    for node in cluster.workers if place else ():
        assert place
        logs = Path(f"/proc/{node.first}/root{cluster.platform.data}/logs")
        for file in logs.glob("*.log"):
            target = place / f"node-{node.number}" / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("ab") as out:
                out.write(file.read_bytes())


if __name__ == "__main__":
    raise SystemExit(main())
