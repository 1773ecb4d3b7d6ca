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

from pod_worker.core.clock import Clock
from pod_worker.core.failure import Failure, FailureClass, FailureCode, backoff_seconds
from pod_worker.core.lease import Fence, Lease, Renewal
from pod_worker.core.outcome import Canceled, Failed, Lost, Outcome, Released, Succeeded
from pod_worker.core.run import Checkpoint, Json, Requirements, Run, RunStatus
from pod_worker.store.mongo import Document, Mongo
from pod_worker.store.run_document import checkpoint_document, requirements_document, run_from

RUNS = "runs"
QUEUES = "queues"
MAX_CRASHES = 5  # without progress between them; then the run is POISON
HISTORY_LIMIT = 50
PEEK = 8

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
class Claimant:
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


@dataclass(frozen=True, slots=True)
class Settlement:
    """What became of the run. `status` QUEUED means it will be tried again."""

    status: RunStatus
    retry_in_seconds: float | None = None
    code: FailureCode | None = None


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
        self._queues = database[QUEUES]
        self._clock = clock
        self._lease_seconds = lease_seconds
        self._margin_seconds = margin_seconds
        self._max_crashes = max_crashes
        self._rng = rng or random.Random()

    # ── in ──────────────────────────────────────────────────────────────────────────────────────────────

    def enqueue(self, request: RunRequest) -> tuple[Run, bool]:
        """The queued run, and whether it is new. An existing `unique_key` returns the run that holds it."""
        for _ in range(3):  # two upserts of one key can collide; the loser's second try finds the winner
            try:
                document = self._runs.find_one_and_update(
                    _identity(request), _insertion(request), upsert=True, return_document=ReturnDocument.AFTER
                )
                assert document is not None  # upsert + AFTER always returns one
                return run_from(document), document["_id"] == request.id
            except DuplicateKeyError:
                continue
        raise RuntimeError(f"enqueue of {request.id} kept colliding on uniqueKey {request.unique_key!r}")

    def enqueue_many(self, requests: Sequence[RunRequest]) -> int:
        """Bulk enqueue; returns how many were new. Runs whose unique key exists are left alone."""
        writes = [UpdateOne(_identity(request), _insertion(request), upsert=True) for request in requests]
        return self._runs.bulk_write(writes, ordered=False).upserted_count if writes else 0

    # ── claim ───────────────────────────────────────────────────────────────────────────────────────────

    def claim(self, claimant: Claimant, run_id: str | None = None) -> Claim | None:
        """Take the first run this pod can do, or None. Idle cost: one indexed query.

        Looks at the head of the queue without a lock, then takes one run by id with the whole condition
        repeated: losers of a race touch another document instead of retrying the hot one
        (SERVER-133243 shows what sorting findAndModify does under contention).
        """
        wanted = _claimable(claimant) | ({"_id": run_id} if run_id else {})
        candidates = self._candidates(wanted)
        paused = self.paused() if candidates else frozenset()
        free = [each for each in candidates if each["queue"] not in paused]
        for candidate in _spread(free, self._rng):
            claim = self._take(candidate["_id"], wanted, claimant)
            if claim is not None:
                return claim
        return None

    def _candidates(self, wanted: Document) -> list[Document]:
        order = [("priority", DESCENDING), ("queuedAt", ASCENDING), ("_id", ASCENDING)]
        return list(self._runs.find(wanted, {"_id": 1, "queue": 1}).sort(order).limit(PEEK))

    def _take(self, run_id: str, wanted: Document, claimant: Claimant) -> Claim | None:
        token = secrets.token_hex(16)
        asked_at = self._clock.monotonic()
        try:
            document = self._runs.find_one_and_update(
                wanted | {"_id": run_id}, self._claiming(claimant, token), return_document=ReturnDocument.AFTER
            )
        except (ConnectionFailure, WTimeoutError):
            # Unknown outcome: the token is ours alone, so finding it says that the claim happened.
            document = self._runs.find_one({"_id": run_id, "leaseToken": token})
        if document is None:
            return None
        run = run_from(document)
        fence = Fence(run.id, run.attempt, token)
        return Claim(run, Lease(fence, self._lease_seconds, self._margin_seconds, asked_at))

    def _claiming(self, claimant: Claimant, token: str) -> list[Document]:
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
            "claimedBy": _literal(claimant.worker_id),
            "claimedAt": "$$NOW",
            "leaseToken": token,
            "leaseExpiresAt": self._lease_end(),
            "pod": _literal(pod),
            "history": noted("claimed", raised=1, by=claimant.worker_id),
        }
        return [{"$set": values}, {"$unset": ["runAfter", "cancelRequestedAt", "cancelRequestedBy"]}]

    def _lease_end(self) -> Document:
        return {"$add": ["$$NOW", round(self._lease_seconds * 1000)]}

    # ── while it runs: every write is fenced ────────────────────────────────────────────────────────────

    def start(self, fence: Fence) -> bool:
        """SCHEDULED → RUNNING, once the child is up. False: the attempt is over."""
        update = [{"$set": {"status": RunStatus.RUNNING.value}}]
        return self._runs.update_one(_fenced(fence), update).matched_count == 1

    def renew(self, lease: Lease) -> tuple[Renewal, Lease]:
        """Prolong the lease from now, by the server's clock. An expired lease cannot be renewed.

        Raises pymongo errors when the server does not answer; the caller still trusts its lease until then.
        """
        asked_at = self._clock.monotonic()
        document = self._runs.find_one_and_update(
            _fenced(lease.fence) | {"$expr": {"$gt": ["$leaseExpiresAt", "$$NOW"]}},
            [{"$set": {"leaseExpiresAt": self._lease_end()}}],
            projection={"cancelRequestedAt": 1},
            return_document=ReturnDocument.AFTER,
        )
        if document is None:
            return Renewal.LOST, lease
        verdict = Renewal.CANCEL if document.get("cancelRequestedAt") else Renewal.OK
        return verdict, lease.renewed(asked_at)

    def checkpoint(self, fence: Fence, checkpoint: Checkpoint) -> bool:
        """Record how far a stage has come. Progress also clears the crash count: a run that gets on is no
        crash loop. False: the attempt is over."""
        entry = {"$literal": checkpoint_document(checkpoint)}
        update = [{"$set": {f"checkpoints.{checkpoint.stage}": entry, "crashCount": 0}}]
        return self._runs.update_one(_fenced(fence), update).matched_count == 1

    # ── out ─────────────────────────────────────────────────────────────────────────────────────────────

    def settle(self, fence: Fence, outcome: Outcome) -> Settlement | None:
        """End the attempt with one fenced write. None: the attempt was over already, nothing was written.

        Safe to repeat after an unknown outcome: the token is gone once the first try has worked, and
        `settledToken` tells our own success from somebody else's takeover.
        """
        if isinstance(outcome, Lost):
            return None
        document = self._runs.find_one(
            {
                "_id": fence.run_id,
                "attempt": fence.attempt,
                "$or": [{"leaseToken": fence.token}, {"settledToken": fence.token}],
            }
        )
        if document is None:
            return None
        if document.get("settledToken") == fence.token:
            return Settlement(RunStatus.read(document["status"]))
        settlement = self._judge(run_from(document), outcome)
        written = self._runs.update_one(_fenced(fence), _settling(fence, outcome, settlement)).matched_count
        return settlement if written or self._was_settled(fence) else None

    def _was_settled(self, fence: Fence) -> bool:
        return self._runs.count_documents({"_id": fence.run_id, "settledToken": fence.token}, limit=1) == 1

    def _judge(self, run: Run, outcome: Outcome) -> Settlement:
        if isinstance(outcome, Succeeded):
            return Settlement(RunStatus.COMPLETED)
        if isinstance(outcome, Canceled) or run.cancel_requested_at is not None:
            return Settlement(RunStatus.CANCELED, code=FailureCode.CANCELED)
        if isinstance(outcome, Failed):
            return judge_failure(run, outcome.failure, self._max_crashes, self._rng)
        return Settlement(RunStatus.QUEUED)

    # ── reading ─────────────────────────────────────────────────────────────────────────────────────────

    def get(self, run_id: str) -> Run | None:
        document = self._runs.find_one({"_id": run_id})
        return run_from(document) if document else None

    def paused(self) -> frozenset[str]:
        """The names of the queues that nobody may claim from."""
        return frozenset(str(each["_id"]) for each in self._queues.find({"paused": True}, {"_id": 1}))


def judge_failure(run: Run, failure: Failure, max_crashes: int, rng: random.Random) -> Settlement:
    """Retry or end, from the code's rule and the two budgets. Pure."""
    rule = failure.rule
    if not rule.retryable:
        return Settlement(RunStatus.FAILED, code=failure.code)
    if rule.failure_class is FailureClass.INFRA:
        if run.crash_count + 1 >= max_crashes:
            return Settlement(RunStatus.FAILED, code=FailureCode.POISON)
        return Settlement(RunStatus.QUEUED, backoff_seconds(failure.code, run.crash_count, rng), failure.code)
    if run.retry_count + 1 >= run.max_attempts:
        return Settlement(RunStatus.FAILED, code=failure.code)
    return Settlement(RunStatus.QUEUED, backoff_seconds(failure.code, run.retry_count, rng), failure.code)


def noted(what: str, *, raised: int = 0, **details: Json) -> Document:
    """A line for the run's short history: what happened to it, by whose hand, at the server's time.

    `raised`: by how much the same write raises the attempt.
    """
    entry = {name: _literal(value) for name, value in details.items() if value is not None}
    line = {
        "at": "$$NOW",
        "what": _literal(what),
        "attempt": {"$add": [{"$ifNull": ["$attempt", 0]}, raised]},
    } | entry
    return {"$slice": [{"$concatArrays": [{"$ifNull": ["$history", []]}, [line]]}, -HISTORY_LIMIT]}


LEASE_FIELDS = ["leaseToken", "leaseExpiresAt", "claimedBy", "claimedAt"]


def _fenced(fence: Fence) -> Document:
    return {"_id": fence.run_id, "attempt": fence.attempt, "leaseToken": fence.token}


def _claimable(claimant: Claimant) -> Document:
    return {
        "status": RunStatus.QUEUED.value,
        "queue": {"$in": list(claimant.queues)},
        "pipeline": {"$in": list(claimant.pipelines)},
        "hidden": {"$ne": True},
        "requirements.gpu": {"$in": [None, *claimant.gpu_names]},
        "requirements.minVramGb": {"$not": {"$gt": claimant.vram_gb}},
        "requirements.region": {"$in": [None, claimant.region]},
        # A missing runAfter sorts before every date, so this also admits runs that need not wait.
        "$expr": {"$lte": ["$runAfter", "$$NOW"]},
    }


def _spread(candidates: list[Document], rng: random.Random) -> list[Document]:
    """The head first, so that a quiet queue is served in order; then the others at random, so that many
    losers of one race do not meet again at the second."""
    head, rest = candidates[:1], candidates[1:]
    rng.shuffle(rest)
    return head + rest


def _identity(request: RunRequest) -> Document:
    return {"uniqueKey": request.unique_key} if request.unique_key else {"_id": request.id}


def _insertion(request: RunRequest) -> list[Document]:
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
    fresh = {"$mergeObjects": [_literal(document), {"createdAt": "$$NOW", "queuedAt": "$$NOW"}]}
    is_new = {"$eq": [{"$type": "$createdAt"}, "missing"]}
    return [{"$replaceWith": {"$cond": [is_new, fresh, "$$ROOT"]}}]


def _settling(fence: Fence, outcome: Outcome, settlement: Settlement) -> list[Document]:
    values: Document = {
        "status": settlement.status.value,
        "settledToken": fence.token,
        "history": noted(_verb(outcome), code=settlement.code, detail=_detail(outcome)),
    } | _budgets(outcome, settlement)
    values |= _ending(settlement.status) | _error_fields(outcome, settlement)
    gone = list(LEASE_FIELDS)
    if settlement.status is RunStatus.COMPLETED:
        gone += ["errorCode", "errorMessage", "errorTraceback", "retryable"]
    return [{"$set": values}, {"$unset": gone}]


def _budgets(outcome: Outcome, settlement: Settlement) -> Document:
    fields: Document = {}
    if isinstance(outcome, Failed) and settlement.status is not RunStatus.CANCELED:
        infra = outcome.failure.rule.failure_class is FailureClass.INFRA
        counter = "crashCount" if infra else "retryCount"
        fields[counter] = {"$add": [{"$ifNull": [f"${counter}", 0]}, 1]}
    if settlement.status is RunStatus.QUEUED:
        wait = settlement.retry_in_seconds
        fields["queuedAt"] = {"$ifNull": ["$queuedAt", "$$NOW"]}  # keeps its place in the line
        fields["runAfter"] = {"$add": ["$$NOW", round(wait * 1000)]} if wait else "$$REMOVE"
    return fields


def _ending(status: RunStatus) -> Document:
    field_of = {
        RunStatus.COMPLETED: "completedAt",
        RunStatus.FAILED: "failedAt",
        RunStatus.CANCELED: "canceledAt",
    }
    return {field_of[status]: "$$NOW"} if status in field_of else {}


def _error_fields(outcome: Outcome, settlement: Settlement) -> Document:
    if not isinstance(outcome, Failed) or settlement.status is RunStatus.CANCELED:
        return {}
    failure = outcome.failure
    message = failure.message
    if settlement.code is FailureCode.POISON:
        message = f"gave up after repeated crashes; the last one was {failure.code}: {failure.message}"
    return {
        "errorCode": (settlement.code or failure.code).value,
        "errorMessage": _literal(message),
        "errorTraceback": _literal(failure.traceback),
        "errorStage": _literal(failure.stage),
        "retryable": failure.rule.retryable,
    }


def _verb(outcome: Outcome) -> str:
    return type(outcome).__name__.lower()


def _detail(outcome: Outcome) -> str | None:
    match outcome:
        case Failed(failure):
            return f"{failure.code}: {failure.message}"[:300]
        case Released(reason) | Lost(reason) | Canceled(_, reason):
            return reason
        case _:
            return None


def _literal(value: Json) -> Document:
    """Data inside a pipeline: a `$` in a user's text must stay text."""
    return {"$literal": value}
