"""What the raylet runs to start a worker: asks the warm parent for a fork, or else starts Python as Ray would.

Run as `python -I -S worker_start.py [OPTIONS] default_worker.py ARGUMENTS`; imports only the standard library's
fastest part. Ordinary start: no warm parent answers, the worker is for another job than the platform's, is not
Python's, or has a runtime environment of its own.
"""

import json
import os
import socket
import sys

SOCKET = "EAGLERAY_WARM_PARENT"  # names the variable that names the socket
JOB = "01000000"  # environment.FIRST_JOB
_RUNTIME = "--serialized-runtime-env-context="
_LANGUAGE = "--language="
_ANSWER_S = 10.0


def main(words: list[str]) -> None:
    """Fork and end, or become the worker."""
    options = [word for word in words if word.startswith((_RUNTIME, _LANGUAGE))]
    command = [word for word in words if word not in options]
    plain = all(option in (_RUNTIME, f"{_RUNTIME}{{}}", f"{_LANGUAGE}PYTHON") for option in options)
    if plain and os.environ.get("RAY_JOB_ID") == JOB and _forked(command):
        return
    script = next(word for word in command if word.endswith(".py"))
    setup = os.path.join(os.path.dirname(script), "setup_worker.py")
    os.execv(sys.executable, [sys.executable, setup, *words])


def _forked(command: list[str]) -> bool:
    """Whether the warm parent made the worker."""
    path = os.environ.get(SOCKET, "")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as parent:
            parent.settimeout(_ANSWER_S)
            parent.connect(path)
            with open("/proc/self/oom_score_adj") as score:
                request = {"argv": command, "env": dict(os.environ), "oom_score_adj": score.read().strip()}
            body = json.dumps(request).encode()
            socket.send_fds(parent, [len(body).to_bytes(8, "big")], [0, 1, 2])
            parent.sendall(body)
            return parent.recv(1) == b"+"
    except OSError:
        return False


if __name__ == "__main__":
    main(sys.argv[1:])
