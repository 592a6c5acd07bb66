"""How many workers a pool should have: up when work piles up, down when it has long been light. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from eagleray.cluster.sections import PoolConfig, PoolsConfig

UP_AFTER = 10  # busy observations in a row: 5 s at the controller's interval
DOWN_AFTER = 240  # light observations in a row: 2 minutes, so that a pool does not flap
BUSY, LIGHT = 0.7, 0.2


@dataclass
class Autoscaler:
    """Remembers how long each pool has been busy or light. A pool scaled by hand is held where it was put."""

    pools: PoolsConfig
    _busy: dict[str, int] = field(default_factory=dict)
    _light: dict[str, int] = field(default_factory=dict)
    _held: set[str] = field(default_factory=set)

    def hold(self, pool: str) -> None:
        """Leave `pool` alone from now on."""
        self._held.add(pool)

    def held(self, pool: str) -> bool:
        """Whether `pool` is left alone."""
        return pool in self._held

    def limits(self, pool: str) -> PoolConfig:
        """The configured limits of `pool`."""
        found: PoolConfig = self.pools.validate_ if pool == "validate" else getattr(self.pools, pool)
        return found

    def size(self, pool: str, size: int, load: float, free_cores: int) -> int:
        """The size for a pool of `size` at `load` (0 idle … 1 at its limit); grows only where a core is free for it."""
        if pool in self._held:
            return size
        self._busy[pool] = self._busy.get(pool, 0) + 1 if load >= BUSY else 0
        self._light[pool] = self._light.get(pool, 0) + 1 if load <= LIGHT else 0
        limits = self.limits(pool)
        if self._busy[pool] >= UP_AFTER and size < limits.max and free_cores > 0:
            self._busy[pool] = 0
            return size + 1
        if self._light[pool] >= DOWN_AFTER and size > limits.min:
            self._light[pool] = 0
            return size - 1
        return size
