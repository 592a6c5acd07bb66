"""How long `up` takes until events can be acked and until everything is up, what an idle project holds; Ray's floor.

The floor is what Ray takes for a session and as many empty actors as the platform has, without a line of ours: measured
in the same run, in turn with the platform. Memory is PSS (a page that n processes share counts 1/n in each).
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from report import Figure, Report, show, write

ACTORS = 9
IDLE_S = 20.0
FLOOR = f"""
import time; began = time.time()
import os, tempfile
os.environ.update(RAY_USAGE_STATS_ENABLED="0")
import ray
directory = tempfile.mkdtemp(prefix="fl-")
ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False, num_cpus=2,
         object_store_memory=512 << 20, _temp_dir=directory)
@ray.remote(num_cpus=0)
class Empty:
    def here(self):
        return True
actors = [Empty.remote() for _ in range({ACTORS})]
ray.get([actor.here.remote() for actor in actors])
print(time.time() - began)
ray.shutdown()
"""


def tree(root: int) -> list[int]:
    """A process and all below it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, look = [], [root]
    while look:
        pid = look.pop()
        found.append(pid)
        look += children.get(pid, [])
    return found


def pss_bytes(pid: int) -> int:
    """Proportional set size."""
    try:
        return int(re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)[1]) << 10  # type: ignore[index]
    except (OSError, TypeError):
        return 0


def cpu_s(pid: int) -> float:
    """Processor time so far."""
    try:
        cells = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(cells[11]) + int(cells[12])) / os.sysconf("SC_CLK_TCK")


def one(directory: Path, idle: bool) -> dict[str, float]:
    """Start a fresh project, look at it, stop it."""
    eagleray = str(Path(sys.executable).parent / "eagleray")
    subprocess.run([eagleray, "init", str(directory)], check=True, capture_output=True)
    errors = directory / "err"
    began = time.monotonic()
    with errors.open("w") as out:
        up = subprocess.Popen([eagleray, "up", "--port", "0"], cwd=directory, stdout=subprocess.PIPE, stderr=out)
    assert up.stdout
    up.stdout.readline()
    found = {"ready_s": time.monotonic() - began}
    while "everything is up" not in errors.read_text():
        time.sleep(0.02)
    found["all_s"] = time.monotonic() - began
    if idle:
        time.sleep(10)
        pids = tree(up.pid)
        before = {pid: cpu_s(pid) for pid in pids}
        time.sleep(IDLE_S)
        found["idle_cpu"] = sum(cpu_s(pid) - before[pid] for pid in pids if cpu_s(pid)) / IDLE_S
        found["pss_mib"] = sum(map(pss_bytes, pids)) / 2**20
        found["processes"] = len(pids)
    up.send_signal(signal.SIGTERM)
    up.wait()
    up.stdout.close()
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    starts, floors = [], []
    with tempfile.TemporaryDirectory() as root:
        for run in range(options.runs):
            ran = subprocess.run([sys.executable, "-c", FLOOR], capture_output=True, text=True, check=True)
            floors.append(float(ran.stdout))
            starts.append(one(Path(root) / str(run), idle=run == options.runs - 1))
    ready, everything = (statistics.median(found[name] for found in starts) for name in ("ready_s", "all_s"))
    floor = statistics.median(floors)
    last = starts[-1]
    report = Report("start")
    report.figures += [
        Figure("ready: events can be acked", ready, "s", 8),
        Figure("everything is up", everything, "s"),
        Figure("Ray's floor: a session and as many empty actors", floor, "s"),
        Figure("everything up, against the floor", everything / floor, "x", 1.3),
        Figure("idle memory (PSS)", last["pss_mib"], "MiB", 1000),
        Figure("idle processor", last["idle_cpu"] * 100, "% of a core", 5),
        Figure("idle processes", last["processes"], ""),
    ]
    report.details = {"starts": starts, "floors": floors}
    show([report])
    write([report], Path(__file__).parent / "out", "benchmarks/start.py", "start.png")
    sys.exit(not report.met)


if __name__ == "__main__":
    main()
