"""Fast appends to the event log: one command for events that arrived together.

The driver's `insert_many` inspects each document in Python, which takes as long as encoding it. Threads that wait
for the database compete for the GIL with those that compute. Every exceptional case goes through
`EventLog.append`, in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from pymongo.errors import AutoReconnect

from pod_worker.store.collections import EVENTS
from pod_worker.store.errors import ENCODING_ERRORS
from pod_worker.store.events.event_log import AppendResult, EventLog, append_result
from pod_worker.store.mongo import Document, Mongo, async_database

ONE_MESSAGE_JSON_BYTES = 4 * 1024 * 1024  # at most six times as large as BSON; a message holds 48 million


class EventWriter:
    """For one event loop. `store.mongo.connect` opened `database`."""

    def __init__(self, database: Mongo, log: EventLog) -> None:
        self._database = async_database(database)
        self._log = log

    async def append(self, documents: Sequence[Document], *, json_bytes: int = 0) -> AppendResult:
        """Store the documents of `event_document` in one round trip.

        `json_bytes`: their size as JSON.

        Raises PyMongoError when the result is unknown.
        """
        if not documents:
            return AppendResult(frozenset(), {})
        if json_bytes > ONE_MESSAGE_JSON_BYTES:
            return await asyncio.to_thread(self._log.append, documents)
        try:
            return await self._append_in_one_message(documents)
        except (AutoReconnect, *ENCODING_ERRORS):
            return await asyncio.to_thread(self._log.append, documents)

    async def close(self) -> None:
        await self._database.client.close()

    async def _append_in_one_message(self, documents: Sequence[Document]) -> AppendResult:
        concern = self._database.write_concern.document
        reply = await self._database.command(
            "insert", EVENTS, documents=documents, ordered=False, writeConcern=concern
        )
        return append_result(reply.get("writeErrors", []), reply.get("writeConcernError"))
