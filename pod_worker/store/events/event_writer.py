"""The event log's fast way in: one command for all that arrived together, from an event loop.

The driver's `insert_many` looks at each document in Python, which takes as long as encoding it; and threads that
wait for the database fight over the interpreter with those that compute. Whatever does not go smoothly goes
through `EventLog.append`, in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from pymongo.errors import AutoReconnect

from pod_worker.store.collections import EVENTS
from pod_worker.store.errors import ENCODING_ERRORS
from pod_worker.store.events.event_log import AppendResult, EventLog, append_result
from pod_worker.store.mongo import Document, Mongo, async_database

ONE_MESSAGE_JSON_BYTES = 4 * 1024 * 1024  # as BSON at most six times as large; a message holds 48 million


class EventWriter:
    """For one event loop; `database` is one that `store.mongo.connect` opened."""

    def __init__(self, database: Mongo, log: EventLog) -> None:
        self._database = async_database(database)
        self._log = log

    async def append(self, documents: Sequence[Document], *, json_bytes: int = 0) -> AppendResult:
        """Store what `event_document` made, in one round trip. `json_bytes`: how large they came.

        Raises PyMongoError when it is not certain what became of them.
        """
        if not documents:
            return AppendResult(frozenset(), {})
        if json_bytes > ONE_MESSAGE_JSON_BYTES:
            return await asyncio.to_thread(self._log.append, documents)
        try:
            return await self._append_at_once(documents)
        except (AutoReconnect, *ENCODING_ERRORS):
            return await asyncio.to_thread(self._log.append, documents)

    async def close(self) -> None:
        await self._database.client.close()

    async def _append_at_once(self, documents: Sequence[Document]) -> AppendResult:
        concern = self._database.write_concern.document
        reply = await self._database.command(
            "insert", EVENTS, documents=documents, ordered=False, writeConcern=concern
        )
        return append_result(reply.get("writeErrors", []), reply.get("writeConcernError"))
