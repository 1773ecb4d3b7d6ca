"""A real change stream gives every committed change with its images, through a fail-over of nothing but time."""

from __future__ import annotations

from typing import Any

from pymongo.database import Database

from chaos.history import Recorder, What, moves, prepare
from pod_worker.core.clock import SystemClock
from pod_worker.core.outcome import Succeeded
from pod_worker.core.run import Checkpoint
from pod_worker.store.queue.operations import OperatorActions
from pod_worker.store.queue.run_queue import ClaimingWorker, RunQueue, RunRequest

CLAIMANT = ClaimingWorker("pod-0:w", "pod-0", ("synthetic",), ("synthetic",))


def test_the_meaning_of_every_write_of_the_queue_is_recognised(db: Database[dict[str, Any]]) -> None:
    prepare(db)
    recorder = Recorder(db)
    recorder.start()
    queue, operations = RunQueue(db, SystemClock()), OperatorActions(db)

    queue.enqueue(RunRequest("r", "synthetic", {}))
    claim = queue.claim(CLAIMANT)
    assert claim is not None
    queue.start(claim.lease.fence)
    queue.renew(claim.lease)
    queue.checkpoint(claim.lease.fence, Checkpoint("Stage_1", True, {"step": 1}, 1))
    operations.cancel("r")
    queue.settle(claim.lease.fence, Succeeded())
    operations.reset("r")
    operations.cancel("r")
    db["runs"].update_one({"_id": "r"}, {"$set": {"currentStage.progress": 0.5}})

    assert [move.what for move in moves(recorder.finish())] == [
        What.QUEUED,
        What.CLAIMED,
        What.STARTED,
        What.RENEWED,
        What.CHECKPOINTED,
        What.CANCEL_REQUESTED,
        What.SETTLED,
        What.RESET,
        What.CANCELED,
        What.OTHER,
    ]


def test_changes_carry_the_document_before_and_after(db: Database[dict[str, Any]]) -> None:
    prepare(db)
    recorder = Recorder(db)
    recorder.start()
    db["runs"].insert_one({"_id": "r", "n": 1})
    db["runs"].update_one({"_id": "r"}, {"$set": {"n": 2}})

    first, second = recorder.finish()
    assert (first.before, first.after) == (None, {"_id": "r", "n": 1})
    assert (second.before, second.after) == ({"_id": "r", "n": 1}, {"_id": "r", "n": 2})
