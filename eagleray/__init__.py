"""What users import: `from eagleray import job, table, dataset, connect, Period`. Everything else is internal.

Names are loaded when they are first used, so that a process that needs one part does not import the others.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eagleray.jobs.dataset import Connection, Dataset, connect, dataset, query
    from eagleray.jobs.period import Period
    from eagleray.jobs.project.declare import job, table

__all__ = ["Connection", "Dataset", "Period", "__version__", "connect", "dataset", "job", "query", "table"]
__version__ = "0.1.0"

_HOMES = {
    "Connection": "eagleray.jobs.dataset",
    "Dataset": "eagleray.jobs.dataset",
    "Period": "eagleray.jobs.period",
    "connect": "eagleray.jobs.dataset",
    "dataset": "eagleray.jobs.dataset",
    "query": "eagleray.jobs.dataset",
    "job": "eagleray.jobs.project.declare",
    "table": "eagleray.jobs.project.declare",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'eagleray' has no attribute {name!r}; it offers {', '.join(__all__)}")
    found: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = found  # the next use asks nobody
    return found
