"""What a controller leaves for its successor: who it was, the sizes of its pools, the edge's port.

A file in `state_dir`; where state is shared, a place of it, so that a successor on another node finds it. Lost, the
sizes are those of the workers that live, and the incarnation is learnt from the committer (`Controller`). A fresh `up`
starts with the configured sizes: `run` tells it from a restart within one.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from eagleray.cluster.config import Config
from eagleray.cluster.durable import write_whole
from eagleray.cluster.state.backends import open_state
from eagleray.cluster.state.protocol import Claim, Fenced

logger = logging.getLogger(__name__)

FILE = "controller.json"
PLACE = "_controller"  # no stream is called so


@dataclass(frozen=True)
class Legacy:
    """A controller's word to the next. Incarnations only grow, over runs too."""

    run: str
    incarnation: int = 0
    sizes: Mapping[str, int] = field(default_factory=dict)
    held: tuple[str, ...] = ()  # pools that were scaled by hand
    port: int = 0  # 0: no edge has listened yet
    drained: tuple[str, ...] = ()  # ids of nodes that shall have no workers


class Succession:
    """Where one controller's word is left for the next."""

    def __init__(self, config: Config) -> None:
        """Nothing is read before `take_over`."""
        self._file = config.state_dir / FILE
        self._shared = open_state(config).place(PLACE) if config.state.backend == "shared" else None
        self._claim: Claim | None = None

    def take_over(self, run: str) -> Legacy:
        """Become the controller of `run`: later than any before. A database that is away costs sizes, and no more."""
        if self._shared is None:
            return take_over(self._file, run)
        try:
            self._claim = self._shared.claim()
        except OSError as error:
            logger.warning("the word of the controller before was not read: %s", error)
            return Legacy(run, 1)
        found = _parse(self._claim.word or "null", PLACE)
        mine = _heir(found, run)
        self.leave(mine)
        return mine

    def leave(self, legacy: Legacy) -> bool:
        """Write it down; False where a later controller has been made since, whose word stays."""
        if self._shared is None:
            leave(self._file, legacy)
            return True
        try:
            self._claim = self._claim or self._shared.claim()
            self._claim.publish(json.dumps(asdict(legacy)))
        except Fenced:
            return False
        except OSError as error:
            logger.warning("the controller's word was not left: %s", error)
        return True


def _heir(found: Legacy, run: str) -> Legacy:
    mine = found if found.run == run else Legacy(run, found.incarnation)
    return replace(mine, incarnation=found.incarnation + 1)


def take_over(file: Path, run: str) -> Legacy:
    """Become the controller of `run`: one incarnation later than any before; sizes and port of the same run."""
    mine = _heir(_read(file), run)
    leave(file, mine)
    return mine


def leave(file: Path, legacy: Legacy) -> None:
    """Write it down, durable and in one step. A disk that takes nothing costs sizes, and no more."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(asdict(legacy)))
    except OSError as error:
        logger.warning("%s was not written: %s", file, error)


def _read(file: Path) -> Legacy:
    try:
        return _parse(file.read_text(), file)
    except FileNotFoundError:
        return Legacy("")
    except (OSError, UnicodeDecodeError) as error:
        logger.warning("%s is passed over: %s", file, error)
        return Legacy("")


def _parse(text: str, where: object) -> Legacy:
    try:
        found: dict[str, Any] = json.loads(text)
        if found is None:
            return Legacy("")
        sizes = {str(pool): int(size) for pool, size in found["sizes"].items()}
        held, drained = tuple(found["held"]), tuple(found.get("drained", ()))
        return Legacy(str(found["run"]), int(found["incarnation"]), sizes, held, int(found["port"]), drained)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning("%s is passed over: %s", where, error)
        return Legacy("")
