"""How fast is the event log? Appends by two processes beside a reader, records in and out, deduplication.

Run: `.venv/bin/python benchmarks/log.py [--part append] [--seconds 4] [--ids 6000000] [--directory DIR]`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pyarrow as pa

from eagleray.cluster.log.dedup.deduplicator import Deduplicator
from eagleray.cluster.log.embedded import EmbeddedLog
from eagleray.cluster.log.protocol import Entry, Kind
from eagleray.cluster.log.record import decode_batches, encode_batch
from eagleray.cluster.state.files import FilesPlace

PARTS = ("append", "record", "dedup")
SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in ("channel", "page", "user", "comment", "country", "namespace")),
        *(pa.field(name, pa.bool_()) for name in ("isRobot", "isNew", "isAnonymous")),
        *(pa.field(name, pa.int64()) for name in ("added", "deleted", "delta")),
        pa.field("time", pa.timestamp("us", "UTC")),
        pa.field("_time", pa.int64(), nullable=False),
        pa.field("_id", pa.binary(16)),
        pa.field("_source", pa.string(), nullable=False),
        pa.field("_extra", pa.string()),
    ]
)


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", action="append", choices=PARTS)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--ids", type=int, default=6_000_000)
    parser.add_argument("--directory", type=Path, default=Path.cwd() / "data")  # on the disk that matters, not in /tmp
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    for part in arguments.part or PARTS:
        scratch = Path(tempfile.mkdtemp(prefix="bench-", dir=arguments.directory))
        try:
            {"append": append, "record": record, "dedup": dedup}[part](scratch, arguments)
        finally:
            shutil.rmtree(scratch)


def append(scratch: Path, arguments: argparse.Namespace) -> None:
    """Two appending processes and one reader, closed loop."""
    for name, size, partitions, threads in (
        ("200 KB over 4 partitions", 50_000, 4, 1),
        ("400 B to one partition", 400, 1, 1),
        ("400 B to one partition, 4 threads a process", 400, 1, 4),
    ):
        directory = scratch / name.replace(" ", "-")
        context = multiprocessing.get_context("spawn")
        results: multiprocessing.Queue[list[float]] = context.Queue()
        counts: multiprocessing.Queue[int] = context.Queue()
        stop = context.Event()
        reading = context.Process(target=_read, args=(directory, stop, counts))
        shape = (directory, size, partitions, threads, arguments.seconds, results)
        writing = [context.Process(target=_write, args=shape) for _ in range(2)]
        for process in (reading, *writing):
            process.start()
        latencies = np.array([one for _ in writing for one in results.get()]) * 1e3
        stop.set()
        read = counts.get()
        for process in (reading, *writing):
            process.join()
        rate = len(latencies) / arguments.seconds
        p50, p99, p999 = np.percentile(latencies, (50, 99, 99.9))
        print(f"append {name}: {rate:,.0f}/s, {rate * size * partitions / 1e6:,.1f} MB/s", end="; ")
        print(
            f"p50 {p50:.2f} p99 {p99:.2f} p99.9 {p999:.2f} ms; read {read} of {len(latencies) * partitions}", flush=True
        )


def _write(
    directory: Path,
    size: int,
    partitions: int,
    threads: int,
    seconds: float,
    results: multiprocessing.Queue[list[float]],
) -> None:
    log, payload, latencies = EmbeddedLog(directory, 4), os.urandom(size), []
    until = time.perf_counter() + seconds

    def run() -> None:
        turn = 0
        while (start := time.perf_counter()) < until:
            log.append("s", [Entry((turn + i) % 4, Kind.EVENTS, 1, payload) for i in range(partitions)])
            latencies.append(time.perf_counter() - start)
            turn += 1

    running = [threading.Thread(target=run) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    results.put(latencies)
    log.close()


def _read(directory: Path, stop: Event, counts: multiprocessing.Queue[int]) -> None:
    log, positions = EmbeddedLog(directory, 4), [0] * 4
    while True:
        stopping, found = stop.is_set(), 0
        for partition in range(4):
            records = log.read("s", partition, positions[partition], 4 << 20)
            positions[partition] += len(records)
            found += len(records)
        if not found:
            if stopping:
                break
            time.sleep(0.005)
    counts.put(sum(positions))
    log.close()


def record(_: Path, arguments: argparse.Namespace) -> None:
    """Encoding one record, and decoding many at once: all columns, and three of them."""
    three = pa.schema([SCHEMA.field(name) for name in ("user", "delta", "_time")])
    for rows in (1, 20, 125, 500, 2000):
        batch = _batch(rows)
        payloads = [encode_batch(batch)] * max(1, min(2000, 100_000 // rows))
        encode = _timed(partial(encode_batch, batch), 200)
        every = _timed(partial(decode_batches, payloads, SCHEMA), 5) / len(payloads)
        some = _timed(partial(decode_batches, payloads, three), 5) / len(payloads)
        print(f"record of {rows} rows: {len(payloads[0]):,} bytes, uncompressed {batch.nbytes:,}", end="; ")
        print(f"encode {encode:.0f} µs, decode {every:.0f} µs, three columns {some:.0f} µs", flush=True)


def dedup(scratch: Path, arguments: argparse.Namespace) -> None:
    """Distinct ids, with a save every hundred batches."""
    random = np.random.default_rng(0)
    for size in (20_000, 5_000, 500, 10, 1):
        batches = min(arguments.ids // size, 20_000)
        subject, place = Deduplicator(3_600_000_000), FilesPlace(scratch / str(size), "ids")
        subject.restore(place, 0)
        spent = saving = slowest = 0.0
        for offset in range(batches):
            ids = random.integers(0, 1 << 64, (size, 2), np.uint64)
            start = time.perf_counter()
            subject.fresh(ids, None, offset * 100, offset)
            taken = time.perf_counter() - start
            spent, slowest = spent + taken, max(slowest, taken)
            if offset % 100 == 99:
                start = time.perf_counter()
                subject.save(place, offset + 1)
                saving += time.perf_counter() - start
        subject.save(place, batches)
        each, memory = 1e6 / (size * batches), subject.memory_bytes >> 20
        subject.close()
        successor = Deduplicator(3_600_000_000)
        start = time.perf_counter()
        successor.restore(place, batches)
        restoring = time.perf_counter() - start
        successor.close()
        print(
            f"dedup {size * batches:,} ids by {size}: {spent * each:.2f} µs an id, save {saving * each:.2f}", end="; "
        )
        print(f"slowest batch {slowest * 1e3:.0f} ms, {memory} MiB, restore {restoring:.2f} s", flush=True)


def _batch(rows: int) -> pa.RecordBatch:
    random = np.random.default_rng(rows)
    columns = []
    for field in SCHEMA:
        if field.name == "_id":
            columns.append(pa.array([random.bytes(16) for _ in range(rows)], field.type))
        elif pa.types.is_string(field.type):
            words = [None] * rows if field.name == "_extra" else [f"{field.name} {n}" for n in random.zipf(1.3, rows)]
            columns.append(pa.array(words, field.type))
        elif pa.types.is_boolean(field.type):
            columns.append(pa.array(random.random(rows) < 0.3))
        else:
            columns.append(pa.array(random.integers(0, 10_000, rows)).cast(field.type))
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def _timed(work: Callable[[], object], times: int) -> float:
    """Microseconds of one call."""
    work()
    start = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - start) / times * 1e6


if __name__ == "__main__":
    main()
