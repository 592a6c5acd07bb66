"""Stands in for an agent of Ray until somebody needs it: `python -I -S agent_on_demand.py PORT COMMAND...`.

Listens on the agent's port and becomes the agent (`COMMAND`) when the first connection comes; who connected tries
again, as the raylet does. PORT 0: nobody ever connects. Ends with its raylet.
"""

import os
import select
import socket
import sys

_LOOK_S = 2.0  # whether the raylet is still there


def main(port: int, command: list[str]) -> None:
    """Wait; never returns but by the raylet's end."""
    raylet = os.getppid()
    listeners = []
    if port:
        host = next(word.split("=", 1)[1] for word in command if word.startswith("--node-ip-address="))
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen()
        listeners.append(listener)
    while os.getppid() == raylet:
        if select.select(listeners, [], [], _LOOK_S)[0]:
            listeners[0].close()
            os.execv(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
