"""The run that is calling a job's function in this context, for `eagleray.dataset` inside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from eagleray.jobs.engines.task import Work

_current: ContextVar[Work | None] = ContextVar("eagleray_work", default=None)


@contextmanager
def running(work: Work) -> Iterator[None]:
    """Inside, `current` is `work`."""
    token = _current.set(work)
    try:
        yield
    finally:
        _current.reset(token)


def current() -> Work | None:
    """The run whose function is being called; None outside of jobs."""
    return _current.get()
