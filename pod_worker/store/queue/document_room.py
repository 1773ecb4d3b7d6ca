"""Writes to a run whose document is full, and the quarantine of bad documents.

A document holds at most 16 MiB. A write that would exceed that is repeated without the parts that can be rebuilt
from the event log, so that a full document can still be settled, canceled and rescued.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TypeVar

import bson
from bson.codec_options import CodecOptions
from bson.errors import InvalidBSON
from bson.raw_bson import RawBSONDocument
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.results import UpdateResult

from pod_worker.core.failure import FailureCode, truncate
from pod_worker.core.run import Json, RunStatus
from pod_worker.store.errors import describe_error, is_permanent_error
from pod_worker.store.mongo import Document, Rows
from pod_worker.store.queue.run_document import LEASE_FIELDS, WAITING_FIELDS

log = logging.getLogger(__name__)

T = TypeVar("T")

# "Resulting document after update is larger than 16777216" and BSONObjectTooLarge.
_TOO_LARGE = frozenset({17419, 10334})
_REBUILT_VIEWS = ["history", "metrics", "stageTiming", "currentStage", "v"]
_MESSAGE_LIMIT = 500


def write_with_room(write: Callable[[list[Document]], T], update: list[Document]) -> T:
    """`write(update)`; if the document is full, again without what can be rebuilt.

    `update` is a pipeline. Raises what `write` raises for any other error.
    """
    try:
        return write(update)
    except OperationFailure as error:
        if error.code not in _TOO_LARGE:
            raise
        log.warning("A run's document is full: its history and views are removed to settle it (%s)", error.code)
        return write([{"$unset": _REBUILT_VIEWS}, *update])


def write_or_leave(write: Callable[[list[Document]], UpdateResult], update: list[Document], run_id: str) -> bool:
    """Whether the write changed the run.

    A run that the server refuses to change is left as it is, so that it holds up no other in a sweep. Raises
    PyMongoError when the server does not answer.
    """
    try:
        return write_with_room(write, update).modified_count == 1
    except PyMongoError as error:
        if not is_permanent_error(error):
            raise
        log.error("run %r cannot be changed: %s", run_id[:200], describe_error(error))
        return False


def quarantine(runs: Rows, condition: Mapping[str, Json], code: FailureCode, message: str) -> bool:
    """End the run that matches as FAILED with this code; False: none matched.

    No worker claims it again.

    Not a pipeline, because no expression is evaluated on a document that may hold anything.
    """
    values = {
        "status": RunStatus.FAILED.value,
        "errorCode": code.value,
        "errorMessage": truncate(message, _MESSAGE_LIMIT),
        "retryable": False,
    }
    removed = dict.fromkeys(LEASE_FIELDS + WAITING_FIELDS, "")
    update = {"$set": values, "$currentDate": {"failedAt": True}, "$unset": removed}
    try:
        return runs.update_one(condition, update).matched_count == 1
    except OperationFailure as error:
        if error.code not in _TOO_LARGE:
            raise
    # Without a message: FAILED is no longer than the status that it replaces.
    bare = {"$set": {"status": RunStatus.FAILED.value}, "$unset": removed | dict.fromkeys(_REBUILT_VIEWS, "")}
    return runs.update_one(condition, bare).matched_count == 1


def quarantine_unreadable_ids(runs: Rows, condition: Document) -> int:
    """Quarantine the runs whose id is not valid UTF-8; returns how many.

    No decoded id matches them, so each is addressed by the bytes that the server sent.
    """
    raw = runs.with_options(codec_options=CodecOptions(document_class=RawBSONDocument))
    fault = "The run cannot be executed: its id is not valid UTF-8. Insert it again under another id."
    count = 0
    for found in raw.find(condition, {"_id": 1}):
        try:
            bson.decode(found.raw)
        except InvalidBSON:
            count += quarantine(runs, found, FailureCode.INVALID_INPUT, fault)
    return count
