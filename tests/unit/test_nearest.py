"""An edge asks the validators of its own node first, and those of others when its own have much more to do."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from eagleray.actors.messages import EdgeNews
from eagleray.actors.peer import LocalPeer
from eagleray.actors.ray_backend import FAR_BYTES, RayBackend
from eagleray.cluster.config import Config
from eagleray.cluster.events.verdict import Answer, Submission, pack, unpack_submissions


class Validator:
    """Accepts everything, and remembers how much."""

    def __init__(self) -> None:
        self.bytes = 0

    def serve(self, packed: Any) -> Any:
        submissions = unpack_submissions(packed)
        self.bytes += sum(len(one.body) for one in submissions)
        return pack([Answer(1, []) for _ in submissions])


def backend(near: frozenset[str]) -> tuple[RayBackend, dict[str, Validator]]:
    workers = {name: Validator() for name in ("validate-a-0", "validate-b-0")}
    made = RayBackend(Config(data_dir=Path("data")), LocalPeer("controller", object()))
    peers = [(LocalPeer(name, worker), name) for name, worker in workers.items()]
    made.attend(EdgeNews((0, 1), 0, peers, None, [], {}, {}, True, near))
    return made, workers


def send(to: RayBackend, count: int, size: int) -> None:
    async def all_at_once() -> None:
        await asyncio.gather(*(to.submit([Submission("s", "ndjson", b"x" * size)], 30) for _ in range(count)))

    asyncio.run(all_at_once())


def test_the_nearest_is_asked_while_it_keeps_up() -> None:
    edge, workers = backend(frozenset({"validate-b-0"}))
    send(edge, 4, FAR_BYTES // 8)
    assert workers["validate-a-0"].bytes == 0 and workers["validate-b-0"].bytes == FAR_BYTES // 2


def test_others_help_where_much_waits_at_home_and_are_asked_alone_where_there_is_nobody() -> None:
    edge, workers = backend(frozenset({"validate-b-0"}))
    send(edge, 4, FAR_BYTES)
    assert workers["validate-a-0"].bytes and workers["validate-b-0"].bytes
    edge, workers = backend(frozenset())
    send(edge, 4, 1000)
    assert workers["validate-a-0"].bytes == workers["validate-b-0"].bytes == 2000
