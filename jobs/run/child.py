"""The process in which attempts run: `python -m eagleray.jobs.run.child`, started and ended by `jobs.run.local`.

Reads tasks from stdin and answers on stdout, one at a time, each a pickle with its length before it. When the parent is
gone, it leaves at once, even in the middle of an attempt: what it has not committed is as if it had never begun.
"""

from __future__ import annotations

import os
import queue
import shutil
import signal
import sys
import threading
from importlib import import_module
from pathlib import Path
from typing import Any

from eagleray.jobs.run.pipe import receive, send


def main() -> None:
    """Serve until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent decides
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not come between the answers
    config, scratch, work = receive(sys.stdin.buffer)
    tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(tasks, scratch), daemon=True).start()
    # Only now: loading takes a while, and the listener must be there before.
    from eagleray.jobs.run.carry import carry_out

    if work is None:
        import_module("eagleray.jobs.run.attempt")

    while True:
        task = tasks.get()
        send(answers, carry_out(config, task, scratch, work))


def _listen(tasks: queue.SimpleQueue[Any], scratch: Path) -> None:
    while (task := receive(sys.stdin.buffer)) is not None:
        tasks.put(task)
    shutil.rmtree(scratch, ignore_errors=True)
    os._exit(0)


if __name__ == "__main__":
    main()
