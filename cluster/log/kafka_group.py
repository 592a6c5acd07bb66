"""Tells Kafka how far the tables have read, as a consumer group's offsets: Kafka's own tools then show the lag.

Nothing of the platform reads them back: progress is in the tables. So a commit that fails is said once and left to the
next one. Used by `kafka`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from aiokafka.client import ConnectionGroup, CoordinationType
from aiokafka.errors import KafkaError, NoError, for_code
from aiokafka.protocol.commit import OffsetCommitRequest

from eagleray.cluster.errors import EaglerayError
from eagleray.cluster.log.kafka_connection import Connection, said

logger = logging.getLogger(__name__)

EVERY_S = 1.0  # between commits of a group
RETRY_S = 0.2
TIMEOUT_S = 10.0  # the first commit of a cluster waits for the topic of all groups
_NO_MEMBER = ""  # the group has no members: nobody but us commits to it


class Group:
    """The consumer groups of one log, a group for each stream. Runs on the connection's loop."""

    def __init__(self, connection: Connection) -> None:
        """Nothing is committed yet."""
        self._connection = connection
        self._due: dict[tuple[str, str], dict[int, int]] = {}
        self._working: set[tuple[str, str]] = set()
        self._failed = False

    async def commit(self, group: str, topic: str, offsets: Mapping[int, int]) -> None:
        """Commit Kafka's offset of each partition, with what else comes within EVERY_S."""
        key = (group, topic)
        self._due.setdefault(key, {}).update(offsets)
        if key in self._working:
            return
        self._working.add(key)
        try:
            while self._due.get(key):
                await self._attempt(key)
                await asyncio.sleep(EVERY_S)
        finally:
            self._working.discard(key)

    async def finish(self) -> None:
        """Commit what is due now."""
        for key in list(self._due):
            await self._attempt(key)

    async def _attempt(self, key: tuple[str, str]) -> None:
        offsets = self._due.pop(key, {})
        if not offsets:
            return
        try:
            async with asyncio.timeout(TIMEOUT_S):
                while not await self._committed(*key, offsets):
                    await asyncio.sleep(RETRY_S)
            self._failed = False
        except (KafkaError, OSError, TimeoutError, EaglerayError) as error:
            if not self._failed:
                logger.warning("consumer group %s: offsets not committed, lag is not shown: %s", key[0], said(error))
            self._failed = True

    async def _committed(self, group: str, topic: str, offsets: Mapping[int, int]) -> bool:
        """Whether it could be done; False where trying again may help."""
        try:
            await self._commit(group, topic, offsets)
        except KafkaError as error:
            if not error.retriable:
                raise
            return False
        return True

    async def _commit(self, group: str, topic: str, offsets: Mapping[int, int]) -> None:
        client = await self._connection.client()
        node = await client.coordinator_lookup(CoordinationType.GROUP, group)
        placed = [(partition, offset, "") for partition, offset in offsets.items()]
        request = OffsetCommitRequest(
            group,
            OffsetCommitRequest.DEFAULT_GENERATION_ID,
            _NO_MEMBER,
            OffsetCommitRequest.DEFAULT_RETENTION_TIME,
            [(topic, placed)],
        )
        answer = await client.send(node, request, group=ConnectionGroup.COORDINATION)
        for _, partitions in answer.topics:
            for _, code in partitions:
                if (error := for_code(code)) is not NoError:
                    raise error()
