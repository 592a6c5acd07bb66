"""Chooses where attempts run: child processes, unless a cluster is named or an engine needs one (ADR 10)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from eagleray.cluster.config import Config
from eagleray.jobs.model import Job
from eagleray.jobs.run.workers import Workers

CLUSTER_ENGINES = frozenset({"daft", "ray"})


@contextmanager
def open_workers(config: Config, jobs: Iterable[Job], address: str | None) -> Iterator[Workers]:
    """Workers for `jobs`; `address` is a Ray cluster's. Ends every process of theirs with the block."""
    if address is None and not any(job.engine in CLUSTER_ENGINES for job in jobs):
        from eagleray.jobs.run.local import LocalWorkers

        workers: Workers = LocalWorkers(config)
        try:
            yield workers
        finally:
            workers.close()
        return
    from eagleray.cluster.ray_session import connect
    from eagleray.jobs.run.cluster import RayWorkers
    from eagleray.jobs.run.scratch import sweep

    sweep(config)
    session = connect(config, address)
    try:
        workers = RayWorkers(config)
        try:
            yield workers
        finally:
            workers.close()
    finally:
        session.close()
