"""No document of another program harms its neighbours: all other runs are claimed, rescued, read and pruned.

A property over every collection, field and BSON type. HYPOTHESIS_PROFILE chooses how many examples are tried, or
FOREIGN_EXAMPLES=10000 (about an hour).
"""

from __future__ import annotations

import os
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from pymongo.database import Database
from pymongo.errors import BulkWriteError
from pymongo.write_concern import WriteConcern

from pod_worker.core.clock import SystemClock
from pod_worker.core.lease import RenewalResult
from pod_worker.core.outcome import Succeeded
from pod_worker.core.run import Checkpoint, RunStatus
from pod_worker.core.worker_offer import WorkerOffer
from pod_worker.store import artifact_registry
from pod_worker.store.errors import is_partial_write
from pod_worker.store.events.event_log import EventLog
from pod_worker.store.events.reader import EventFilter, EventReader
from pod_worker.store.ideation.hypotheses import Hypotheses, HypothesisRequest
from pod_worker.store.ideation.requests import IdeationRequest, IdeationRequests
from pod_worker.store.ideation.sweep import IdeationSweep
from pod_worker.store.mongo import tolerant_rows
from pod_worker.store.pod_intents import PodIntents
from pod_worker.store.pruning import RunPruner
from pod_worker.store.queue.operations import OperatorActions
from pod_worker.store.queue.rescue import Rescue
from pod_worker.store.queue.run_document import run_from_document
from pod_worker.store.queue.run_queue import ClaimingWorker, RunQueue, RunRequest
from pod_worker.store.queue.stats import QueueStatsReader
from pod_worker.store.views.changes import SELECTED_IDEA, FieldUpdate, MetricPoint, View, ViewChanges
from pod_worker.store.views.metric_series import MetricSeries
from pod_worker.store.views.pending_projections import PendingProjections
from pod_worker.store.views.read_models import ReadModels, RunFilter
from pod_worker.store.views.writer import Views
from pod_worker.store.worker_registry import WorkerRegistry
from tests.store.foreign_documents import FOREIGN, OLD, TEMPLATES, Foreign, insert, of_run
from tests.store.foreign_documents import IDEA as FOREIGN_IDEA

Db = Database[dict[str, Any]]

EXAMPLES = int(os.environ.get("FOREIGN_EXAMPLES", "0"))
OFFER = WorkerOffer(smallest_vram_gb=24.0, largest_vram_gb=24.0)
WORKER = ClaimingWorker("w1", "pod", ("synthetic", "paused"), ("synthetic",), offer=OFFER)
ENDED = [RunStatus.COMPLETED.value, RunStatus.FAILED.value]
PARTS = [collection for collection, _ in TEMPLATES.values()]


@pytest.fixture
def ready(db: Db) -> Db:
    # Without a journal: thousands of examples, and none crashes the server.
    return db.client.get_database(db.name, write_concern=WriteConcern(1, j=False))


def one_example(db: Db, documents: list[Foreign]) -> None:
    for name in {*PARTS}:
        db[name].delete_many({})
    insert(db, documents)
    neighbours = Neighbours(db)
    neighbours.are_claimed_and_executed()
    neighbours.are_rescued()
    neighbours.are_projected()
    neighbours.are_adopted()
    neighbours.can_be_canceled_and_reset()
    neighbours.are_read()
    neighbours.are_pruned()


@pytest.mark.timeout(0 if EXAMPLES else 240)
def test_no_document_harms_its_neighbours(ready: Db) -> None:
    @settings(suppress_health_check=list(HealthCheck), **({"max_examples": EXAMPLES} if EXAMPLES else {}))
    @given(FOREIGN)
    def example(documents: list[Foreign]) -> None:
        one_example(ready, documents)

    example()


class Neighbours:
    """Good documents beside the foreign ones."""

    def __init__(self, db: Db) -> None:
        self.db = db
        self.queue = RunQueue(db, SystemClock(), lease_seconds=3600, rng=random.Random(1))
        self.operations = OperatorActions(db)

    def are_claimed_and_executed(self) -> None:
        run, is_new = self.queue.enqueue(RunRequest("good", "synthetic", {}, priority=-9))
        assert is_new
        assert run.id == "good"
        for _ in range(6):  # the foreign ones are more urgent; those that can be executed are
            claim = self.queue.claim(WORKER)
            assert claim is not None, "the good run was not claimed"
            fence = claim.lease.fence
            assert self.queue.start(fence)
            assert self.queue.renew(claim.lease)[0] is RenewalResult.OK
            assert self.queue.checkpoint(fence, Checkpoint("s.1", True, {"n": 1}))
            settlement = self.queue.settle(fence, Succeeded())
            assert settlement is not None
            assert settlement.status is RunStatus.COMPLETED
            if claim.run.id == "good":
                break
        else:
            pytest.fail("the good run was never reached")
        self._are_the_others_named()

    def _are_the_others_named(self) -> None:
        """A run that cannot be executed does not wait in the queue; its code and message say why."""
        for _ in range(3):  # less urgent than the good one, for example without a priority
            if claim := self.queue.claim(WORKER):
                assert self.queue.start(claim.lease.fence)
                assert self.queue.settle(claim.lease.fence, Succeeded())
        assert self.queue.claim(WORKER) is None
        for document in ReadModels(self.db)._runs.find({"status": "FAILED"}):
            assert document["errorCode"] in ("BAD_DOCUMENT", "INVALID_INPUT")
            assert "cannot be executed" in document["errorMessage"]

    def are_rescued(self) -> None:
        lost = of_run("lost", status="RUNNING", leaseToken="t", leaseExpiresAt=OLD, crashCount=0, retryCount=0)
        self.db["runs"].insert_one(lost)
        rescued = {each.run.id for each in Rescue(self.db).sweep()}
        assert "lost" in rescued
        assert Rescue(self.db).sweep() == []

    def are_projected(self) -> None:
        self.db["runs"].insert_one({"_id": "seen"})
        views = Views(self.db)
        changes = ViewChanges()
        runs = [str(each["_id"]) for each in ReadModels(self.db)._runs.find({}, {"_id": 1})]
        version = (1, 1, 1, "e9")
        for run_id in sorted({*runs, "seen"}):
            changes.add(run_id, 1, version, FieldUpdate(View.RUN, "", "budget", {"budget.fraction": 0.5}))
            changes.add(run_id, 1, version, FieldUpdate(View.STAGE, "s", "status", {"status": "RUNNING"}))
            changes.add(run_id, 1, version, MetricPoint("s", "loss", 0.5, OLD, step=1))
        try:
            views.apply(changes)
        except BulkWriteError as error:
            if not is_partial_write(error):
                raise
        views.current_attempts(runs)
        seen = self.db["runs"].find_one({"_id": "seen"})
        assert seen is not None
        assert seen["budget"] == {"fraction": 0.5}
        assert seen["metrics"] == {"loss": 0.5}
        pending = PendingProjections(self.db, "me")
        pending.mark({"seen": 5})
        for marker in pending.abandoned(20):
            pending.discard(marker)
        pending.clear({"seen": 5})

    def are_adopted(self) -> None:
        hypotheses, requests = Hypotheses(self.db), IdeationRequests(self.db)
        assert hypotheses.create(HypothesisRequest(id="h9", title="t", text="x"))
        assert hypotheses.choose("h9", FOREIGN_IDEA, 0, "me")
        assert hypotheses.launch_when_ready("h9", "experiment-9", {})
        requests.insert(IdeationRequest(id="q9", hypothesis_id="h9"))
        sweep = IdeationSweep(self.db, self.queue)
        sweep.run()
        sweep.run()
        for run_id in ("q9", "experiment-9"):
            assert self.queue.get(run_id) is not None, f"{run_id} was not queued"
        waiting = self.db["ideation_requests"].count_documents({"status": "QUEUED", "runId": None})
        assert waiting == 0, "a request that cannot be adopted does not wait"
        changes = ViewChanges()
        for run_id, hypothesis in (("q9", "h9"), ("queued", "h1"), ("q1", "h1")):
            written = {"ideas": [FOREIGN_IDEA], "idea_count": 1}
            changes.add(run_id, 1, (1, 1, 1, "e"), FieldUpdate(View.IDEATION, "", "ideas", written))
            selected = {"idea_json": FOREIGN_IDEA, "idea_source": {"by": "ideation"}}
            changes.add(
                run_id, 1, (1, 1, 1, "e"), FieldUpdate(View.HYPOTHESIS, hypothesis, SELECTED_IDEA, selected)
            )
        try:
            Views(self.db).apply(changes)
        except BulkWriteError as error:
            if not is_partial_write(error):
                raise
        shown = requests.get("q9")
        assert shown is not None
        assert shown["ideas"] == [FOREIGN_IDEA]
        listed = [*requests.newest(100), *requests.newest(100, "h1")]
        assert "q9" in [each["_id"] for each in listed]
        assert "h9" in [each["_id"] for each in hypotheses.newest(100)]
        for each in tolerant_rows(self.db, "hypotheses").find({}, {"_id": 1}):
            hypotheses.get(each["_id"])
            hypotheses.document(each["_id"])
        requests.ids_with_prefix("q", 10)
        hypotheses.ids_with_prefix("h", 10)

    def can_be_canceled_and_reset(self) -> None:
        self.db["runs"].insert_one({"_id": "waiting", "status": "QUEUED"})
        for run_id in [str(each["_id"]) for each in ReadModels(self.db)._runs.find({}, {"_id": 1})]:
            self.operations.cancel(run_id, by="me", reason="test")
            self.operations.reset(run_id, force=True)
            self.operations.retry_stage(run_id, "s")
        waiting = self.queue.get("waiting")
        assert waiting is not None
        assert (waiting.status, waiting.attempt) == (RunStatus.QUEUED, 1)

    def are_read(self) -> None:
        models, events = ReadModels(self.db), EventReader(self.db)
        listed = models.runs(RunFilter(with_hidden=True), 100).items
        assert {"good", "lost", "seen"} <= {run["_id"] for run in listed}
        cursor, found = None, []
        while True:
            page = models.runs(RunFilter(with_hidden=True), 2, cursor=cursor)
            found += [run["_id"] for run in page.items]
            if (cursor := page.next_cursor) is None:
                break
        assert {"good", "lost", "seen"} <= set(found)
        for run_id in {*found} - {"lost", "seen", "waiting"}:
            models.run(run_id)
            models.stages(run_id)
            models.validations(run_id)
            artifact_registry.of_run(self.db, run_id)
            artifact_registry.owner_of(self.db, run_id)
            MetricSeries(self.db).read(run_id)
            list(EventLog(self.db).replay(run_id))
            events.read_page(run_id, EventFilter(), 10)
        for document in ReadModels(self.db)._runs.find({}):
            run_from_document(document)
        events.read_after("good", 0, 10)
        events.ids_between("good", 0, 10**18)
        events.last_position("good")
        events.dead_letters(10)
        EventLog(self.db).stored(["e1"])
        list(EventLog(self.db).run_ids())
        WorkerRegistry(self.db).list()
        PodIntents(self.db).named({"i1", "absent"})
        QueueStatsReader(self.db).read()
        models.hypothesis("h1")
        self.queue.paused()

    def are_pruned(self) -> None:
        self.db["runs"].insert_one(of_run("over", status="COMPLETED", completedAt=OLD))
        artifact = {"runId": "over", "verifiedAt": OLD, "key": "runs/over/1/a"}
        self.db["artifacts"].insert_one({"_id": "over:x"} | artifact)
        pruner, before = RunPruner(self.db), datetime.now(UTC) - timedelta(days=30)
        deleted: list[str] = []
        pruner.delete(pruner.find(ENDED, before), ENDED, before, deleted.append)
        assert self.db["runs"].find_one({"_id": "over"}) is None
        assert "runs/over/1/a" in deleted
        assert all(isinstance(key, str) and key.startswith("runs/") for key in deleted)
        pruner.delete_orphans(pruner.orphans(before), deleted.append)
        assert self.db["runs"].find_one({"_id": "good"}) is not None
