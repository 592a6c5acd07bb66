"""Errors of a run, whoever raises them, as JobFailed: with the line of the user's file, and whether to try again."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from eagleray.cluster.errors import ConfigError, EaglerayError, JobFailed, QueryRejected, said
from eagleray.jobs.engines.task import Work
from eagleray.jobs.project.parameters import substitute
from eagleray.jobs.project.sql_jobs import padded
from eagleray.sql.guard import displaced

_WRITTEN = (ImportError, NameError, SyntaxError)
"""What another attempt raises again: the program is wrong, not its circumstances."""

_LINE = re.compile(r"^LINE (\d+): ", re.MULTILINE)  # DuckDB's, where it shows the text; without empty lines before it


@contextmanager
def named(work: Work) -> Iterator[None]:
    """Raise what goes wrong inside as JobFailed."""
    try:
        yield
    except JobFailed:
        raise
    except EaglerayError as error:
        line, message = _in_sql(str(error), work)
        wrong = line is not None or isinstance(error, QueryRejected | ConfigError)
        raise work.failed(message, line or _user_line(error, work), retryable=not wrong) from error
    except MemoryError as error:
        message = "the run is out of memory; raise `memory`, or take the rows in batches"
        raise work.failed(message, _user_line(error, work)) from error
    except Exception as error:
        raise work.failed(said(error), _user_line(error, work), retryable=not isinstance(error, _WRITTEN)) from error


def _in_sql(message: str, work: Work) -> tuple[int | None, str]:
    """The line of the file that a message about SQL is about, and the message with the column as it was written."""
    if work.job.source.sql is None:
        return None, message
    text, place = displaced(message)
    if place is None:
        shown = _LINE.search(message)
        return (work.job.source.line + int(shown[1]) - 1 if shown else None), message
    line, column = place
    written = substitute(padded(work.job.source), work.period, work.job.variables).column(line, column)
    return line, f"{text} (column {written})"


def _user_line(error: BaseException, work: Work) -> int | None:
    """The innermost line of the job's own file that was running."""
    file = str(work.job.source.file)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return frames[-1].lineno if frames else None
