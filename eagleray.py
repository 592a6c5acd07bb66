"""The public face for users' code."""

from jobs.period import Period
from jobs.project.declare import job, table

__all__ = ["Period", "job", "table"]
