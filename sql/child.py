"""The process in which a worker's queries run: `python -m eagleray.sql.child`, started and ended by `sql.worker`.

Answers one request after another: those of `POST /v1/sql` are tuples and have whole answers, those of Postgres' clients
are in `sql.postgres.requests` and have rows that leave as they come. Its memory is limited by the operating system, so
a query that breaks out of DuckDB's limits ends this process and no other. A query that is refused or fails costs the
process nothing: the next one finds it warm.
"""

from __future__ import annotations

import ctypes
import gc
import queue
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from eagleray.cluster.access import TableAccess
from eagleray.cluster.child_process import Channel
from eagleray.cluster.config import Config
from eagleray.cluster.errors import EaglerayError, QueryFailed
from eagleray.sql.answer import write_arrow, write_json
from eagleray.sql.limits import HEADROOM_BYTES, limit_memory, private_bytes
from eagleray.sql.postgres.executor import Executor
from eagleray.sql.postgres.requests import Cancel, Failure
from eagleray.sql.query import Sql
from eagleray.sql.spool import Rendered, Reply, Spool
from eagleray.sql.trace import Trace

READY = "ready"
_HELD_BYTES_MAX = HEADROOM_BYTES // 2  # beyond the warm process: more would be missing to the next query
_RENDER: Mapping[str, Callable[..., None]] = {"json": write_json, "arrow": write_arrow}


def main() -> None:
    """Serve until the parent is gone."""
    channel = Channel()
    config, temp_dir = channel.receive()
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with Sql(config, temp_dir=temp_dir) as sql:
        sql.warm()
        warm = private_bytes()
        limit_memory(config.lake.query_memory_max)
        executor = Executor(sql, config, temp_dir)

        def take(request: Any) -> None:
            if isinstance(request, Cancel):
                executor.cancel()
            else:
                executor.begin()  # here, so that a Cancel behind the request finds it begun
                requests.put(request)

        # Clean up and leave at once when the parent is gone, even in the middle of a query.
        channel.listen(take, lambda: shutil.rmtree(temp_dir, ignore_errors=True))
        channel.send(READY)
        while True:
            request = requests.get()
            if isinstance(request, tuple):
                result = _answer(sql, config, temp_dir, *request)
                channel.send(Reply(result, isinstance(result, QueryFailed) and _held() - warm > _HELD_BYTES_MAX))
            else:
                for answer in executor.answer(request):
                    spent = isinstance(answer, Failure) and _held() - warm > _HELD_BYTES_MAX
                    channel.send(replace(answer, spent=True) if spent else answer)


def _answer(
    sql: Sql, config: Config, temp_dir: Path, text: str, timeout_s: float, form: str, access: TableAccess
) -> Rendered | EaglerayError:
    """The rendered result, or the error as a value."""
    spool = Spool(temp_dir)
    try:
        if form == "trace":
            stream, _, event = text.partition(" ")
            spool.write(msgspec.json.encode(Trace(sql, config, stream, timeout_s, access).find(event)))
        else:
            _RENDER[form](sql.query(text, timeout_s, access), spool)
        return spool.done()
    except EaglerayError as error:
        spool.discard()
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)  # its frames hold what was read so far
    except MemoryError:
        spool.discard()
        return QueryFailed("the result does not fit into memory; aggregate, or add a LIMIT")


def _held() -> int:
    """Private memory of this process, once everything is given back that can be."""
    gc.collect()
    pa.default_memory_pool().release_unused()
    if trim := _trim():
        trim(0)
    return private_bytes()


@cache
def _trim() -> Callable[[int], int] | None:
    """Glibc's malloc_trim: freed memory stays with the process without it. None elsewhere."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


if __name__ == "__main__":
    main()
