"""Errors of a broken system or a wrong configuration. Bad events are values (`cluster.events.verdict`), not errors.

Each error says what to do next: fix the configuration, retry after a while, or read back before trying again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class EaglerayError(Exception):
    """Base of every error that Eagleray raises on purpose."""


class ConfigError(EaglerayError):
    """The configuration is wrong. The message names file, key and what was expected; the command line exits with 2."""

    def __init__(self, where: str, problem: str) -> None:
        """`where` is `FILE: key.path`; `problem` says what was found and what was expected."""
        super().__init__(f"{where}: {problem}")
        self.where = where
        self.problem = problem

    def __reduce__(self) -> tuple[type[ConfigError], tuple[str, str]]:
        """Keep both parts when the error crosses a process."""
        return type(self), (self.where, self.problem)


class Overloaded(EaglerayError):
    """A named limit is reached; the same call may succeed after `retry_after_s` seconds."""

    def __init__(self, limit: str, retry_after_s: float = 1.0) -> None:
        """`limit` is the setting that was reached, such as `edge.in_flight_bytes_max`."""
        super().__init__(limit, retry_after_s)
        self.limit = limit
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        """One line for logs and answers."""
        return f"{self.limit} reached; retry after {self.retry_after_s:g} s"


class LogUnavailable(EaglerayError):
    """The event log could not be written or read (disk full, locked, brokers away). Nothing was acked; retry later."""

    code = "log_unavailable"  # in answers and in the status


class LogStarved(LogUnavailable, MemoryError):
    """The event log could not be written or read for want of memory in this process. Nothing was acked; retry later."""


class LogMismatch(LogUnavailable):
    """Not the log that the tables were written from: gone, replaced, or older than they are. Nothing was acked.

    Put the right log back, or begin a new epoch with `eagleray recover`.
    """

    code = "log_mismatch"  # in answers and in the status


class ClockAhead(LogUnavailable):
    """The machine's clock was set forward: records would get times that nobody could take back. Nothing was acked."""

    code = "clock_ahead"


class LogCorrupt(EaglerayError):
    """A log record's checksum does not match. The partition stops there; it is never skipped in silence."""

    code = "log_corrupt"  # in answers and in the status


class RecordTooLarge(EaglerayError):
    """One event alone is larger than the log's largest record. Nothing was written. HTTP 413."""


class OffsetOutOfRange(EaglerayError):
    """The offset asked for was already trimmed by retention; state must come from a snapshot or a table."""


class CommitFailed(EaglerayError):
    """The catalog refused the commit: another one came first. Nothing changed: reload the table and decide again."""


class FilesLost(CommitFailed):
    """Files that were written for a commit are gone or waited too long: the same files never land, write them again."""


class CommitUnknown(EaglerayError):
    """The answer to a commit was lost. It may have landed: read the table back before anything else, delete nothing."""


class LakeDamaged(EaglerayError, OSError):
    """A file of the lake is cut or changed, and cannot be read; the message names it. Restore it from a backup."""


class QueryError(EaglerayError):
    """What comes of a SQL query in place of rows. `sqlstate` is SQL's code for it, five letters and digits."""

    SQLSTATE = "XX000"

    def __init__(self, message: str, sqlstate: str = "") -> None:
        """Without `sqlstate`: the class's own."""
        super().__init__(message)
        self.sqlstate = sqlstate or self.SQLSTATE


class QueryRejected(QueryError):
    """A SQL query that is not allowed or not valid; the message says why. HTTP 400, exit code 2."""

    SQLSTATE = "42000"


class QueryForbidden(QueryError):
    """A SQL query of a table that the asker's scopes do not open; the message names table and scope. HTTP 403."""

    SQLSTATE = "42501"


class BadCursor(EaglerayError):
    """A page was asked for after a cursor that no page of these rows ended with. HTTP 400."""


class QueryFailed(QueryError):
    """A valid SQL query that could not be completed within its limits (time, memory). HTTP 422, exit code 1."""

    SQLSTATE = "58000"


class JobFailed(EaglerayError):
    """A run of a job came to nothing: its statement, its function or its data. The output table is as it was."""

    def __init__(
        self,
        job: str,
        engine: str,
        file: str,
        line: int,
        message: str,
        snapshots: Mapping[str, int | None],
        *,
        retryable: bool = True,
    ) -> None:
        """`line` is the file's; `snapshots` are those of the inputs; `retryable`: the same again may succeed."""
        super().__init__(message)
        self.job = job
        self.engine = engine
        self.file = file
        self.line = line
        self.message = message
        self.snapshots = dict(snapshots)
        self.retryable = retryable

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep all parts when the error crosses a process."""
        parts = (self.job, self.engine, self.file, self.line, self.message, self.snapshots)
        return _job_failed, (parts, self.retryable)

    def __str__(self) -> str:
        """Where, what, and on which data: a line each."""
        inputs = ", ".join(f"{table} at snapshot {at or '(none)'}" for table, at in self.snapshots.items())
        read = f"\ninputs: {inputs}" if inputs else ""
        return f"job {self.job} failed ({self.engine})\n{self.file}:{self.line}: {self.message}{read}"


def _job_failed(parts: tuple[Any, ...], retryable: bool) -> JobFailed:
    return JobFailed(*parts, retryable=retryable)


class ChecksFailed(EaglerayError):
    """A job's result broke its checks and was not published; it can be looked at as `table@rejected`."""

    def __init__(
        self,
        job: str,
        output: str,
        failures: Sequence[tuple[str, int, Sequence[Mapping[str, Any]]]],
        kept: bool = True,
    ) -> None:
        """`failures`: of each check its name, how many rows broke it, some of these. `kept`: as `table@rejected`."""
        super().__init__(job, output)
        self.job = job
        self.output = output
        self.failures = tuple(failures)
        self.kept = kept

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep all parts when the error crosses a process."""
        return type(self), (self.job, self.output, self.failures, self.kept)

    def __str__(self) -> str:
        """A line for each check, with one of the rows, and where the rest can be seen."""
        lines = [f"job {self.job}: {len(self.failures)} of its checks failed; {self.output} is as it was"]
        for check, count, sample in self.failures:
            row = ", ".join(f"{key}={value!r}" for key, value in sample[0].items()) if sample else ""
            lines.append(f"  {check}: {count} rows" + (f", such as {row}" if row else ""))
        if self.kept:
            schema, _, table = self.output.partition(".")
            lines.append(f'the rejected result: SELECT * FROM {schema}."{table}@rejected"')
        return "\n".join(lines)


def said(error: BaseException) -> str:
    """The error's kind and message, also where its class is the user's and has no message to give."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception as broken:
        return f"{type(error).__name__}, whose message cannot be read ({type(broken).__name__})"
