"""How one stage calls another: a `Peer` is a worker somewhere, reached through Ray or in this process."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Protocol

from ray._private.state import state
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError, RayTaskError


class PeerLost(Exception):
    """The peer died or cannot be reached; whether the call took effect is not known."""


class PeerLeft(PeerLost):
    """The peer was asked to leave and takes no more calls: this one took no effect."""


class Peer(Protocol):
    """A worker that can be called. Exceptions raised by the worker's own code come through unchanged."""

    @property
    def name(self) -> str:
        """What it is called, such as `writer-0`."""
        ...

    async def call(self, method: str, *args: Any, timeout_s: float | None = None) -> Any:
        """Call and wait; raises PeerLost, or TimeoutError after `timeout_s`."""
        ...

    def ref(self, method: str, *args: Any) -> Any:
        """Start a call; the result stays where it is and may be an argument of another peer's call."""
        ...


@dataclass(frozen=True)
class RayPeer:
    """A worker in a Ray actor."""

    name: str
    handle: ActorHandle[Any]
    hosted: bool = True  # in a `host`; the controller is an actor itself

    async def call(self, method: str, *args: Any, timeout_s: float | None = None) -> Any:
        """Call and wait; raises PeerLost, or TimeoutError after `timeout_s`."""
        return await self._wait(self.ref(method, *args), timeout_s)

    async def process(self, timeout_s: float) -> dict[str, Any]:
        """What the worker's host says of it (`host.ThreadedHost.process`); raises as `call` does."""
        found: dict[str, Any] = await self._wait(self.handle.process.remote(), timeout_s)
        return found

    async def leave(self, timeout_s: float) -> bool:
        """Have it take no more calls, end those under way and say farewell; False where that took too long."""
        left: bool = await self._wait(self.handle.leave.remote(timeout_s), timeout_s + 5)
        return left

    def restarts(self) -> int:
        """How often Ray has started its process again, by its control server."""
        found: int = state.actor_table(self.handle._actor_id.hex()).get("NumRestarts", 0)
        return found

    async def _wait(self, ref: Any, timeout_s: float | None) -> Any:
        try:
            async with asyncio.timeout(timeout_s):
                return await ref
        except RayTaskError as error:
            if isinstance(error.cause, PeerLeft):
                raise PeerLeft(f"{self.name} takes no more calls") from None
            raise error.cause from None
        except (RayActorError, RayError) as error:
            raise PeerLost(f"{self.name}: {type(error).__name__}") from error

    def ref(self, method: str, *args: Any) -> Any:
        """Start a call and return its ObjectRef."""
        if self.hosted:
            return self.handle.call.remote(method, *args)
        return getattr(self.handle, method).remote(*args)


@dataclass(frozen=True)
class LocalPeer:
    """A worker in this process: the same code without Ray. Calls run in a thread, as an actor's would."""

    name: str
    worker: Any

    async def call(self, method: str, *args: Any, timeout_s: float | None = None) -> Any:
        """Call and wait; TimeoutError after `timeout_s`."""
        async with asyncio.timeout(timeout_s):
            resolved = [arg.result() if isinstance(arg, _Result) else arg for arg in args]
            return await asyncio.to_thread(getattr(self.worker, method), *resolved)

    def ref(self, method: str, *args: Any) -> Any:
        """Call at once and keep the result."""
        return _Result(getattr(self.worker, method)(*args))


@dataclass(frozen=True)
class _Result:
    value: Any

    def result(self) -> Any:
        return self.value


__all__ = ["LocalPeer", "Peer", "PeerLeft", "PeerLost", "RayPeer"]
