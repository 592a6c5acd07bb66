"""A trial: the load process beside a running platform, kills by process id, and the checker's verdict at the end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tests.faults.checker import FIRST_CLOSING_SEQ
from tests.running_platform import RunningPlatform, eventually, running

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESUME_S = 30.0  # progress must resume within this time of the heal
WATCH_S = 60.0


class Trial:
    """Load on the stream `orders`; notes in `directory`."""

    def __init__(self, platform: RunningPlatform, directory: Path, checker: str = "checker") -> None:
        """Nothing is sent before `begin`; the module `checker` of this directory judges at the end."""
        self.platform = platform
        self.directory = directory
        self.checker = checker
        self.load: subprocess.Popen[bytes] | None = None
        self.urls: list[str] = []  # of edges, where there are several
        self.load_options: list[str] = []
        self.catalog: dict[str, str] | None = None  # pyiceberg's properties, where it is not in the data directory
        directory.mkdir(parents=True, exist_ok=True)

    def begin(self, first: int = 0, patience_s: float = 90.0) -> None:
        """Start the load; producers number their events from `first`."""
        command = [sys.executable, str(HERE / "load.py"), "--notes", str(self.directory), *self.load_options]
        command += [word for url in self.urls or [self.platform.url] for word in ("--url", url)]
        self.load = subprocess.Popen([*command, "--first", str(first), "--patience", str(patience_s)])
        eventually(lambda: self.acked() > 0)

    def end(self) -> None:
        """Stop the load: every batch that was begun gets acked."""
        if self.load:
            self.load.send_signal(signal.SIGTERM)
            try:
                assert self.load.wait(120) == 0
            finally:
                self.load.kill()
                self.load.wait()
                self.load = None

    def acked(self) -> int:
        """Requests acked so far."""
        notes = self.directory / "acked.jsonl"
        return notes.read_bytes().count(b"\n") if notes.exists() else 0

    def kill(self, pool: str, number: int = signal.SIGKILL, only: int | None = None) -> list[int]:
        """Signal a pool's workers (the one at index `only`, or all); returns their pids."""
        pids: list[int] = eventually(lambda: self.platform.pids(pool))
        hit = pids if only is None else [pids[only % len(pids)]]
        for pid in hit:
            with contextlib.suppress(ProcessLookupError):  # killed before, and the platform has not noticed yet
                os.kill(pid, number)
        return hit

    def wait_replaced(self, pool: str, gone: list[int]) -> None:
        """Until the pool has as many living workers as before, none of them one of `gone`."""

        def replaced() -> bool:
            pids = self.platform.pids(pool)
            size: int = self.platform.get("/v1/status")["pools"][pool]["size"]
            return len(pids) == size and not set(pids) & set(gone)

        eventually(replaced)

    def assert_progress(self, within_s: float = RESUME_S) -> None:
        """Acks, the events table and window tables all move again, each within `within_s`."""
        acked = self.acked()
        eventually(lambda: self.acked() > acked + 5, within_s)
        stored = eventually(lambda: self.platform.count("orders.events") + 1, within_s)
        final = eventually(lambda: self.platform.count("orders.total") + 1, within_s)
        eventually(lambda: self.platform.count("orders.events") > stored, within_s)
        eventually(lambda: self.platform.count("orders.total") > final, within_s)

    def close_windows(self, ahead_s: float = 1800, producer: int = 0) -> None:
        """One event of `producer`, `ahead_s` from now; the silent partitions follow it after idle_timeout."""
        ahead = time.gmtime(time.clock_gettime(time.CLOCK_REALTIME) + ahead_s)
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", ahead)
        event = {"id": f"closing {producer} {stamp}", "producer": producer, "seq": FIRST_CLOSING_SEQ, "time": stamp}
        line = json.dumps(event | {"kind": "closing", "amount": 0}).encode()
        eventually(lambda: self.platform.post("orders", line)[0] == 200)

    def verdict(self) -> str:
        """The checker's findings, "" if there are none."""
        command = [sys.executable, "-m", f"tests.faults.{self.checker}", "--data", str(self.platform.data)]
        command += ["--notes", str(self.directory)]
        if self.catalog:
            command += ["--catalog", json.dumps(self.catalog)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=ROOT)
        print(done.stdout, flush=True)
        return "" if done.returncode == 0 else done.stdout + done.stderr

    def assert_safe(self, timeout_s: float = 60.0) -> None:
        """The checker finds nothing, as soon as every window is final; waits for that at most `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while findings := self.verdict():
            assert time.monotonic() < deadline, findings
            time.sleep(2)

    def assert_all_is_there_once(self) -> None:
        """End the load, let every window become final, and stop: the checker finds nothing before and after."""
        self.end()
        self.close_windows()
        self.assert_safe()
        assert self.platform.stop() == 0
        assert self.verdict() == ""


@contextlib.contextmanager
def on_trial(directory: Path, environ: Mapping[str, str] = {}) -> Iterator[Trial]:
    """A platform of the fault tests' project, of its own, under load from here on; both end with the block."""
    with running(RunningPlatform(directory / "platform", HERE / "project", environ)) as platform:
        trial = Trial(platform, directory / "notes")
        trial.begin()
        try:
            yield trial
        finally:
            if trial.load:
                trial.load.kill()
                trial.load.wait()


def watch(changed: Callable[[], object], timeout_s: float = WATCH_S) -> bool:
    """Wait for `changed()` to return something new, looking every millisecond; False if it never does."""
    before, deadline = changed(), time.monotonic() + timeout_s
    while changed() == before:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


def names(directory: Path, pattern: str) -> frozenset[tuple[str, int]]:
    """Names and times of change of the files below `directory`."""
    found = set()
    for file in directory.rglob(pattern):
        try:
            found.add((str(file), file.stat().st_mtime_ns))
        except FileNotFoundError:
            continue
    return frozenset(found)
