"""Every committed change of every run, in the database's own order, with the documents before and after.

A change stream with pre- and post-images follows `runs` and `artifacts` beside the product, on connections that no
fault touches. What it delivers is majority-committed and totally ordered, so it *is* the history of who held which
run: a claim that would not linearise shows as a pair of changes here. `moves` names what each change means.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from pymongo.errors import CollectionInvalid, PyMongoError

from pod_worker.store.collections import ARTIFACTS, RUNS
from pod_worker.store.mongo import Document, Mongo

WATCHED = (RUNS, ARTIFACTS)
MARKS = "chaos_marks"
_REOPEN_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Change:
    """`at` is the primary's wall clock in seconds; `before` is None for an insert, `after` for a delete."""

    place: int
    collection: str
    id: str
    at: float
    before: Document | None
    after: Document | None


def prepare(database: Mongo) -> None:
    """Make the watched collections keep images of their documents. Before anything else writes to them."""
    for name in WATCHED:
        try:
            database.create_collection(name, changeStreamPreAndPostImages={"enabled": True})
        except CollectionInvalid:
            database.command("collMod", name, changeStreamPreAndPostImages={"enabled": True})


class Recorder:
    """Follows the changes in a thread from `start` until `finish` has seen the last of them."""

    def __init__(self, database: Mongo) -> None:
        self.changes: list[Change] = []
        self._database = database
        self._is_open, self._is_over = threading.Event(), threading.Event()
        self._token: Any = None
        self._thread = threading.Thread(target=self._follow, name="history", daemon=True)

    def start(self) -> None:
        self._thread.start()
        if not self._is_open.wait(30):
            raise RuntimeError("the change stream did not open within 30 s; is MongoDB a replica set ≥ 6.0?")

    def finish(self, timeout_seconds: float = 60.0) -> list[Change]:
        """Everything that was committed before this call."""
        self._database[MARKS].insert_one({"what": "end"})
        if not self._is_over.wait(timeout_seconds):
            raise RuntimeError("the change stream did not catch up; the history would be incomplete")
        return self.changes

    def _follow(self) -> None:
        while not self._is_over.is_set():
            try:
                self._read()
            except PyMongoError:
                self._is_over.wait(_REOPEN_SECONDS)

    def _read(self) -> None:
        names = {"$match": {"ns.coll": {"$in": [*WATCHED, MARKS]}}}
        with self._database.watch(
            [names],
            full_document="whenAvailable",
            full_document_before_change="whenAvailable",
            resume_after=self._token,
            max_await_time_ms=500,
        ) as stream:
            self._is_open.set()
            while stream.alive and not self._is_over.is_set():
                change = stream.try_next()
                if change is not None:
                    self._take(change)
                self._token = stream.resume_token

    def _take(self, change: Document) -> None:
        collection = change["ns"]["coll"]
        if collection == MARKS:
            self._is_over.set()
            return
        if "documentKey" not in change:
            return
        found = Change(
            place=len(self.changes),
            collection=collection,
            id=str(change["documentKey"]["_id"]),
            at=change["wallTime"].timestamp(),
            before=change.get("fullDocumentBeforeChange"),
            after=change.get("fullDocument"),
        )
        self.changes.append(found)


class What(StrEnum):
    QUEUED = "queued"
    CLAIMED = "claimed"
    STARTED = "started"
    RENEWED = "renewed"
    CHECKPOINTED = "checkpointed"
    SETTLED = "settled"
    RESCUED = "rescued"
    CANCEL_REQUESTED = "cancel requested"
    CANCELED = "canceled"  # by a person, on the spot
    RESET = "reset"
    MOVED = "moved"  # a status that none of the above explains
    ARTIFACT = "artifact"  # touched by a registration
    OTHER = "other"  # projections, and the harness's own notes


TERMINAL = frozenset({"COMPLETED", "FAILED", "CANCELED"})


@dataclass(frozen=True, slots=True)
class Move:
    """One change of a run's document and what it means."""

    what: What
    run: str
    place: int
    at: float
    before: Document
    after: Document

    @property
    def attempt(self) -> int:
        return int(self.after.get("attempt") or 0)

    @property
    def ends(self) -> bool:
        """The run reached a final state by this move."""
        return self.after.get("status") in TERMINAL and self.before.get("status") not in TERMINAL


def moves(changes: Sequence[Change]) -> Iterator[Move]:
    """The runs' changes with names. A renewal that came with nothing else is a renewal, and so on."""
    for change in changes:
        if change.collection == RUNS and change.after is not None:
            before = change.before or {}
            what = _meaning(before, change.after)
            yield Move(what, change.id, change.place, change.at, before, change.after)


def _meaning(before: Document, after: Document) -> What:
    def changed(field: str) -> bool:
        return bool(before.get(field) != after.get(field))

    if not before:
        return What.QUEUED
    if changed("attempt"):
        return What.CLAIMED if after.get("leaseToken") else What.RESET
    if changed("rescuedAt"):
        return What.RESCUED
    if changed("settledToken") and after.get("settledToken"):
        return What.SETTLED
    if changed("checkpoints"):
        return What.CHECKPOINTED
    if changed("cancelRequestedAt") and after.get("cancelRequestedAt"):
        return What.CANCEL_REQUESTED
    if changed("leaseExpiresAt"):
        return What.RENEWED
    if changed("status"):
        return _BY_STATUS.get(str(after.get("status")), What.MOVED)
    if changed("lastArtifactAt"):
        return What.ARTIFACT
    return What.OTHER


_BY_STATUS = {"RUNNING": What.STARTED, "CANCELED": What.CANCELED}


def seconds(value: object) -> float:
    """A BSON date as seconds since 1970."""
    assert isinstance(value, datetime), f"not a date: {value!r}"
    return value.timestamp()
