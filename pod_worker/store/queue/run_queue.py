"""The run queue: enqueue, claim, start, renew, checkpoint, settle.

One document is one run; one write moves it.

Every write that an attempt causes is filtered by run id, attempt and lease token, and matching nothing means
that the attempt is over. Leases end by the server's clock (`$$NOW`); no client clock is ever compared. Which runs
a worker tries is in `claiming`, operators' actions in `operations`, dead workers in `rescue`.
"""

from __future__ import annotations

import logging
import random
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pymongo import ASCENDING, DESCENDING, IndexModel, ReturnDocument, UpdateOne
from pymongo.errors import ConnectionFailure, DuplicateKeyError, OperationFailure, WTimeoutError

from pod_worker.core.clock import Clock
from pod_worker.core.failure import FailureCode
from pod_worker.core.identifiers.run_id import UNREADABLE, run_id_fault
from pod_worker.core.lease import Fence, Lease, RenewalResult
from pod_worker.core.outcome import Lost, Outcome
from pod_worker.core.run import ENDED_WELL, TERMINAL, Checkpoint, InvalidRunError, Run, RunStatus
from pod_worker.store.collections import QUEUES, RUNS
from pod_worker.store.errors import describe_error, is_permanent_error
from pod_worker.store.mongo import Document, Mongo, literal, tolerant_rows
from pod_worker.store.queue.claiming import CLAIM_SORT, ClaimCandidates, ClaimingWorker, claimable_filter
from pod_worker.store.queue.dependencies import Dependencies, find_cycle
from pod_worker.store.queue.document_room import quarantine, quarantine_unreadable_ids, write_with_room
from pod_worker.store.queue.fence import fence_filter
from pod_worker.store.queue.run_document import (
    WAITING_FIELDS,
    checkpoint_document,
    document_fault,
    history_append,
    incremented,
    run_from_document,
)
from pod_worker.store.queue.run_request import (
    RunRequest,
    check_request,
    in_dependency_order,
    insert_pipeline,
    upsert_filter,
)
from pod_worker.store.queue.settlement import Settlement, decide_settlement, settlement_update

__all__ = ["ACTIVE_STATES", "INDEXES", "Claim", "ClaimingWorker", "RunQueue", "RunRequest"]

log = logging.getLogger(__name__)

ENQUEUE_TRIES = 3
ACTIVE_STATES = [RunStatus.SCHEDULED.value, RunStatus.RUNNING.value, RunStatus.AUTO_VALIDATING.value]

INDEXES: dict[str, list[IndexModel]] = {
    RUNS: [
        IndexModel(
            [("queue", ASCENDING), ("priority", DESCENDING), ("queuedAt", ASCENDING), ("_id", ASCENDING)],
            name="claim",
            partialFilterExpression={"status": "QUEUED"},
        ),
        IndexModel(
            [("leaseExpiresAt", ASCENDING)],
            name="leases",
            partialFilterExpression={"status": {"$in": ACTIVE_STATES}},
        ),
        IndexModel([("leaseToken", ASCENDING)], name="lease_token", sparse=True),
        IndexModel(
            [("uniqueKey", ASCENDING)],
            name="unique_key",
            unique=True,
            partialFilterExpression={"uniqueKey": {"$type": "string"}},
        ),
        IndexModel(
            [("blockedBy", ASCENDING)], name="blocked", partialFilterExpression={"blockedBy": {"$exists": True}}
        ),
        IndexModel(
            [("startBy", ASCENDING)], name="start_by", partialFilterExpression={"startBy": {"$type": "date"}}
        ),
        IndexModel([("status", ASCENDING), ("createdAt", DESCENDING), ("_id", DESCENDING)], name="by_status"),
        IndexModel([("createdAt", DESCENDING), ("_id", DESCENDING)], name="newest"),
        IndexModel([("pipeline", ASCENDING), ("createdAt", DESCENDING), ("_id", DESCENDING)], name="by_pipeline"),
    ],
    QUEUES: [],
}


_REMOVED_AT_CLAIM = [
    *WAITING_FIELDS, "runAfter", "heldUntil", "cancelRequestedAt", "cancelRequestedBy", "exitCode",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Claim:
    run: Run
    lease: Lease


class RunQueue:
    def __init__(
        self,
        database: Mongo,
        clock: Clock,
        *,
        collection: str = RUNS,
        lease_seconds: float = 60.0,
        margin_seconds: float = 15.0,
        rng: random.Random | None = None,
    ) -> None:
        self._runs = tolerant_rows(database, collection)
        self._clock = clock
        self._lease_seconds = lease_seconds
        self._margin_seconds = margin_seconds
        self._rng = rng or random.Random()
        self._dependencies = Dependencies(database, collection=collection)
        self._candidates = ClaimCandidates(self._runs, tolerant_rows(database, QUEUES), clock, self._rng)

    # ── enqueue ─────────────────────────────────────────────────────────────────────────────────────────

    def enqueue(self, request: RunRequest) -> tuple[Run, bool]:
        """The queued run, and whether it is new.

        An existing `unique_key` returns the run that holds it.

        Raises InvalidRunError for an id that no run may have and for values that cannot be stored.
        """
        check_request(request)
        self._check_dependencies([request])
        return self._insert(request)

    def _insert(self, request: RunRequest) -> tuple[Run, bool]:
        for _ in range(ENQUEUE_TRIES):  # two upserts of one key can collide; the loser's next try finds the run
            try:
                document = self._runs.find_one_and_update(
                    upsert_filter(request),
                    insert_pipeline(request),
                    upsert=True,
                    return_document=ReturnDocument.AFTER,
                )
                assert document is not None  # upsert + AFTER always returns one
                return run_from_document(document), document["_id"] == request.id
            except DuplicateKeyError:
                continue
        raise RuntimeError(f"enqueue of {request.id} kept colliding on uniqueKey {request.unique_key!r}")

    def enqueue_many(self, requests: Sequence[RunRequest]) -> int:
        """Bulk enqueue; returns how many were new.

        Runs whose unique key exists are left alone.

        Raises InvalidRunError before anything is written.
        """
        for request in requests:
            check_request(request)
        self._check_dependencies(requests)
        named = {name for request in requests for name in request.after}
        # A sweep in between must not take a dependency for deleted.
        given = in_dependency_order(requests) if named else requests
        if any(request.unique_key and request.id in named for request in given):
            return self._insert_one_by_one(given)
        writes = [UpdateOne(upsert_filter(request), insert_pipeline(request), upsert=True) for request in given]
        return self._runs.bulk_write(writes, ordered=bool(named)).upserted_count if writes else 0

    def _insert_one_by_one(self, requests: Sequence[RunRequest]) -> int:
        """Insert in this order; how many were new.

        A run that waits for one whose key exists waits for the run that has the key.
        """
        stored: dict[str, str] = {}
        count = 0
        for request in requests:
            after = tuple(dict.fromkeys(stored.get(name, name) for name in request.after))
            run, is_new = self._insert(replace(request, after=after))
            stored[request.id] = run.id
            count += is_new
        return count

    def _check_dependencies(self, requests: Sequence[RunRequest]) -> None:
        """Raises InvalidRunError for a dependency that does not exist, and for a circle."""
        own = {request.id: request.after for request in requests}
        if cycle := find_cycle(own):
            raise InvalidRunError(
                f"These runs wait for each other: {' -> '.join(cycle)}. Remove one of the `after`."
            )
        others = sorted({name for request in requests for name in request.after} - own.keys())
        if missing := self._dependencies.missing(others):
            shown = ", ".join(missing[:5])[:300]
            raise InvalidRunError(
                f"`after` names runs that do not exist: {shown}. Check the ids: pod-worker runs list"
            )

    # ── claim ───────────────────────────────────────────────────────────────────────────────────────────

    def claim(self, worker: ClaimingWorker, run_id: str | None = None) -> Claim | None:
        """Claim the first run that this worker can execute, or None.

        Idle cost: one indexed query.

        A run whose document cannot be executed is quarantined on the way. None while others are claiming means
        that nothing was left, not that a race was lost.
        """
        wanted = claimable_filter(worker)
        if run_id:
            is_claimable = self._candidates.is_claimable(wanted, run_id)
            return self._claim_first_of([run_id], wanted, worker) if is_claimable else None
        for batch in self._candidates.batches(wanted):
            if any(UNREADABLE in run_id for run_id in batch):
                quarantine_unreadable_ids(self._runs, wanted)
            claim = self._claim_first_of(batch, wanted, worker)
            self._candidates.record_result(batch, claim.run.id if claim else None)
            if claim:
                return claim
        return None

    def _claim_first_of(self, run_ids: list[str], wanted: Document, worker: ClaimingWorker) -> Claim | None:
        """The best of these runs that is still claimable and executable."""
        while True:
            token = secrets.token_hex(16)
            asked_at = self._clock.monotonic()
            document = self._take(run_ids, wanted, worker, token)
            if document is None:
                return None
            fault = document_fault(document)
            if fault is None:
                run = run_from_document(document)
                lease = Lease(
                    Fence(run.id, run.attempt, token), self._lease_seconds, self._margin_seconds, asked_at
                )
                return Claim(run, lease)
            self._quarantine({"leaseToken": token}, document, fault)

    def _take(self, run_ids: list[str], wanted: Document, worker: ClaimingWorker, token: str) -> Document | None:
        """One statement that claims the first of these runs."""
        condition = wanted | {"_id": {"$in": run_ids}}
        try:
            return write_with_room(
                lambda update: self._runs.find_one_and_update(
                    condition,
                    update,
                    sort=CLAIM_SORT,
                    hint="_id_",
                    return_document=ReturnDocument.AFTER,
                ),
                self._claim_update(worker, token),
            )
        except (ConnectionFailure, WTimeoutError):
            # Whether the claim happened is unknown: the token tells.
            return self._runs.find_one({"leaseToken": token})
        except OperationFailure as error:
            if not is_permanent_error(error):
                raise
            return self._take_one_by_one(run_ids, error, wanted, worker, token)

    def _take_one_by_one(
        self, run_ids: list[str], error: OperationFailure, wanted: Document, worker: ClaimingWorker, token: str
    ) -> Document | None:
        """After a refused statement: quarantine the run at fault, claim another one."""
        if len(run_ids) == 1:
            self._quarantine(wanted | {"_id": run_ids[0]}, {"_id": run_ids[0]}, describe_error(error))
            return None
        taken = (self._take([run_id], wanted, worker, token) for run_id in run_ids)
        return next((document for document in taken if document), None)

    def _quarantine(self, condition: Document, document: Document, fault: str) -> None:
        is_id_fault = run_id_fault(document["_id"]) is not None
        code = FailureCode.INVALID_INPUT if is_id_fault else FailureCode.BAD_DOCUMENT
        message = f"The run cannot be executed: {fault}. Correct the document, then reset the run."
        if quarantine(self._runs, condition, code, message):
            log.warning("run %r is quarantined (%s): %s", document["_id"], code.value, fault)

    def _claim_update(self, worker: ClaimingWorker, token: str) -> list[Document]:
        pod = {"id": worker.pod_id, "workerId": worker.worker_id, "gpu": worker.gpu, "region": worker.offer.region}
        values: Document = {
            "status": RunStatus.SCHEDULED.value,
            "attempt": incremented("attempt"),
            # Events never move the status of an attempt that was claimed here, not even a late one after settle.
            "leasedAttempt": incremented("attempt"),
            "claimedBy": literal(worker.worker_id),
            "claimedAt": "$$NOW",
            "leaseToken": token,
            "leaseExpiresAt": self._lease_end(),
            "pod": literal(pod),
            "history": history_append("claimed", raised=1, by=worker.worker_id),
        }
        return [
            {"$set": values},
            {"$unset": _REMOVED_AT_CLAIM},
        ]

    def _lease_end(self) -> Document:
        return {"$add": ["$$NOW", round(self._lease_seconds * 1000)]}

    # ── while it runs: every write is fenced ────────────────────────────────────────────────────────────

    def start(self, fence: Fence) -> bool:
        """SCHEDULED → RUNNING, once the child is up. False: the attempt is over."""
        update = [{"$set": {"status": RunStatus.RUNNING.value}}]
        return self._runs.update_one(fence_filter(fence), update).matched_count == 1

    def renew(self, lease: Lease) -> tuple[RenewalResult, Lease]:
        """Prolong the lease from now, by the server's clock.

        An expired lease cannot be renewed.

        Raises PyMongoError when the server does not answer; the caller still trusts its lease until then.
        """
        asked_at = self._clock.monotonic()
        document = self._runs.find_one_and_update(
            fence_filter(lease.fence) | {"$expr": {"$gt": ["$leaseExpiresAt", "$$NOW"]}},
            [{"$set": {"leaseExpiresAt": self._lease_end()}}],
            projection={"cancelRequestedAt": 1},
            return_document=ReturnDocument.AFTER,
        )
        if document is None:
            return RenewalResult.LOST, lease
        is_canceled = document.get("cancelRequestedAt") is not None
        return RenewalResult.CANCEL if is_canceled else RenewalResult.OK, lease.renewed(asked_at)

    def checkpoint(self, fence: Fence, checkpoint: Checkpoint) -> bool:
        """Record how far a stage has come, and clear the crash count.

        False: the attempt is over.

        Progress clears the count, because a run that advances is no crash loop. Raises PyMongoError; an error
        that `is_permanent_error` for a state that the document cannot hold.
        """
        # $setField takes any name: a dot or a dollar sign in a stage's name is no path.
        checkpoints = {
            "$setField": {
                "field": literal(checkpoint.stage),
                "input": {"$ifNull": ["$checkpoints", {}]},
                "value": literal(checkpoint_document(checkpoint)),
            }
        }
        update = [{"$set": {"checkpoints": checkpoints, "crashCount": 0}}]
        condition = fence_filter(fence)
        return write_with_room(lambda each: self._runs.update_one(condition, each), update).matched_count == 1

    # ── settle ──────────────────────────────────────────────────────────────────────────────────────────

    def settle(self, fence: Fence, outcome: Outcome) -> Settlement | None:
        """End the attempt with one fenced write; None: it was over already.

        Nothing was written then.

        Safe to repeat after an unknown outcome, also when other workers had the run since: `settledToken` and
        `settledAs` distinguish the success of this attempt from a takeover by another.
        """
        if isinstance(outcome, Lost):
            return None
        while (document := self._held_or_settled(fence)) is not None:
            if document.get("settledToken") == fence.token:
                # The first call may have failed between its write and the release.
                return self._released(fence, Settlement(_settled_status(document)))
            run = run_from_document(document)
            settlement = decide_settlement(run, outcome, self._rng)
            # The write must not overlook a cancel that came since the look: then decide again.
            is_canceled = document.get("cancelRequestedAt") is not None
            seen = fence_filter(fence) | ({} if is_canceled else {"cancelRequestedAt": None})
            if self._settle_as(seen, settlement_update(fence, outcome, settlement, run.retry_on)):
                return self._released(fence, settlement)
        return None

    def _released(self, fence: Fence, settlement: Settlement) -> Settlement:
        """After the runs that wait for this one were looked at, if it has ended."""
        if settlement.status in TERMINAL | ENDED_WELL:
            self._dependencies.release(fence.run_id)
        return settlement

    def _settle_as(self, condition: Document, update: list[Document]) -> bool:
        return write_with_room(lambda each: self._runs.update_one(condition, each), update).matched_count == 1

    def _held_or_settled(self, fence: Fence) -> Document | None:
        return self._runs.find_one(
            {"_id": fence.run_id, "$or": [fence_filter(fence), {"settledToken": fence.token}]}
        )

    # ── reading ─────────────────────────────────────────────────────────────────────────────────────────

    def get(self, run_id: str) -> Run | None:
        document = self._runs.find_one({"_id": run_id})
        return run_from_document(document) if document else None

    def paused(self) -> frozenset[str]:
        """The names of the queues that no worker may claim from."""
        return self._candidates.paused()


def _settled_status(document: Document) -> RunStatus:
    try:
        return RunStatus.parse(str(document.get("settledAs") or document.get("status")))
    except ValueError:
        return RunStatus.FAILED
