"""A SQL process at work for one connection: asks, waits, passes rows on, and ends what has to end. In the server.

Promise: whatever a query does, and whatever its client does, an answer comes within its time limit and GRACE_S. A query
that is cancelled, or whose client is gone, is interrupted; a process that does not heed that is ended.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any

from eagleray.cluster.errors import Overloaded, QueryError
from eagleray.sql.limits import GRACE_S
from eagleray.sql.postgres.requests import Cancel, Close, Closed, Failure, Fetch, Fetched, Piece, Request
from eagleray.sql.worker import SqlChild, SqlWorker

_REPEAT_S = 0.25  # a query that was about to begin does not heed the first interrupt
_GONE = select.POLLRDHUP | select.POLLHUP | select.POLLERR


class SqlError(QueryError):
    """A statement came to nothing; `position` is a character of its text, counted from 1."""

    def __init__(self, message: str, sqlstate: str, position: int | None = None) -> None:
        """As `Failure` has it."""
        super().__init__(message, sqlstate)
        self.position = position


class Bell:
    """Rung from another thread: what is under way shall stop."""

    def __init__(self) -> None:
        """Silent."""
        self._reading, self._writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def ring(self) -> None:
        """Any thread may."""
        with suppress(OSError):
            os.write(self._writing, b"!")

    def heard(self) -> bool:
        """Whether it was rung since it was last asked."""
        try:
            return bool(os.read(self._reading, 4096))
        except BlockingIOError:
            return False

    def fileno(self) -> int:
        """For `poll`."""
        return self._reading

    def close(self) -> None:
        """Take it down."""
        os.close(self._reading)
        os.close(self._writing)


class Runner:
    """A process that this connection has until `release`."""

    def __init__(self, worker: SqlWorker, client: int, bell: Bell, timeout_s: float) -> None:
        """Take one of `worker`'s; `client` is the socket's number. Raises SqlError where none is free in time."""
        self._worker = worker
        self._bell = bell
        self._client = client
        self._spent = False
        self._busy = False
        deadline = monotonic() + timeout_s
        try:
            self._child: SqlChild | None = worker.take(timeout_s)
        except Overloaded as error:
            raise SqlError(f"{error.limit} (sql.postgres.queries_max) is reached; try again", "53300") from None
        try:
            ready = self._child.started(deadline)
        except (EOFError, TimeoutError):
            ready = False
        if not ready:
            self.release()
            raise SqlError("no SQL process is ready; try again", "57P03")

    def release(self) -> None:
        """Let others have the process; what it is in the midst of is stopped."""
        if (child := self._child) is not None:
            self._child = None
            if self._busy and not _settled(child):
                child.end()
            self._worker.give_back(child, self._spent)

    @property
    def busy(self) -> bool:
        """Whether it is in the midst of something."""
        return self._busy

    def ask(self, request: Request, timeout_s: float) -> Any:
        """The one answer to a request; raises SqlError."""
        self._send(request)
        answer = self._next(timeout_s)
        self._busy = False
        return answer

    def fetch(self, request: Fetch, take: Callable[[bytes], None]) -> tuple[int, bool]:
        """Hand on rows as they come; how many there were, and whether there are no more.

        Raises SqlError, and what `take` raises: then the process is at work still, and to be released.
        """
        self._send(request)
        rows = 0
        while True:
            answer = self._next(request.timeout_s)
            if isinstance(answer, Fetched):
                self._busy = False
                return rows, answer.complete
            assert isinstance(answer, Piece)
            take(answer.data)
            rows += answer.rows

    def _send(self, request: Request) -> None:
        assert self._child is not None
        self._bell.heard()  # of what came before
        self._busy = True
        try:
            self._child.send(request)
        except BrokenPipeError:
            raise self._lost() from None

    def _next(self, timeout_s: float) -> Any:
        """The next answer; raises SqlError."""
        assert self._child is not None
        deadline = monotonic() + timeout_s + GRACE_S
        try:
            self._wait(deadline)
            answer = self._child.receive(monotonic() + GRACE_S)
        except TimeoutError:
            self._child.end()
            raise SqlError("canceling statement due to statement timeout", "57014") from None
        except (EOFError, BrokenPipeError):
            raise self._lost() from None
        if isinstance(answer, Failure):
            self._busy, self._spent = False, answer.spent
            raise SqlError(answer.message, answer.sqlstate, answer.position)
        return answer

    def _lost(self) -> SqlError:
        assert self._child is not None
        self._child.end()
        return SqlError("the query's process ended, probably out of memory (lake.query_memory_max)", "53200")

    def _wait(self, deadline: float) -> None:
        """Wait until the process answers; stop it where the client asked for that, or is gone."""
        assert self._child is not None
        poll = select.poll()
        poll.register(self._child, select.POLLIN)
        poll.register(self._bell, select.POLLIN)
        poll.register(self._client, _GONE)
        stopping = False
        while True:
            left = deadline - monotonic()
            if left <= 0:
                raise TimeoutError
            ready = dict(poll.poll(1000 * (min(left, _REPEAT_S) if stopping else left)))
            if self._child.fileno() in ready:
                return
            if self._client in ready:
                poll.unregister(self._client)
            if stopping or ready:
                self._child.send(Cancel())
            if ready:
                self._bell.heard()
            if ready and not stopping:
                stopping, deadline = True, min(deadline, monotonic() + GRACE_S)


def _settled(child: SqlChild) -> bool:
    """Stop what nobody waits for; whether the process is free, after GRACE_S at most."""
    deadline = monotonic() + GRACE_S
    try:
        child.send(Cancel())
        child.send(Close())
        while not isinstance(child.receive(deadline), Closed):  # rows and a failure may come before
            pass
    except (TimeoutError, EOFError, BrokenPipeError):
        return False
    return True
