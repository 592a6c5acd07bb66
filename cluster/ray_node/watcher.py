"""What the keeper becomes when its node runs: `python -I -S watcher.py ANSWERS PID...`, the node's processes below it.

A process of its own because the kernel ends the node with it, and small because it has nothing to do: it waits for the
end of stdin, which is its maker's, and then ends the node, the raylet first. Where one of the node's processes ends by
itself it says so on the file descriptor ANSWERS, kills the others, and exits 1.
"""

import json
import os
import select
import signal
import sys
import time

STOP_S = 10.0  # for the raylet to end its workers
_LOOK_S = 0.2


def main(answers: int, pids: list[int]) -> int:
    """Watch; returns the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        for pid in pids:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                os.write(answers, json.dumps({"ended": pid, "code": code}).encode() + b"\n")
                for other in pids:
                    if other != pid:  # not in order: a raylet without its GCS takes 10 s to give up
                        os.kill(other, signal.SIGKILL)
                        os.waitpid(other, 0)
                return 1
        if select.select([0], [], [], _LOOK_S)[0] and not os.read(0, 1):
            _end(pids)
            return 0


def _end(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_S
        while not os.waitpid(pid, os.WNOHANG)[0]:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                break
            time.sleep(0.02)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), [int(word) for word in sys.argv[2:]]))
