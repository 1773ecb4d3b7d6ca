"""Copies the state of ideation runs to their requests and hypotheses.

The run is the truth. Front ends that know only the two collections read the copy. One pass reads what is open,
on either side: requests that wait or run, and runs of the queue `ideation`, so that a run which an operator reset
opens its request again. Any process may do it at any time; the next pass corrects a copy that a slower process
made out of date.
"""

from __future__ import annotations

from pymongo.errors import PyMongoError

from pod_worker.core.research.ideation import PIPELINE
from pod_worker.core.run import RunStatus
from pod_worker.store.collections import HYPOTHESES, IDEATION_REQUESTS, RUNS
from pod_worker.store.errors import is_permanent_error
from pod_worker.store.ideation.requests import shown_state
from pod_worker.store.mongo import Document, Mongo, tolerant_rows
from pod_worker.store.queue.run_document import run_from_document
from pod_worker.store.queue.run_queue import ACTIVE_STATES

LIMIT = 1000  # of each side in one pass
OPEN = ["QUEUED", "RUNNING"]
_DELETED: Document = {"status": "FAILED", "error": "INVALID_INPUT: its run was deleted. Insert another request."}


class RequestStatusSync:
    def __init__(self, database: Mongo) -> None:
        self._runs = tolerant_rows(database, RUNS)
        self._requests = tolerant_rows(database, IDEATION_REQUESTS)
        self._hypotheses = tolerant_rows(database, HYPOTHESES)

    def sync(self) -> int:
        """Write the states that differ; returns how many.

        Without anything open, it costs two indexed queries. Raises PyMongoError when the server does not answer.
        """
        opened = {"status": {"$in": OPEN}, "runId": {"$type": "string"}}
        requests = {each["runId"]: each for each in self._requests.find(opened, {"ideas": 0}).limit(LIMIT)}
        active = {"status": {"$in": [RunStatus.QUEUED.value, *ACTIVE_STATES]}, "queue": PIPELINE}
        active_ids = [each["_id"] for each in self._runs.find(active, {"_id": 1}).limit(LIMIT)]
        if reopened := [run_id for run_id in active_ids if isinstance(run_id, str) and run_id not in requests]:
            found = self._requests.find({"_id": {"$in": reopened}, "runId": {"$type": "string"}}, {"ideas": 0})
            requests |= {each["runId"]: each for each in found}
        states = self._states(list(requests))
        return sum(self._write(request, states.get(run_id, _DELETED)) for run_id, request in requests.items())

    def _states(self, run_ids: list[str]) -> dict[str, Document]:
        found = self._runs.find({"_id": {"$in": run_ids}}, {"params": 0, "history": 0}) if run_ids else ()
        return {run["_id"]: shown_state(run_from_document(run)) for run in found}

    def _write(self, request: Document, state: Document) -> bool:
        if all(request.get(name) == value for name, value in state.items()):
            return False
        try:
            # First, because the request that is closed is not looked at again.
            self._hypotheses.update_one(
                {"_id": {"$eq": request.get("hypothesisId")}, "ideation.requestId": request["runId"]},
                {"$set": {f"ideation.{name}": state.get(name) for name in ("status", "error")}},
            )
            seen = {"_id": {"$eq": request["_id"]}, "status": {"$eq": request.get("status")}}
            change = {"$set": state, "$currentDate": {"updatedAt": True}}
            return self._requests.update_one(seen, change).matched_count == 1
        except PyMongoError as error:
            if not is_permanent_error(error):
                raise
            return False  # the document of another program, which no update fits
