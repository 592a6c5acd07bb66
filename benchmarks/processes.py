"""Memory and processor time of processes, from /proc, sampled while something else is measured.

Memory is reported twice. RSS counts pages that processes share (libraries, Ray's object store) in each of them; PSS
divides them among those that share them, so that its sum is what the machine gave. Ray's own processes (head, object
store, agents) are counted apart from our actors.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
MIB = 1 << 20


def memory(pid: int) -> tuple[int, int]:
    """(RSS, PSS) in bytes; (0, 0) for a process that is gone."""
    found = {"Rss": 0, "Pss": 0}
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in found:
                found[name] = int(rest.split()[0]) * 1024
    return found["Rss"], found["Pss"]


def cpu_s(pid: int) -> float:
    """Processor time used so far; 0 for a process that is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) * TICK_S


def descendants(pid: int) -> set[int]:
    """Every process below `pid`, itself included."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
    found, left = {pid}, [pid]
    while left:
        below = children.get(left.pop(), [])
        found.update(below)
        left += below
    return found


@dataclass(frozen=True)
class Sample:
    """All our actors at one moment; bytes."""

    at: float  # time.perf_counter()
    rss: int
    pss: int
    by_name: dict[str, int]  # PSS


@dataclass
class Sampler:
    """Samples the processes that `pids` names every `every_s` seconds, between `with` and its end."""

    pids: Callable[[], dict[str, int]]
    every_s: float = 2.0
    samples: list[Sample] = field(default_factory=list)
    cpu_shares: dict[str, float] = field(default_factory=dict)  # name → cores used on average

    def __enter__(self) -> Sampler:
        """Begin."""
        self._over = threading.Event()
        self._watched = self.pids()
        self._cpu = {name: cpu_s(pid) for name, pid in self._watched.items()}
        self._began = time.perf_counter()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._over.set()
        self._thread.join()
        took_s = time.perf_counter() - self._began
        for name, pid in self._watched.items():
            self.cpu_shares[name] = max(0.0, cpu_s(pid) - self._cpu.get(name, 0.0)) / took_s

    def _sample(self) -> None:
        while not self._over.wait(self.every_s):
            with contextlib.suppress(OSError):
                self._watched = self.pids() | self._watched
            found = {name: memory(pid) for name, pid in self._watched.items()}
            rss, pss = (sum(pair[i] for pair in found.values()) for i in (0, 1))
            self.samples.append(Sample(time.perf_counter(), rss, pss, {n: pair[1] for n, pair in found.items()}))

    @property
    def peak_pss(self) -> int:
        """The most that all had together."""
        return max((sample.pss for sample in self.samples), default=0)

    @property
    def peak_rss(self) -> int:
        """The same, shared pages counted in each process."""
        return max((sample.rss for sample in self.samples), default=0)

    def growth(self) -> float:
        """Mean PSS of the last fifth over that of the second fifth (the first is warm-up); 1.0 is flat."""
        fifth = len(self.samples) // 5
        if not fifth:
            return 1.0
        second, last = self.samples[fifth : 2 * fifth], self.samples[-fifth:]
        return sum(s.pss for s in last) / max(1, sum(s.pss for s in second))
