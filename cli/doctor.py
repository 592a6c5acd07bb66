"""`eagleray doctor`: looks at machine, installation and configuration, and says what to do about what is wrong."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Annotated, Literal, NamedTuple

import typer

from eagleray.cli.options import DEFAULT_CONFIG, ConfigFile
from eagleray.cluster.client.target import platform_file
from eagleray.cluster.clock import Clock, SystemClock, iso
from eagleray.cluster.config import Config, load_config
from eagleray.cluster.errors import ConfigError, EaglerayError
from eagleray.cluster.events.fast_path import library
from eagleray.cluster.installation import PACKAGE

GIB = 1 << 30
DISK_LEAST, DISK_GOOD = 1 * GIB, 10 * GIB
MEMORY_LEAST, MEMORY_GOOD = 2 * GIB, 4 * GIB
FSYNC_SLOW_S = 0.05  # an ack waits for one; the demo's rate needs some 20 a second per partition
FSYNC_NONE_S = 5e-6  # faster than any device: memory, or a disk that does not obey
FILES_LEAST = 4096  # descriptors; Ray alone takes some hundreds
CLOCK_EARLIEST_US = 1_735_689_600_000_000  # 2025-01-01: before it, the clock was never set
AHEAD_MAX_S = 60.0
PACKAGES = ("ray", "pyarrow", "pyiceberg", "duckdb", "pydantic", "msgspec", "aiohttp")


class Finding(NamedTuple):
    """One check: what was looked at, how it stands, what was found, and what to do if it is not good."""

    what: str
    verdict: Literal["ok", "warn", "bad"]
    found: str
    advice: str = ""


def doctor(
    config_file: ConfigFile = DEFAULT_CONFIG,
    fix: Annotated[bool, typer.Option("--fix", help="Mend what can be mended: the lifecycle of an S3 bucket.")] = False,
    deep: Annotated[bool, typer.Option("--deep", help="Also read all files of the lake, and the log.")] = False,
) -> None:
    """Check machine, installation, configuration and what it names; exits 1 if something is wrong."""
    marks = {"ok": "ok  ", "warn": "WARN", "bad": "BAD "}
    wrong = False
    for what, verdict, found, advice in examine(config_file, SystemClock(), fix, deep):
        wrong |= verdict == "bad"
        print(f"{marks[verdict]}  {what:<14} {found}")
        if advice:
            print(f"      {'':<14} → {advice}")
    if wrong:
        raise typer.Exit(1)


def examine(config_file: Path, clock: Clock, fix: bool = False, deep: bool = False) -> Iterator[Finding]:
    """Every check in turn; those of the configuration's values only if it can be read. `deep`: of all files, too."""
    yield from _installation()
    yield from _machine()
    try:
        config = load_config(config_file)
    except ConfigError as error:
        yield Finding("configuration", "bad", str(error), "fix the key that is named, or run `eagleray init DIR`")
        return
    yield _streams(config)
    yield _lake(config)
    yield _continuity(config)
    for check in (_disk, _fsync, _port):
        yield check(config)
    yield _clock(config, clock)
    if config.log.backend == "kafka":
        yield from _kafka(config)
    if config.warehouse.startswith("s3://"):
        yield from _bucket(config, clock, fix)
    if deep:
        yield _scrubbed(config)


def _scrubbed(config: Config) -> Finding:
    from eagleray.jobs.builtin.scrub import ScrubOptions, run

    try:
        read = run(config, ScrubOptions())
    except (EaglerayError, OSError) as error:
        return Finding("files", "bad", str(error), "restore what is named from a backup (`eagleray restore`)")
    size = f"{read.bytes / GIB:.1f} GiB"
    return Finding(
        "files", "ok", f"{read.files} files and {read.records} log records, {size}, all as they were written"
    )


def _kafka(config: Config) -> Iterator[Finding]:
    try:
        from eagleray.cluster.log.kafka_check import look
    except ImportError as error:
        yield Finding("kafka", "bad", f"backend: kafka needs aiokafka ({error})", "pip install 'eagleray[kafka]'")
        return
    for seen in look(config):
        yield Finding(*seen)


def _bucket(config: Config, clock: Clock, fix: bool) -> Iterator[Finding]:
    try:
        from eagleray.cluster.lake.s3_check import look
    except ImportError as error:
        yield Finding("bucket", "bad", f"an s3:// warehouse needs boto3 ({error})", "pip install 'eagleray[s3]'")
        return
    for seen in look(config, clock, fix):
        yield Finding(*seen)


def _installation() -> Iterator[Finding]:
    yield Finding("python", "ok", f"{sys.version.split()[0]} at {sys.executable}")
    for name in ("eagleray", *PACKAGES):
        try:
            yield Finding(name, "ok", version(name))
        except PackageNotFoundError:
            yield Finding(name, "bad", "not installed", "install eagleray again with its requirements.lock")
    if library():
        yield Finding("fast path", "ok", "built")
    else:
        advice = "events are judged at a third of the speed: install a C compiler, then eagleray again"
        yield Finding("fast path", "warn", "not built for this Python", advice)
    yield Finding("installed at", "ok", str(PACKAGE))


def _machine() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Finding(
        "cores", "ok" if cores > 1 else "warn", str(cores), "" if cores > 1 else "at least two are recommended"
    )
    memory = memory_bytes()
    advice = "the pools need about 2 GiB together: give the machine or container more memory"
    yield _graded("memory", memory, MEMORY_LEAST, MEMORY_GOOD, f"{memory / GIB:.1f} GiB", advice)
    import resource

    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    good = files >= FILES_LEAST or files < 0
    yield Finding("open files", "ok" if good else "warn", str(files), "" if good else f"ulimit -n {FILES_LEAST}")


def memory_bytes() -> int:
    """Memory of the machine, or of the container where that is less."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no such limit, or `max`
        return machine


def _graded(what: str, value: int, least: int, good: int, found: str, advice: str) -> Finding:
    if value >= good:
        return Finding(what, "ok", found)
    return Finding(what, "bad" if value < least else "warn", found, advice)


def _streams(config: Config) -> Finding:
    from eagleray.cluster.events.stream import load_streams

    try:
        streams = load_streams(config)
    except ConfigError as error:
        return Finding(
            "configuration", "bad", str(error), "fix the key that is named; it is checked before `up` starts"
        )
    windows = sum(len(stream.windows) for stream in streams.values())
    if not streams:
        return Finding("configuration", "bad", f"{config.file}: no streams", "describe at least one under `streams`")
    return Finding("configuration", "ok", f"{config.file}: {len(streams)} streams, {windows} windows")


def _continuity(config: Config) -> Finding:
    """Whether each stream's log and tables belong together, and every table is there."""
    from eagleray.cluster.continuity import gone, left_behind, look, wrong
    from eagleray.cluster.events.stream import load_streams
    from eagleray.cluster.lake.lake import Lake
    from eagleray.cluster.log.backends import open_log

    what = "log and tables"
    if config.log.backend == "embedded" and not config.log_dir.exists():
        return Finding(what, "ok", "nothing was stored yet")
    advice = "put log, catalog or table back from a backup, or stop the platform and run `eagleray recover`"
    try:
        lake, streams = Lake.open(config), load_streams(config)
        with closing(open_log(config)) as log:
            for stream in streams.values():
                if problem := wrong(config, log, look(lake, log, stream)):
                    return Finding(what, "bad", f"stream {stream.name}: {problem}", advice)
                if missing := gone(lake, stream):
                    said = f"{', '.join(missing)} is gone: nothing can be stored there"
                    return Finding(what, "bad", said, "start the platform anew: it makes the table from the log")
            left = left_behind(config, lake, log)
    except (EaglerayError, OSError) as error:
        return Finding(what, "bad", str(error), advice)
    return Finding(what, "warn" if left else "ok", str(left[0]) if left else "belong together")


def _lake(config: Config) -> Finding:
    from eagleray.cluster.lake.pin import open_snapshots

    try:
        tables = open_snapshots(config).names()
    except (ConfigError, OSError) as error:
        return Finding("lake", "bad", str(error), "do what is said: nothing is read or written until then")
    return Finding("lake", "ok", f"{len(tables)} tables in {config.warehouse}")


def _existing(path: Path) -> Path:
    return next(place for place in (path, *path.parents) if place.exists())


def _disk(config: Config) -> Finding:
    place = _existing(config.data_dir)
    free = shutil.disk_usage(place).free
    advice = "free some space, or put data_dir on another disk; a full log answers 503"
    return _graded("disk", free, DISK_LEAST, DISK_GOOD, f"{free / GIB:.1f} GiB free at {place}", advice)


def _fsync(config: Config) -> Finding:
    place = _existing(config.data_dir)
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            times = sorted(_synced_write_s(file) for _ in range(21))
    except OSError as error:
        return Finding("fsync", "bad", f"{place} cannot be written: {error}", "make data_dir writable for this user")
    found = f"{times[10] * 1e3:.2f} ms typical, {times[-1] * 1e3:.2f} ms at worst, at {place}"
    if times[10] > FSYNC_SLOW_S:
        return Finding("fsync", "warn", found, "every ack waits for one: use a local SSD for data_dir")
    if times[10] < FSYNC_NONE_S:
        return Finding("fsync", "warn", found, "too fast for a disk: data_dir may not survive a power cut")
    return Finding("fsync", "ok", found)


def _synced_write_s(file: IO[bytes]) -> float:
    began = time.perf_counter()
    file.write(bytes(4096))
    file.flush()
    os.fsync(file)
    return time.perf_counter() - began


def _port(config: Config) -> Finding:
    host, port = config.edge.host, config.edge.port
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
        return Finding("port", "ok", f"{host}:{port} is free")
    except OSError as error:
        running = _running(config)
        if running:
            return Finding("port", "ok", f"{host}:{port} is in use by this project's platform (process {running})")
        return Finding("port", "bad", f"{host}:{port}: {error.strerror}", "choose another: edge.port, or up --port")


def _running(config: Config) -> int | None:
    try:
        pid = int(json.loads(platform_file(config.data_dir).read_text())["pid"])
        os.kill(pid, 0)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return pid


def _clock(config: Config, clock: Clock) -> Finding:
    now_us = clock.now_us()
    advice = "set the clock (NTP): it decides which events are refused as `future`, and when ids are forgotten"
    if now_us < CLOCK_EARLIEST_US:
        return Finding("clock", "bad", f"the clock says {iso(now_us)}, which cannot be right", advice)
    files = [path for path in config.log_dir.rglob("*") if path.is_file()] if config.log_dir.exists() else []
    ahead_s = max((path.stat().st_mtime for path in files), default=0.0) - now_us / 1e6
    if ahead_s > AHEAD_MAX_S:
        return Finding("clock", "bad", f"the log was written {ahead_s:,.0f} s after now ({iso(now_us)})", advice)
    return Finding("clock", "ok", iso(now_us // 1_000_000 * 1_000_000))
