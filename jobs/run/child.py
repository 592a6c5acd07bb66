"""The process in which attempts run: `python -m eagleray.jobs.run.child`, started and ended by `jobs.run.local`.

Serves one task after another. When the parent is gone, it leaves at once, even in the middle of an attempt, and with
all that the attempt has started: what it has not committed is as if it had never begun.
"""

from __future__ import annotations

import queue
import shutil
from importlib import import_module
from typing import Any

from eagleray.cluster.child_process import Channel


def main() -> None:
    """Serve until the parent is gone."""
    channel = Channel()
    config, scratch, work = channel.receive()
    tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
    channel.listen(tasks.put, lambda: shutil.rmtree(scratch, ignore_errors=True))
    # Only now: loading takes a while, and the listener must be there before.
    from eagleray.jobs.run.carry import carry_out

    if work is None:
        import_module("eagleray.jobs.run.attempt")

    while True:
        task = tasks.get()
        channel.send(carry_out(config, task, scratch, work))


if __name__ == "__main__":
    main()
