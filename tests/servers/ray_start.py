"""`ray start` without the agents that nothing here uses: `python -P ray_start.py AGENT_PORT start …`.

A raylet gives its dashboard's agent 15 s to say on which port it listens, and ends where it does not; four nodes that
start on a busy machine need longer. The command of the raylet is rewritten as for a node of the platform's own.
"""

from __future__ import annotations

import sys
from typing import Any

from ray._private import services
from ray.scripts.scripts import main

from eagleray.cluster.ray_node.keeper import raylet_command


def lean(agent_port: int) -> None:
    """Have this process start raylets so; `agent_port`: of the agent of runtime environments."""
    found: Any = services
    start: Any = found.start_ray_process

    def start_ray_process(command: list[str], process_type: str, **options: Any) -> Any:
        if process_type == "raylet":
            command = raylet_command(command, agent_port)
        return start(command, process_type, **options)

    found.start_ray_process = start_ray_process


if __name__ == "__main__":
    lean(int(sys.argv.pop(1)))
    sys.exit(main())
