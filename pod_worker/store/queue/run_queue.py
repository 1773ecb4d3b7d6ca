"""The run queue: enqueue, claim, renew, checkpoint, settle. One document is one run; one write moves it.

Every write that an attempt causes is filtered by run id, attempt and lease token, and matching nothing means
the attempt is over. Leases end by the server's clock (`$$NOW`); no client clock is ever compared. Operators'
verbs (reset, cancel, pause) and the rescue of dead workers are in `operations` and `rescue` beside this file.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from pymongo import ASCENDING, DESCENDING, IndexModel, ReturnDocument, UpdateOne
from pymongo.errors import ConnectionFailure, DuplicateKeyError, WTimeoutError
from pymongo.read_concern import ReadConcern

from pod_worker.core.clock import Clock
from pod_worker.core.lease import Fence, Lease, RenewalResult
from pod_worker.core.outcome import Lost, Outcome
from pod_worker.core.run import Checkpoint, Json, Requirements, Run, RunStatus
from pod_worker.store.collections import QUEUES, RUNS
from pod_worker.store.mongo import Document, Mongo, literal
from pod_worker.store.queue.contention import BATCH, CACHE_SECONDS, ClaimContention, QueuedRun
from pod_worker.store.queue.fence import fence_filter
from pod_worker.store.queue.run_document import (
    checkpoint_document,
    history_append,
    requirements_document,
    run_from_document,
)
from pod_worker.store.queue.settlement import Settlement, decide_settlement, settlement_update

MAX_CRASHES = 5  # without progress between them; then the run is POISON
CLAIM_SORT = [("priority", DESCENDING), ("queuedAt", ASCENDING), ("_id", ASCENDING)]
CLAIM_TRIES = 2  # after one look; what was seen grows old
MAX_LOOKS = 4  # lost races in a row, until a claimer waits for its next poll

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
        IndexModel([("status", ASCENDING), ("createdAt", DESCENDING), ("_id", DESCENDING)], name="by_status"),
        IndexModel([("createdAt", DESCENDING), ("_id", DESCENDING)], name="newest"),
        IndexModel([("pipeline", ASCENDING), ("createdAt", DESCENDING), ("_id", DESCENDING)], name="by_pipeline"),
    ],
    QUEUES: [],
}


@dataclass(frozen=True, slots=True)
class RunRequest:
    """A validated wish for a run. `params` were checked by the pipeline before this was made."""

    id: str
    pipeline: str
    params: dict[str, Json]
    queue: str | None = None  # the pipeline's name unless given
    priority: int = 0
    max_attempts: int = 3
    unique_key: str | None = None
    hypothesis_id: str | None = None
    requirements: Requirements = field(default_factory=Requirements)
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClaimingWorker:
    """Who claims, and what it can do."""

    worker_id: str  # one per process incarnation, never the pod's id
    pod_id: str
    queues: tuple[str, ...]
    pipelines: tuple[str, ...]
    gpu: str | None = None
    gpu_names: tuple[str, ...] = ()  # every name that a run may ask for and this pod satisfies
    vram_gb: float = 0.0
    region: str | None = None


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
        max_crashes: int = MAX_CRASHES,
        rng: random.Random | None = None,
    ) -> None:
        self._runs = database[collection]
        self._local_reads = self._runs.with_options(read_concern=ReadConcern("local"))
        self._queues = database[QUEUES]
        self._clock = clock
        self._lease_seconds = lease_seconds
        self._margin_seconds = margin_seconds
        self._max_crashes = max_crashes
        self._rng = rng or random.Random()
        self._crowd = ClaimContention(clock, self._rng)
        self._paused: frozenset[str] = frozenset()
        self._paused_at = float("-inf")

    # ── in ──────────────────────────────────────────────────────────────────────────────────────────────

    def enqueue(self, request: RunRequest) -> tuple[Run, bool]:
        """The queued run, and whether it is new. An existing `unique_key` returns the run that holds it."""
        for _ in range(3):  # two upserts of one key can collide; the loser's second try finds the winner
            try:
                document = self._runs.find_one_and_update(
                    _upsert_filter(request),
                    _insert_pipeline(request),
                    upsert=True,
                    return_document=ReturnDocument.AFTER,
                )
                assert document is not None  # upsert + AFTER always returns one
                return run_from_document(document), document["_id"] == request.id
            except DuplicateKeyError:
                continue
        raise RuntimeError(f"enqueue of {request.id} kept colliding on uniqueKey {request.unique_key!r}")

    def enqueue_many(self, requests: Sequence[RunRequest]) -> int:
        """Bulk enqueue; returns how many were new. Runs whose unique key exists are left alone."""
        writes = [
            UpdateOne(_upsert_filter(request), _insert_pipeline(request), upsert=True) for request in requests
        ]
        return self._runs.bulk_write(writes, ordered=False).upserted_count if writes else 0

    # ── claim ───────────────────────────────────────────────────────────────────────────────────────────

    def claim(self, claimant: ClaimingWorker, run_id: str | None = None) -> Claim | None:
        """Take the first run this pod can do, or None. Idle cost: one indexed query.

        Looks at the head of the queue without a lock, then takes one of a few runs by id with the whole
        condition repeated. Where races are lost, claimers spread out (`crowd`): they touch different documents
        instead of retrying the hot one (SERVER-133243 shows what sorting findAndModify does under contention).
        None while others are claiming means that nothing was left, not that a race was lost.
        """
        wanted = _claimable_filter(claimant)
        if run_id:
            return (
                self._claim_first_of([run_id], wanted, claimant)
                if self._find_claimable(wanted | {"_id": run_id}, 1)
                else None
            )
        if (batch := self._crowd.next_batch()) and (claim := self._claim_first_of(batch, wanted, claimant)):
            return claim
        for _ in range(MAX_LOOKS):
            peek = self._crowd.look_ahead
            seen = self._find_claimable(wanted, peek)
            self._crowd.observe(seen)
            for _ in range(CLAIM_TRIES):
                if (batch := self._crowd.next_batch()) and (
                    claim := self._claim_first_of(batch, wanted, claimant)
                ):
                    return claim
            if len(seen) < min(peek, BATCH):
                return None  # there was no more
        return None

    def _find_claimable(self, wanted: Document, limit: int) -> list[QueuedRun]:
        """The first claimable runs of queues that are not paused.

        Local reads on purpose: majority reads lag by a journal write and show runs that are gone already.
        """
        found = self._query_queued(wanted, limit)
        if not found:
            return []
        paused = self._paused_cached()
        if any(each["queue"] in paused for each in found):
            # Asked again without them: a long paused queue must not hide the others.
            open_queues = [name for name in wanted["queue"]["$in"] if name not in paused]
            found = self._query_queued(wanted | {"queue": {"$in": open_queues}}, limit)
        return [QueuedRun(each["_id"], each.get("priority")) for each in found]

    def _paused_cached(self) -> frozenset[str]:
        """Asked at each look, except in a crowd."""
        now = self._clock.monotonic()
        if not self._crowd.is_contended or now - self._paused_at >= CACHE_SECONDS:
            self._paused, self._paused_at = self.paused(), now
        return self._paused

    def _query_queued(self, wanted: Document, limit: int) -> list[Document]:
        return list(
            self._local_reads.find(wanted, {"_id": 1, "queue": 1, "priority": 1}).sort(CLAIM_SORT).limit(limit)
        )

    def _claim_first_of(self, run_ids: list[str], wanted: Document, claimant: ClaimingWorker) -> Claim | None:
        """The best of these runs that is still to be had, in one statement."""
        token = secrets.token_hex(16)
        asked_at = self._clock.monotonic()
        try:
            document = self._runs.find_one_and_update(
                wanted | {"_id": {"$in": run_ids}},
                self._claim_update(claimant, token),
                sort=CLAIM_SORT,
                hint="_id_",
                return_document=ReturnDocument.AFTER,
            )
        except (ConnectionFailure, WTimeoutError):
            # Unknown outcome: the token is ours alone, so finding it says that the claim happened.
            document = self._runs.find_one({"leaseToken": token})
        self._crowd.record_result(run_ids, document["_id"] if document else None)
        if document is None:
            return None
        run = run_from_document(document)
        fence = Fence(run.id, run.attempt, token)
        return Claim(run, Lease(fence, self._lease_seconds, self._margin_seconds, asked_at))

    def _claim_update(self, claimant: ClaimingWorker, token: str) -> list[Document]:
        pod = {
            "id": claimant.pod_id,
            "workerId": claimant.worker_id,
            "gpu": claimant.gpu,
            "region": claimant.region,
        }
        values: Document = {
            "status": RunStatus.SCHEDULED.value,
            "attempt": {"$add": [{"$ifNull": ["$attempt", 0]}, 1]},
            # Events never move the status of an attempt that was claimed here, not even a late one after settle.
            "leasedAttempt": {"$add": [{"$ifNull": ["$attempt", 0]}, 1]},
            "claimedBy": literal(claimant.worker_id),
            "claimedAt": "$$NOW",
            "leaseToken": token,
            "leaseExpiresAt": self._lease_end(),
            "pod": literal(pod),
            "history": history_append("claimed", raised=1, by=claimant.worker_id),
        }
        return [{"$set": values}, {"$unset": ["runAfter", "heldUntil", "cancelRequestedAt", "cancelRequestedBy"]}]

    def _lease_end(self) -> Document:
        return {"$add": ["$$NOW", round(self._lease_seconds * 1000)]}

    # ── while it runs: every write is fenced ────────────────────────────────────────────────────────────

    def start(self, fence: Fence) -> bool:
        """SCHEDULED → RUNNING, once the child is up. False: the attempt is over."""
        update = [{"$set": {"status": RunStatus.RUNNING.value}}]
        return self._runs.update_one(fence_filter(fence), update).matched_count == 1

    def renew(self, lease: Lease) -> tuple[RenewalResult, Lease]:
        """Prolong the lease from now, by the server's clock. An expired lease cannot be renewed.

        Raises pymongo errors when the server does not answer; the caller still trusts its lease until then.
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
        verdict = RenewalResult.CANCEL if document.get("cancelRequestedAt") else RenewalResult.OK
        return verdict, lease.renewed(asked_at)

    def checkpoint(self, fence: Fence, checkpoint: Checkpoint) -> bool:
        """Record how far a stage has come. Progress also clears the crash count: a run that gets on is no
        crash loop. False: the attempt is over."""
        entry = literal(checkpoint_document(checkpoint))
        update = [{"$set": {f"checkpoints.{checkpoint.stage}": entry, "crashCount": 0}}]
        return self._runs.update_one(fence_filter(fence), update).matched_count == 1

    # ── out ─────────────────────────────────────────────────────────────────────────────────────────────

    def settle(self, fence: Fence, outcome: Outcome) -> Settlement | None:
        """End the attempt with one fenced write. None: the attempt was over already, nothing was written.

        Safe to repeat after an unknown outcome, also when others have had the run since: `settledToken` and
        `settledAs` tell our own success, and what it was, from somebody else's takeover.
        """
        if isinstance(outcome, Lost):
            return None
        while (document := self._held_or_settled(fence)) is not None:
            if document.get("settledToken") == fence.token:
                return Settlement(RunStatus.parse(document.get("settledAs") or document["status"]))
            settlement = decide_settlement(run_from_document(document), outcome, self._max_crashes, self._rng)
            # A cancel that came since the look must not be forgotten by the write: then judge again.
            seen = fence_filter(fence) | {"cancelRequestedAt": document.get("cancelRequestedAt")}
            if self._runs.update_one(seen, settlement_update(fence, outcome, settlement)).matched_count:
                return settlement
        return None

    def _held_or_settled(self, fence: Fence) -> Document | None:
        return self._runs.find_one(
            {"_id": fence.run_id, "$or": [fence_filter(fence), {"settledToken": fence.token}]}
        )

    # ── reading ─────────────────────────────────────────────────────────────────────────────────────────

    def get(self, run_id: str) -> Run | None:
        document = self._runs.find_one({"_id": run_id})
        return run_from_document(document) if document else None

    def paused(self) -> frozenset[str]:
        """The names of the queues that nobody may claim from."""
        return frozenset(str(each["_id"]) for each in self._queues.find({"paused": True}, {"_id": 1}))


def _claimable_filter(claimant: ClaimingWorker) -> Document:
    return {
        "status": RunStatus.QUEUED.value,
        "queue": {"$in": list(claimant.queues)},
        "pipeline": {"$in": list(claimant.pipelines)},
        "hidden": {"$ne": True},
        "requirements.gpu": {"$in": [None, *claimant.gpu_names]},
        "requirements.minVramGb": {"$not": {"$gt": claimant.vram_gb}},
        "requirements.region": {"$in": [None, claimant.region]},
        # A missing date sorts before every other, so this also admits runs that need not wait.
        "$expr": {"$and": [{"$lte": ["$runAfter", "$$NOW"]}, {"$lte": ["$heldUntil", "$$NOW"]}]},
    }


def _upsert_filter(request: RunRequest) -> Document:
    if not request.unique_key:
        return {"_id": request.id}
    # The type is said because the server uses a partial index only for conditions that imply its filter.
    return {"uniqueKey": {"$eq": request.unique_key, "$type": "string"}}


def _insert_pipeline(request: RunRequest) -> list[Document]:
    """Insert-only upsert as a pipeline, because only a pipeline can stamp the server's time."""
    document: Document = {
        "_id": request.id,
        "pipeline": request.pipeline,
        "queue": request.queue or request.pipeline,
        "status": RunStatus.QUEUED.value,
        "priority": request.priority,
        "params": request.params,
        "attempt": 0,
        "maxAttempts": request.max_attempts,
        "retryCount": 0,
        "crashCount": 0,
        "checkpoints": {},
        "requirements": requirements_document(request.requirements),
        "labels": request.labels,
        "history": [],
    }
    if request.unique_key:
        document["uniqueKey"] = request.unique_key
    if request.hypothesis_id:
        document["hypothesisId"] = request.hypothesis_id
    fresh = {"$mergeObjects": [literal(document), {"createdAt": "$$NOW", "queuedAt": "$$NOW"}]}
    is_new = {"$eq": [{"$type": "$createdAt"}, "missing"]}
    return [{"$replaceWith": {"$cond": [is_new, fresh, "$$ROOT"]}}]
