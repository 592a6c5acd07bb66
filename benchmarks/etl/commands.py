"""Runs `eagleray` as a user does, in a process of its own, and watches how long it takes and how much memory."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from processes import Sampler, descendants

TIMEOUT_S = 1800.0  # ends a hopeless run


@dataclass(frozen=True)
class Done:
    """How a command went; `peak_pss` is that of all processes below it together, `by_name` their share at that time."""

    took_s: float
    code: int
    peak_pss: int


def eagleray(project: Path, *words: str, log: Path, environ: Mapping[str, str] | None = None) -> Done:
    """Run the command in `project`; what it prints goes to `log`."""
    command = [str(Path(sys.executable).parent / "eagleray"), *words]
    with log.open("w") as output:
        began = time.perf_counter()
        process = subprocess.Popen(command, cwd=project, stdout=output, stderr=subprocess.STDOUT, env=environ)
        with Sampler(_below(process.pid), every_s=1.0) as sampler:
            code = process.wait(TIMEOUT_S)
        took_s = time.perf_counter() - began
    if code:
        print(log.read_text()[-4000:], file=sys.stderr)
    return Done(took_s, code, sampler.peak_pss)


def _below(pid: int) -> Callable[[], dict[str, int]]:
    """Every process that the command has started, Ray's own included."""
    return lambda: {str(below): below for below in descendants(pid)}
