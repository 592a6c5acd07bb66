"""The process in which a worker's queries run: `python -m eagleray.sql.child`, started and ended by `sql.worker`.

Reads requests from stdin and answers on stdout, one at a time, each a pickle with its length before it. Its memory is
limited by the operating system, so a query that breaks out of DuckDB's limits ends this process and no other.
"""

from __future__ import annotations

import os
import pickle
import queue
import shutil
import signal
import struct
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from eagleray.cluster.errors import EaglerayError, QueryFailed
from eagleray.sql.answer import as_arrow, as_json
from eagleray.sql.limits import limit_memory
from eagleray.sql.query import Sql

HEADER = struct.Struct(">Q")
READY = "ready"
_RENDER: Mapping[str, Any] = {"json": as_json, "arrow": as_arrow}


def send(stream: IO[bytes], message: object) -> None:
    """Write one message."""
    body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    stream.write(HEADER.pack(len(body)))
    stream.write(body)
    stream.flush()


def main() -> None:
    """Serve until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent decides
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not come between the answers
    config, temp_dir = _receive(sys.stdin.buffer)
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with Sql(config, temp_dir=temp_dir) as sql:
        sql.warm()
        limit_memory(config.lake.query_memory_max)
        threading.Thread(target=_listen, args=(requests, temp_dir), daemon=True).start()
        send(answers, READY)
        while True:
            send(answers, _answer(sql, *requests.get()))


def _listen(requests: queue.SimpleQueue[Any], temp_dir: Path) -> None:
    """Hand on requests; clean up and leave at once when the parent is gone, even in the middle of a query."""
    while (request := _receive(sys.stdin.buffer)) is not None:
        requests.put(request)
    shutil.rmtree(temp_dir, ignore_errors=True)
    os._exit(0)


def _receive(stream: IO[bytes]) -> Any:
    header = stream.read(HEADER.size)
    return pickle.loads(stream.read(HEADER.unpack(header)[0])) if len(header) == HEADER.size else None


def _answer(sql: Sql, text: str, timeout_s: float, form: str) -> object:
    """The rendered result, or the error as a value."""
    try:
        return _RENDER[form](sql.query(text, timeout_s))
    except EaglerayError as error:
        return error
    except MemoryError:
        return QueryFailed("the result does not fit into memory; aggregate, or add a LIMIT")


if __name__ == "__main__":
    main()
