"""The public face for users' code; re-exports, nothing else."""

from jobs.dataset import Connection, Dataset, connect, dataset
from jobs.period import Period
from jobs.project.declare import job, table

__all__ = ["Connection", "Dataset", "Period", "connect", "dataset", "job", "table"]
