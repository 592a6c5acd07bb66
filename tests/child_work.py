"""A child for tests/unit/test_child_process.py: answers with the values of the Python expressions that it gets."""

from __future__ import annotations

import os
import queue
import subprocess
import time

from eagleray.cluster.child_process import Channel

KNOWN = {"os": os, "subprocess": subprocess, "time": time}


def main() -> None:
    """Serve until the parent is gone."""
    channel = Channel()
    programs: queue.SimpleQueue[str] = queue.SimpleQueue()
    channel.listen(programs.put)
    while True:
        channel.send(eval(programs.get(), dict(KNOWN)))


if __name__ == "__main__":
    main()
