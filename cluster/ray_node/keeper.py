"""Starts the processes of a Ray node for a session of our own, and keeps them: `python -m ...keeper` (see `Keeper`).

Only what the platform uses: Ray's control server (GCS) and its raylet. No dashboard, autoscaler's monitor, log monitor
or metrics agent; the agent of runtime environments starts when the first is asked for. Workers are started by
`worker_start`. Ray's public `init` has no words for that, so the node is made by Ray's own class for nodes, and the
command of its raylet is rewritten (docs/adr/0017).

Talks to its maker in lines of JSON on stdout: `said` for people, then `address` and the `names` of its processes, or
`failed`. Ends the node when stdin does, and ends, non-zero, when a process of the node ends.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from eagleray.cluster.ray_node.environment import LOOPBACK

HERE = Path(__file__).resolve().parent
PATIENCE_S = (30.0, 120.0)  # for the node to come up: at the first try, at the second
_PLAIN_PYTHON = (sys.executable, "-I", "-S")
_NO_PORT = "-1"  # what Ray's agents say where they do not listen


def raylet_command(command: list[str], agent_port: int) -> list[str]:
    """Ray's command of a raylet, with our way to start workers and agents that start when they are needed."""
    found = dict(word.split("=", 1) for word in command[1:] if "=" in word)
    worker = shlex.split(found["--python_worker_command"])
    setup = next(index for index, word in enumerate(worker) if word.endswith("setup_worker.py"))
    found["--python_worker_command"] = subprocess.list2cmdline(
        [*_PLAIN_PYTHON, str(HERE / "worker_start.py"), *worker[setup + 1 :]]
    )
    stand_in = [*_PLAIN_PYTHON, str(HERE / "agent_on_demand.py")]
    agent = shlex.split(found["--runtime_env_agent_command"])
    found["--runtime_env_agent_command"] = subprocess.list2cmdline([*stand_in, str(agent_port), *agent])
    found["--dashboard_agent_command"] = subprocess.list2cmdline([*stand_in, "0"])
    found |= {"--metrics-agent-port": _NO_PORT, "--metrics_export_port": _NO_PORT}
    found["--dashboard_agent_listen_port"] = _NO_PORT
    return [
        command[0],
        *(f"{name}={value}" for name, value in found.items()),
        *(w for w in command[1:] if "=" not in w),
    ]


def start(directory: Path, cpus: int, store_bytes: int, agent_port: int, patience_s: float) -> Any:
    """Start GCS and raylet below this process and wait for them; returns Ray's `Node`. Raises what Ray raises."""
    from ray._private import services
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    start_process: Any = services.start_ray_process
    get_node: Any = services.get_node

    def start_ray_process(command: list[str], process_type: str, **options: Any) -> Any:
        if process_type == "raylet":
            command = raylet_command(command, agent_port)
        return start_process(command, process_type, **options)

    def get_node_patiently(*arguments: Any) -> Any:
        deadline = time.monotonic() + patience_s
        while True:
            try:
                return get_node(*arguments)
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    class LeanNode(Node):
        def start_api_server(self, **options: Any) -> None:
            """No dashboard."""

    ray_services: Any = services
    parameters: Any = RayParams
    ray_services.start_ray_process, ray_services.get_node = start_ray_process, get_node_patiently
    try:
        return LeanNode(
            parameters(
                num_cpus=cpus,
                object_store_memory=store_bytes,
                temp_dir=str(directory),
                runtime_env_agent_port=agent_port,
                include_log_monitor=False,
                include_dashboard=False,
                no_monitor=True,
                dashboard_host="127.0.0.1",
                node_ip_address=LOOPBACK,
            ),
            head=True,
            shutdown_at_exit=False,
            ray_init_cluster=True,
        )
    finally:
        ray_services.start_ray_process, ray_services.get_node = start_process, get_node


def main() -> None:
    """Start a node as stdin's first line says, then become its watcher."""
    options = json.loads(os.read(0, 1 << 16))
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(**message: object) -> None:
        print(json.dumps(message), file=answers, flush=True)

    for tries, patience_s in enumerate(PATIENCE_S, start=1):
        try:
            node = start(Path(options["directory"]), options["cpus"], options["store"], options["port"], patience_s)
            break
        except Exception as error:
            if tries == len(PATIENCE_S):
                say(failed=f"Ray did not start: {error}")
                return
            said = f"Ray did not start within {patience_s:g} s, the machine may be busy; trying again with"
            say(said=f"{said} {PATIENCE_S[tries]:g} s")
            _end_children()
    names = {str(info.process.pid): name for name, infos in node.all_processes.items() for info in infos}
    say(address=node.address, names=names)
    pids = list(reversed(names))
    os.set_inheritable(answers.fileno(), True)
    os.execv(sys.executable, [*_PLAIN_PYTHON, str(HERE / "watcher.py"), str(answers.fileno()), *pids])


def _end_children() -> None:
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    for pid in children:
        os.kill(int(pid), 9)
        os.waitpid(int(pid), 0)


if __name__ == "__main__":
    main()
