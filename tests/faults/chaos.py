"""Chaos: faults of every kind, drawn with a seed, on one platform under load; the checker judges what is left.

    python tests/faults/chaos.py --minutes 5 [--seed N]

A deck holds every kind of fault once and is shuffled anew when it is empty, so that a long run meets all of them and in
many orders. After each fault, acks, the table and the windows must move again. Prints each fault as it happens, and the
seed first and last: the same seed draws the same faults.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.faults.trial import Trial  # noqa: E402
from tests.running_platform import RunningPlatform  # noqa: E402

PROJECT = Path(__file__).parent / "project"
EAGLERAY = str(Path(sys.executable).parent / "eagleray")
RESUME_S = 90.0  # a hopeless wait ends after this: a restart on a busy machine takes a third of it
COMMAND_S = 600.0
SETTLE_S = 150.0
LONGEST_WINDOW_S = 12.0  # of the project, with some room
PATIENCE_S = 240.0  # a producer repeats a batch for this long: several restarts may follow one another
POOLS = ("edge", "validate", "window", "writer", "committer", "controller")


class Chaos:
    """One run: a platform in `directory`, its load, and a source of chance."""

    def __init__(self, directory: Path, seed: int) -> None:
        """Nothing runs before `run`."""
        self.random = random.Random(seed)
        self.platform = RunningPlatform(directory / "project", PROJECT)
        self.trial = Trial(self.platform, directory / "notes", "chaos_checker")
        self.file = directory / "project" / "eagleray.yaml"
        self.directory = directory
        self.saved, self.saved_log = directory / "state", directory / "log"
        self.drawn: list[str] = []
        config = yaml.safe_load(self.file.read_text())
        config["streams"] = {"orders": config["streams"]["orders"]}
        config["streams"]["orders"]["clock_slack"] = "1s"
        config["streams"]["orders"]["allowed_lateness"] = "1s"
        self.file.write_text(yaml.safe_dump(config))

    # what is done

    def kill(self) -> str:
        """One worker, or all of a pool, by SIGKILL."""
        pool, only = self.random.choice(POOLS), self.random.choice([None, 0])
        self.trial.kill(pool, only=only)
        return f"{pool} {'all' if only is None else 'one'}"

    def kill_in_bursts(self) -> str:
        """Several pools one right after the other."""
        pools = self.random.sample(POOLS, 3)
        for pool in pools:
            self.trial.kill(pool, only=0)
            time.sleep(self.random.uniform(0, 0.5))
        return " ".join(pools)

    def stop_and_wake(self) -> str:
        """A worker that is stopped for a while and wakes up, replaced or not."""
        pool, pause_s = self.random.choice(POOLS[1:]), self.random.uniform(1, 20)
        stopped = self.trial.kill(pool, signal.SIGSTOP, only=0)
        time.sleep(pause_s)
        for pid in stopped:
            with contextlib.suppress(ProcessLookupError):  # it was given up and replaced
                os.kill(pid, signal.SIGCONT)
        return f"{pool} for {pause_s:.1f} s"

    def power_cut(self) -> str:
        """Every process at once, then a start."""
        self.platform.kill()
        self.start()
        return ""

    def restart(self) -> str:
        """SIGTERM, which drains; then a start."""
        self.drain()
        self.start()
        return ""

    def ray_killed(self) -> str:
        """A process of Ray's own: `up` recovers, or ends with another code than 0 and is started again."""
        names = {"raylet": "raylet/raylet", "gcs": "gcs/gcs_server"}
        name = self.random.choice(sorted(names))
        for pid in self.platform.processes():
            with contextlib.suppress(OSError):
                if names[name].encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(AssertionError, OSError):
            self.trial.assert_progress(RESUME_S)
            return name
        process = self.platform.process
        assert process and process.poll() not in (None, 0), f"`up` lives on without {name} and serves nothing"
        self.platform.kill()
        self.start()
        return f"{name}: `up` ended with {process.poll()}"

    def scale(self) -> str:
        """Another size of a pool."""
        size = f"{self.random.choice(POOLS[1:4])}={self.random.choice([1, 2, 3])}"
        self.command("scale", size)
        return size

    def maintain(self) -> str:
        """Compaction, expiry and removal of orphans, beside the writer."""
        words = self.random.choice([["compact"], ["expire", "--older-than", "0s"], ["orphans", "--grace", "1h"]])
        self.command("job", "run", *words)
        return " ".join(words)

    def state_lost(self) -> str:
        """The directory of saved state, which may be deleted at any time that nothing runs."""
        self.platform.kill()
        shutil.rmtree(self.platform.data / "state")
        self.start()
        return ""

    def state_from_yesterday(self) -> str:
        """Saved state as it was when this was drawn last."""
        self.platform.kill()
        state, found = self.platform.data / "state", self.saved.exists()
        if found:
            shutil.rmtree(state)
            shutil.copytree(self.saved, state)
            shutil.rmtree(self.saved)
        shutil.copytree(state, self.saved)
        self.start()
        return "restored" if found else "saved"

    def state_damaged(self) -> str:
        """Some bytes of some saved files are others."""
        self.platform.kill()
        files = sorted(
            file for file in (self.platform.data / "state").rglob("*") if file.is_file() and file.stat().st_size
        )
        chosen = self.random.sample([f for f in files if "seed" not in f.name], k=min(3, len(files)))
        for file in chosen:
            data = bytearray(file.read_bytes())
            for _ in range(8):
                data[self.random.randrange(len(data))] ^= 0xFF
            file.write_bytes(data)
        self.start()
        return " ".join(file.name for file in chosen)

    def log_lost(self) -> str:
        """The log's directory is gone: `up` refuses, `recover` begins a new epoch from the tables."""
        self.drain()
        shutil.rmtree(self.platform.data / "log")
        self.recover()
        return ""

    def log_from_yesterday(self) -> str:
        """The log as it was when this was drawn last, older than the tables."""
        self.drain()
        log, found = self.platform.data / "log", self.saved_log.exists()
        if found:
            shutil.rmtree(log)
            shutil.move(self.saved_log, log)
            self.recover()
        else:
            shutil.copytree(log, self.saved_log)
            self.start()
        return "restored" if found else "saved"

    def backed_up(self) -> str:
        """A backup while the platform runs, read through afterwards."""
        backup = self.directory / f"backup-{len(self.drawn)}"
        self.command("backup", str(backup))
        self.command("backup", str(backup), "--check")
        shutil.rmtree(backup)
        return ""

    def schema_grown(self) -> str:
        """One optional field more."""
        file = self.platform.directory / "orders.schema.json"
        schema = json.loads(file.read_text())
        name = f"note_{len(schema['properties'])}"

        def change(config: dict[str, Any]) -> None:
            schema["properties"][name] = {"type": "string"}
            file.write_text(json.dumps(schema))

        return self.reconfigure(change) + name

    def log_trimmed_by_retention(self) -> str:
        """Retention of four seconds for a while: what readers need stays."""
        return self.reconfigure(lambda config: config["log"].update(retention_hours=0.001))

    def lateness_changed(self) -> str:
        """More or less allowed lateness."""
        value = f"{self.random.choice([0, 500, 1000, 3000, 6000])}ms"
        return self.reconfigure(lambda config: config["streams"]["orders"].update(allowed_lateness=value)) + value

    def disorder_changed(self) -> str:
        """More or less out-of-orderness."""
        value = f"{self.random.choice([500, 1000, 2000, 4000])}ms"
        return self.reconfigure(lambda config: config["streams"]["orders"].update(max_out_of_orderness=value)) + value

    def window_resized(self) -> str:
        """Another size of the window `kinds`."""
        size = f"{self.random.choice([2, 3, 5, 7, 10])}s"
        return (
            self.reconfigure(lambda config: config["streams"]["orders"]["windows"]["kinds"].update(tumble=size)) + size
        )

    def window_added_or_removed(self) -> str:
        """The window `extra` comes, or goes."""
        extra = {"tumble": "4s", "group_by": ["producer"], "aggregate": {"events": "count()"}}

        def change(config: dict[str, Any]) -> None:
            windows = config["streams"]["orders"]["windows"]
            if windows.pop("extra", None) is None:
                windows["extra"] = extra

        return self.reconfigure(change)

    def filter_changed(self) -> str:
        """A filter that takes everything, or none: another definition, the same counts."""

        def change(config: dict[str, Any]) -> None:
            stream = config["streams"]["orders"]
            if stream.pop("filter", None) is None:
                stream["filter"] = "seq >= 0"

        return self.reconfigure(change)

    def device_ahead(self) -> str:
        """Events 50 minutes ahead: one for each of some producers, whose partitions must not follow."""
        for producer in range(4):
            self.trial.close_windows(50 * 60, producer)
        return ""

    # how

    def reconfigure(self, change: Callable[[dict[str, Any]], None]) -> str:
        """Change eagleray.yaml between a stop (a kill or a drain) and a start."""
        config = yaml.safe_load(self.file.read_text())
        change(config)
        killed = self.random.random() < 0.5
        self.platform.kill() if killed else self.drain()
        self.file.write_text(yaml.safe_dump(config))
        self.start()
        return "after a kill: " if killed else "after a drain: "

    def recover(self) -> None:
        """Nothing starts on a log that is not the tables' own; after `recover` it does."""
        refused = ""
        try:
            self.start()
        except AssertionError as error:
            refused = str(error)
        assert "recover" in refused, f"`up` did not refuse a log that is not the tables' own: {refused!r}"
        self.command("recover")
        self.start()

    def drain(self) -> None:
        """End the platform by SIGTERM; what was acked must be committed."""
        assert self.platform.stop() == 0, "SIGTERM did not end it with code 0"

    def start(self) -> None:
        """Start the platform again on the port that the load sends to."""
        self.platform.start(port=int(self.platform.url.rpartition(":")[2]))

    def command(self, *words: str) -> None:
        """Run `eagleray WORDS`, which must succeed."""
        done = subprocess.run(
            [EAGLERAY, *words, "-c", str(self.file)],
            cwd=self.platform.directory,
            env={**os.environ, "EAGLERAY__DATA_DIR": str(self.platform.data)},
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
        )
        assert done.returncode == 0, f"eagleray {' '.join(words)} exited with {done.returncode}: {done.stderr[-2000:]}"

    def settle(self) -> str:
        """End the load, let every window become final, and return the findings that stay."""
        self.trial.end()
        deadline, findings = time.monotonic() + SETTLE_S, "nothing was checked"
        time.sleep(LONGEST_WINDOW_S)  # so that no window holds events of the load and closing ones
        while findings and time.monotonic() < deadline:
            for producer in range(12):
                self.trial.close_windows(0, producer)
            time.sleep(4)
            findings = self.trial.verdict()
        return findings

    def run(self, minutes: float) -> str:
        """Faults for `minutes`, then the verdict: the findings, "" if there are none."""
        self.platform.start()
        self.trial.begin(patience_s=PATIENCE_S)
        deck: list[Callable[[], str]] = []
        end = time.monotonic() + minutes * 60
        while time.monotonic() < end:
            if not deck:
                deck = self.random.sample(FAULTS, len(FAULTS))
            fault = deck.pop()
            name = fault.__name__
            began = time.monotonic()
            how = fault(self)
            self.trial.assert_progress(RESUME_S)
            self.drawn.append(name)
            print(f"{name:<26} {how:<34} {time.monotonic() - began:5.1f} s", flush=True)
            time.sleep(self.random.uniform(0, 3))
        return self.settle()


FAULTS: list[Callable[..., str]] = [
    Chaos.kill,
    Chaos.kill_in_bursts,
    Chaos.stop_and_wake,
    Chaos.power_cut,
    Chaos.restart,
    Chaos.ray_killed,
    Chaos.scale,
    Chaos.maintain,
    Chaos.state_lost,
    Chaos.state_from_yesterday,
    Chaos.state_damaged,
    Chaos.log_lost,
    Chaos.log_from_yesterday,
    Chaos.log_trimmed_by_retention,
    Chaos.lateness_changed,
    Chaos.disorder_changed,
    Chaos.window_resized,
    Chaos.window_added_or_removed,
    Chaos.filter_changed,
    Chaos.schema_grown,
    Chaos.backed_up,
    Chaos.device_ahead,
]
"""Every kind of fault, each once in a deck."""


def main() -> None:
    """Run, print the verdict, and exit 1 if anything was found; the directory stays then."""
    parser = argparse.ArgumentParser(description="Faults of every kind on one platform under load.")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="eagleray-chaos-"))
    chaos = Chaos(directory, args.seed)
    findings = "the run did not end"
    try:
        findings = chaos.run(args.minutes)
    finally:
        if chaos.trial.load:
            chaos.trial.load.kill()
        chaos.platform.kill()
        missing = {fault.__name__ for fault in FAULTS} - set(chaos.drawn)
        print(f"{len(chaos.drawn)} faults; not drawn: {', '.join(sorted(missing)) or 'none'}")
        print(f"seed {args.seed}: {'nothing is lost, doubled or wrong' if not findings else f'see {directory}'}")
        if not findings:
            shutil.rmtree(directory)
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
