"""The way to Kafka's brokers from synchronous code: one event loop in a thread, one client on it. Owned by `kafka`.

Whatever goes wrong between here and the brokers is LogUnavailable, within the caller's time limit. aiokafka's own log
is silenced: what it would say is in the errors. Topics are described by a request that never creates one, with their
ids: a topic that was deleted and made again has another id.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import TimeoutError as CallTimeout
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError, LeaderNotAvailableError, NoError, for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    AbstractType,
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

from eagleray.cluster.backoff import backoff_s
from eagleray.cluster.errors import ConfigError, EaglerayError, LogUnavailable
from eagleray.cluster.sections import KafkaConfig, LogConfig

T = TypeVar("T")

RETRY_S = 0.05  # before the first second attempt
GRACE_S = 1.0  # for the loop to notice a time limit by itself
CLOSE_S = 2.0  # for what is under way when the log is closed
_RETRIED_MAX = 6  # attempts after which the pause grows no further

logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


class _Uuid(AbstractType[bytes]):  # type: ignore[misc]  # aiokafka has no types
    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value

    @classmethod
    def decode(cls, data: Any) -> bytes:
        found: bytes = data.read(16)
        return found


class _TopicsResponse(Response):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 12
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("topic", CompactString("utf-8")),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("topic_authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _TopicsStruct(RequestStruct):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 12  # Kafka 3.1 and later
    RESPONSE_TYPE = _TopicsResponse
    FLEXIBLE_VERSION = True
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(("topic_id", _Uuid), ("topic", CompactString("utf-8")), ("tags", TaggedFields)),
        ),
        ("allow_auto_topic_creation", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class _TopicsRequest(Request[_TopicsStruct]):  # type: ignore[misc]
    API_KEY = 3

    def __init__(self, topics: Sequence[str]) -> None:
        self._topics: list[tuple[bytes, str, dict[int, bytes]]] = [(bytes(16), topic, {}) for topic in topics]

    def build(self, request_struct_class: type[_TopicsStruct]) -> _TopicsStruct:
        return request_struct_class(self._topics, False, False, {})


@dataclass(frozen=True)
class Topic:
    """A topic as the brokers describe it."""

    name: str
    id: str  # of this topic, and of none that has its name later
    leaders: Mapping[int, int]  # by partition; -1: none now
    in_sync: Mapping[int, int]  # by partition, how many copies are

    @property
    def partitions(self) -> int:
        """How many it has."""
        return len(self.leaders)


class Cluster(NamedTuple):
    """What the brokers say of themselves and of the topics that were asked for, without those that are not there."""

    brokers: int
    topics: Mapping[str, Topic]


def security(kafka: KafkaConfig) -> dict[str, Any]:
    """Arguments of aiokafka's clients; reads the files anew. Raises ConfigError."""
    found: dict[str, Any] = {"security_protocol": "PLAINTEXT"}
    if kafka.tls is not None:
        found = {"security_protocol": "SSL", "ssl_context": _tls(kafka)}
    if kafka.sasl is not None:
        sasl = kafka.sasl
        found |= {
            "security_protocol": "SASL_SSL" if kafka.tls is not None else "SASL_PLAINTEXT",
            "sasl_mechanism": sasl.mechanism,
            "sasl_plain_username": sasl.username,
            "sasl_plain_password": sasl.password(),
        }
    return found


def _tls(kafka: KafkaConfig) -> ssl.SSLContext:
    assert kafka.tls is not None
    for name, file in kafka.tls:
        if file is not None and not file.is_file():
            raise ConfigError(f"log.kafka.tls.{name}", f"{file} is not there")
    try:
        context = ssl.create_default_context(cafile=kafka.tls.ca)
    except ssl.SSLError as error:
        raise ConfigError("log.kafka.tls.ca", f"{kafka.tls.ca} holds no certificate: {error.reason}") from None
    if kafka.tls.cert is not None and kafka.tls.key is not None:
        try:
            context.load_cert_chain(kafka.tls.cert, kafka.tls.key)
        except ssl.SSLError as error:
            problem = f"{kafka.tls.cert} and {kafka.tls.key} are no certificate and its key: {error.reason}"
            raise ConfigError("log.kafka.tls", problem) from None
    return context


class Connection:
    """The brokers of one log. `call` is for threads of others; everything else runs on the loop."""

    def __init__(self, settings: LogConfig) -> None:
        """Nothing is connected yet."""
        self.settings = settings
        self.brokers = ", ".join(settings.brokers)
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(_without_losses)
        self._thread = threading.Thread(target=self._loop.run_forever, name="log-kafka", daemon=True)
        self._thread.start()
        self._client: AIOKafkaClient | None = None
        self._connecting = asyncio.Lock()
        self._described: dict[str, Topic] = {}

    def call(self, work: Coroutine[Any, Any, T], timeout_s: float, doing: str) -> T:
        """The result of `work`, which runs on the loop; raises LogUnavailable within `timeout_s`, EaglerayError."""
        if self._loop.is_closed():
            work.close()
            raise LogUnavailable(f"{doing}: the log was closed")
        waiting = asyncio.run_coroutine_threadsafe(self._within(work, timeout_s, doing), self._loop)
        try:
            return waiting.result(timeout_s + GRACE_S)
        except CallTimeout:
            waiting.cancel()
            raise LogUnavailable(f"{doing}: Kafka at {self.brokers}: no answer in {timeout_s:g} s") from None

    async def _within(self, work: Coroutine[Any, Any, T], timeout_s: float, doing: str) -> T:
        try:
            async with asyncio.timeout(timeout_s):
                return await work
        except EaglerayError:
            raise
        except TimeoutError:
            raise LogUnavailable(f"{doing}: Kafka at {self.brokers}: no answer in {timeout_s:g} s") from None
        except (KafkaError, OSError, asyncio.CancelledError) as error:
            raise LogUnavailable(f"{doing}: Kafka at {self.brokers}: {said(error)}") from error

    def post(self, work: Coroutine[Any, Any, object]) -> None:
        """Let `work` run on the loop; nobody waits for it."""
        if self._loop.is_closed():
            work.close()
        else:
            asyncio.run_coroutine_threadsafe(work, self._loop)

    # -- on the loop -----------------------------------------------------------------------------------------------

    def options(self) -> dict[str, Any]:
        """Arguments of every client."""
        timeout_ms = max(1000, int(self.settings.append_timeout_s * 1000))
        return {
            "bootstrap_servers": list(self.settings.brokers),
            "client_id": "eagleray",
            "request_timeout_ms": timeout_ms,
            **security(self.settings.kafka),
        }

    def producer(self, **options: Any) -> AIOKafkaProducer:
        """A producer, not started."""
        return AIOKafkaProducer(**self.options(), **options)

    async def admin(self) -> AIOKafkaAdminClient:
        """A client for what is seldom done; the caller closes it."""
        admin = AIOKafkaAdminClient(**self.options())
        try:
            await admin.start()
        except BaseException:
            await admin._client.close()
            raise
        return admin

    async def client(self) -> AIOKafkaClient:
        """The client, connected."""
        async with self._connecting:
            if self._client is None:
                client = AIOKafkaClient(**self.options())
                try:
                    await client.bootstrap()
                except BaseException:
                    await client.close()
                    raise
                self._client = client
            return self._client

    async def describe(self, *topics: str) -> Cluster:
        """Those of `topics` that are there, as they are now."""
        client = await self.client()
        node = client.get_random_node()
        if node is None:
            await client.force_metadata_update()
            raise LeaderNotAvailableError()
        try:
            answer = await client.send(node, _TopicsRequest(topics))
        except KafkaError:
            client.force_metadata_update()  # another broker may answer
            raise
        except NotImplementedError:
            raise LogUnavailable(f"Kafka at {self.brokers} is older than 3.1, which the log needs") from None
        found = {}
        for error, name, uuid, _, partitions, *_ in answer.topics:
            if for_code(error) is NoError:
                leaders = {one[1]: one[2] for one in partitions}
                in_sync = {one[1]: len(one[5]) for one in partitions}
                found[name] = self._described[name] = Topic(name, uuid.hex(), leaders, in_sync)
            else:
                self._described.pop(name, None)
        return Cluster(len(answer.brokers), found)

    async def ask_leader(
        self, topic: str, partition: int, request: Callable[[], Any], part: Callable[[Any], tuple[int, T]]
    ) -> T:
        """Ask the partition's leader, whoever that is, until it answers: the caller limits the time.

        `part` takes (error code, what is wanted) out of the answer. Raises a KafkaError that no repetition mends.
        """
        for attempt in range(1, 1 << 30):
            try:
                leader = await self._leader(topic, partition)
                client = await self.client()
                code, wanted = part(await client.send(leader, request()))
                error = for_code(code)
                if error is NoError:
                    return wanted
                raise error()
            except (KafkaError, OSError) as failure:
                if isinstance(failure, KafkaError) and not failure.retriable:
                    raise
                self._described.pop(topic, None)
                await asyncio.sleep(backoff_s(RETRY_S, min(attempt, _RETRIED_MAX)))
        raise AssertionError

    async def _leader(self, topic: str, partition: int) -> int:
        found = self._described.get(topic) or (await self.describe(topic)).topics.get(topic)
        leader = found.leaders.get(partition, -1) if found else -1
        if leader < 0:
            raise LeaderNotAvailableError()
        return leader

    # -- the end ---------------------------------------------------------------------------------------------------

    def close(self, *work: Coroutine[Any, Any, object]) -> None:
        """End `work`, within CLOSE_S, then the client, the loop and its thread."""
        if self._loop.is_closed():
            for one in work:
                one.close()
            return
        with suppress(LogUnavailable):
            self.call(self._close(work), CLOSE_S, "close")
        asyncio.run_coroutine_threadsafe(self._cancel_all(), self._loop).result(CLOSE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self, work: Sequence[Coroutine[Any, Any, object]]) -> None:
        await asyncio.gather(*work, return_exceptions=True)
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _cancel_all(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.wait(others, timeout=CLOSE_S / 2) if others else None


def _without_losses(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What nobody waited for any more when a producer was ended is no news: who waited was told."""
    if not isinstance(context.get("exception"), KafkaError):
        loop.default_exception_handler(context)


def said(error: BaseException) -> str:
    """An error in one line."""
    return " ".join(str(error).split()) or type(error).__name__
