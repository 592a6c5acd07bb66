"""Where Eagleray is installed, for processes that it starts and code that it ships. Knows nothing else."""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE = Path(__file__).parents[1]  # not resolved: in a checkout the folders of the package are links
"""The folder of the package `eagleray`."""


def child_environment(**more: str) -> dict[str, str]:
    """The environment of a Python child that finds this very installation, whatever its directory holds."""
    path = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, **more}
