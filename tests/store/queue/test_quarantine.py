"""A run that cannot be executed is ended by name and does not stop the runs behind it."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import bson
import pytest
from bson.datetime_ms import DatetimeMS
from bson.objectid import ObjectId
from bson.raw_bson import RawBSONDocument
from pymongo.database import Database

from pod_worker.core.clock import SystemClock
from pod_worker.core.failure import Failure, FailureCode
from pod_worker.core.lease import RenewalResult
from pod_worker.core.outcome import Canceled, Failed, Succeeded
from pod_worker.core.run import PARAMS_LIMIT_BYTES, Checkpoint, InvalidRunError, RunStatus
from pod_worker.store.errors import is_permanent_error
from pod_worker.store.queue.operations import ActionResult, OperatorActions
from pod_worker.store.queue.rescue import BATCH, Rescue
from pod_worker.store.queue.run_queue import ClaimingWorker, RunQueue, RunRequest

Db = Database[dict[str, Any]]
OLD = datetime(2026, 1, 1, tzinfo=UTC)
FAR = DatetimeMS(2**60)
WORKER = ClaimingWorker("w1", "pod", ("synthetic",), ("synthetic",))
LIMIT = 16 * 1024 * 1024


@pytest.fixture
def queue(db: Db) -> RunQueue:
    return RunQueue(db, SystemClock(), rng=random.Random(1))


def queued(run_id: Any, **fields: Any) -> dict[str, Any]:
    return {
        "_id": run_id,
        "status": "QUEUED",
        "pipeline": "synthetic",
        "queue": "synthetic",
        "priority": 1,
    } | fields


def lost(run_id: str, **fields: Any) -> dict[str, Any]:
    held = {
        "status": "RUNNING",
        "attempt": 1,
        "leaseToken": f"t-{run_id}",
        "leaseExpiresAt": OLD,
        "claimedBy": "w0",
    }
    return {"_id": run_id, "pipeline": "synthetic", "queue": "synthetic"} | held | fields


def full(document: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """The document with `fields`, filled up to 60 bytes below the limit."""
    document = document | fields | {"params": {"blob": ""}}
    room = LIMIT - len(bson.encode(document)) - 60
    return document | {"params": {"blob": "x" * room}}


@pytest.fixture
def clean_cache(db: Db) -> None:
    """The tests' server has a small cache, which a few dirty documents of 16 MiB fill."""
    db.client.admin.command("fsync")


def claims_good(queue: RunQueue) -> None:
    queue.enqueue(RunRequest("good", "synthetic", {}))
    claim = queue.claim(WORKER)
    assert claim is not None
    assert claim.run.id == "good"


# ── claim ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"queue": ["synthetic"]}, "queue"),
        ({"pipeline": ["synthetic"]}, "pipeline"),
        ({"history": "text"}, "history"),
        ({"history": {}}, "history"),
        ({"attempt": "three"}, "attempt"),
        ({"attempt": {}}, "attempt"),
        ({"attempt": 1.5}, "attempt"),
        ({"attempt": -1}, "attempt"),
        ({"attempt": 2**62}, "attempt"),
        ({"attempt": float("nan")}, "attempt"),
        ({"attempt": float("inf")}, "attempt"),
        ({"priority": float("nan")}, "priority"),
        ({"maxAttempts": float("inf")}, "maxAttempts"),
        ({"retryCount": float("nan")}, "retryCount"),
        ({"crashCount": "x"}, "crashCount"),
        ({"params": []}, "params"),
        ({"checkpoints": "x"}, "checkpoints"),
        ({"requirements": {"minVramGb": "big"}}, "minVramGb"),
    ],
    ids=str,
)
def test_a_run_with_a_bad_field_is_quarantined_and_the_next_is_claimed(
    queue: RunQueue, db: Db, fields: dict[str, Any], named: str
) -> None:
    db["runs"].insert_one(queued("bad", **fields))
    claims_good(queue)
    assert queue.claim(WORKER) is None  # NaN sorts last
    bad = db["runs"].find_one({"_id": "bad"})
    assert bad is not None
    assert (bad["status"], bad["errorCode"], "leaseToken" in bad) == ("FAILED", "BAD_DOCUMENT", False)
    assert named in bad["errorMessage"]
    assert bad["failedAt"] is not None


@pytest.mark.parametrize("run_id", ["..", "", "/etc", "../../../victim", "a\\b", " a", "a\x1b[2J", "x" * 300])
def test_a_run_with_an_id_that_no_path_or_url_can_hold_ends_as_invalid_input(
    queue: RunQueue, db: Db, run_id: str
) -> None:
    db["runs"].insert_one(queued(run_id))
    claims_good(queue)
    bad = db["runs"].find_one({"_id": run_id})
    assert bad is not None
    assert (bad["status"], bad["errorCode"]) == ("FAILED", "INVALID_INPUT")
    assert "its id" in bad["errorMessage"]


def test_ids_that_are_not_valid_utf8_do_not_hold_up_the_queue(queue: RunQueue, db: Db) -> None:
    for number in range(70):  # more than a look holds
        raw = bson.encode(queued(f"placeholder-{number:02}")).replace(b"placeholder", b"\xff\xfeaceholder"[:11])
        db["runs"].insert_one(RawBSONDocument(raw))
    claims_good(queue)
    assert db["runs"].count_documents({"status": "FAILED", "errorCode": "INVALID_INPUT"}) == 70


@pytest.mark.parametrize("run_id", [ObjectId("6" * 24), 7, 2.5, datetime(2026, 1, 1)], ids=repr)
def test_a_run_whose_id_is_no_string_is_never_claimed(queue: RunQueue, db: Db, run_id: Any) -> None:
    """It belongs to another program, so it is left as it is."""
    db["runs"].insert_one(queued(run_id))
    claims_good(queue)
    assert queue.claim(WORKER) is None
    assert db["runs"].count_documents({"status": "QUEUED"}) == 1


@pytest.mark.parametrize(
    "params", [{"when": FAR}, {"n": float("nan")}, {"deep": {"when": [FAR, ObjectId("6" * 24)]}}], ids=str
)
def test_parameters_of_other_types_reach_the_worker_as_plain_json(
    queue: RunQueue, db: Db, params: dict[str, Any]
) -> None:
    import json

    db["runs"].insert_one(queued("a", params=params))
    claim = queue.claim(WORKER)
    assert claim is not None
    json.dumps(claim.run.params, allow_nan=False)


@pytest.mark.usefixtures("clean_cache")
def test_a_run_without_room_for_a_claim_gives_up_its_views(queue: RunQueue, db: Db) -> None:
    db["runs"].insert_one(full(queued("full"), metrics={f"m{n}": 0.5 for n in range(100)}))
    claim = queue.claim(WORKER)
    assert claim is not None
    assert queue.renew(claim.lease)[0] is RenewalResult.OK
    assert queue.settle(claim.lease.fence, Succeeded()) is not None


@pytest.mark.usefixtures("clean_cache")
def test_a_run_that_no_claim_can_fit_into_is_quarantined(queue: RunQueue, db: Db) -> None:
    db["runs"].insert_one(full(queued("full")))
    claims_good(queue)
    bad = db["runs"].find_one({"_id": "full"}, {"params": 0})
    assert bad == {"_id": "full", "status": "FAILED", "pipeline": "synthetic", "queue": "synthetic", "priority": 1}


# ── rescue ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "fields",
    [
        {"history": "text"}, {"attempt": "three"}, {"attempt": float("nan")}, {"crashCount": "x"},
        {"crashCount": float("inf")}, {"maxAttempts": []}, {"retryCount": {}}, {"runAfter": FAR},
        {"params": {"when": FAR}}, {"claimedBy": 7}, {"cancelRequestedAt": "yes"},
    ],
    ids=str,
)  # fmt: skip
def test_the_rescue_goes_on_after_a_bad_document(db: Db, queue: RunQueue, fields: dict[str, Any]) -> None:
    db["runs"].insert_many([lost("bad", **fields, leaseExpiresAt=OLD - timedelta(days=1)), lost("good")])
    rescued = {each.run.id for each in Rescue(db).sweep()}
    assert "good" in rescued
    assert Rescue(db).sweep() == []


@pytest.mark.usefixtures("clean_cache")
def test_a_full_document_does_not_stop_the_sweep(db: Db, queue: RunQueue) -> None:
    earlier = OLD - timedelta(days=1)
    db["runs"].insert_one(full(lost("full", leaseExpiresAt=earlier)))
    db["runs"].insert_many([lost(f"good{number:03}") for number in range(BATCH)])
    rescued = [each.run.id for each in Rescue(db).sweep()]
    assert len([run_id for run_id in rescued if run_id.startswith("good")]) >= BATCH - 1


def test_a_run_whose_id_cannot_be_read_is_ended_by_the_rescue(db: Db, queue: RunQueue) -> None:
    raw = bson.encode(lost("placeholder")).replace(b"placeholder", b"\xff\xfeaceholder"[:11])
    db["runs"].insert_one(RawBSONDocument(raw))
    db["runs"].insert_one(lost("good"))
    assert [each.run.id for each in Rescue(db).sweep()] == ["good"]
    assert db["runs"].count_documents({"status": "FAILED"}) == 1


# ── operators ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_quarantined_run_is_repaired_by_a_reset(db: Db, queue: RunQueue) -> None:
    db["runs"].insert_one(queued("bad", attempt="three", history="x", crashCount=float("nan"), priority="high"))
    assert queue.claim(WORKER) is None
    outcome = OperatorActions(db).reset("bad")
    assert outcome.verdict is ActionResult.DONE
    db["runs"].update_one({"_id": "bad"}, {"$unset": {"history": ""}})
    claim = queue.claim(WORKER)
    assert claim is not None
    assert (claim.run.id, claim.run.attempt, claim.run.crash_count) == ("bad", 2, 0)


@pytest.mark.parametrize("fields", [{"history": "text"}, {"attempt": "three"}, {"params": {"when": FAR}}], ids=str)
def test_a_bad_run_can_be_canceled(db: Db, queue: RunQueue, fields: dict[str, Any]) -> None:
    db["runs"].insert_one(queued("bad", **fields))
    assert OperatorActions(db).cancel("bad").verdict is ActionResult.DONE


@pytest.mark.usefixtures("clean_cache")
def test_a_full_run_can_be_canceled_and_settled(db: Db, queue: RunQueue) -> None:
    """A cancel always ends, also where the document has no room for the request."""
    queue.enqueue(RunRequest("a", "synthetic", {}))
    claim = queue.claim(WORKER)
    assert claim is not None
    document = db["runs"].find_one({"_id": "a"})
    assert document is not None
    db["runs"].replace_one({"_id": "a"}, full(document, metrics={f"m{n}": 0.5 for n in range(200)}))
    assert OperatorActions(db).cancel("a").verdict is ActionResult.REQUESTED
    assert queue.renew(claim.lease)[0] is RenewalResult.CANCEL
    settlement = queue.settle(claim.lease.fence, Canceled())
    assert settlement is not None
    assert settlement.status is RunStatus.CANCELED


def test_a_settle_ends_with_a_cancel_request_of_any_type(db: Db, queue: RunQueue) -> None:
    queue.enqueue(RunRequest("a", "synthetic", {}))
    claim = queue.claim(WORKER)
    assert claim is not None
    db["runs"].update_one({"_id": "a"}, {"$set": {"cancelRequestedAt": "yes"}})
    assert queue.renew(claim.lease)[0] is RenewalResult.CANCEL
    settlement = queue.settle(claim.lease.fence, Failed(Failure(FailureCode.NETWORK, "x")))
    assert settlement is not None
    assert settlement.status is RunStatus.CANCELED


# ── checkpoints ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stage", ["a.b", "$x", "", "a b", "1"])
def test_any_stage_name_is_one_checkpoint(queue: RunQueue, db: Db, stage: str) -> None:
    queue.enqueue(RunRequest("a", "synthetic", {}))
    claim = queue.claim(WORKER)
    assert claim is not None
    assert queue.checkpoint(claim.lease.fence, Checkpoint(stage, True, {"n": 1}))
    run = queue.get("a")
    assert run is not None
    assert run.checkpoints == {stage: Checkpoint(stage, True, {"n": 1})}


@pytest.mark.usefixtures("clean_cache")
def test_a_checkpoint_that_no_document_can_hold_is_a_permanent_error(queue: RunQueue) -> None:
    queue.enqueue(RunRequest("a", "synthetic", {}))
    claim = queue.claim(WORKER)
    assert claim is not None
    for state in ({"n": 2**70}, {"a\0b": 1}, {"blob": "x" * LIMIT}):
        with pytest.raises(Exception) as refused:
            queue.checkpoint(claim.lease.fence, Checkpoint("s", False, state))
        assert is_permanent_error(refused.value), repr(refused.value)


# ── enqueue ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"id": "../victim"}, "id '../victim'"),
        ({"id": ""}, "empty"),
        ({"params": {"n": 2**70}}, "parameter n"),
        ({"params": {"text": "\ud800"}}, "parameter text"),
        ({"params": {"a\0b": 1}}, "parameter a"),
        ({"priority": 2**70}, "priority"),
        ({"params": {"blob": "x" * (PARAMS_LIMIT_BYTES + 1)}}, "bytes; at most"),
    ],
    ids=["id", "no id", "number", "surrogate", "key", "priority", "size"],
)
def test_what_cannot_be_stored_is_refused_by_name(
    queue: RunQueue, db: Db, fields: dict[str, Any], words: str
) -> None:
    request = RunRequest(**({"id": "a", "pipeline": "synthetic", "params": {}} | fields))
    with pytest.raises(InvalidRunError, match=words.replace(".", r"\.")):
        queue.enqueue(request)
    with pytest.raises(InvalidRunError):
        queue.enqueue_many([RunRequest("b", "synthetic", {}), request])
    assert db["runs"].count_documents({}) == 0
