"""Queues the experiment of a hypothesis as soon as it has an idea.

The run's id is chosen when the launch is asked for and stored with the hypothesis, so that a launch which is
repeated after a crash, or by two processes, queues one run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from pymongo.errors import PyMongoError

from pod_worker.core.failure import RunError, truncate
from pod_worker.core.research.idea import read_idea
from pod_worker.core.research.ideation import EXPERIMENT_PIPELINE
from pod_worker.core.run import InvalidRunError, Json
from pod_worker.store.collections import HYPOTHESES
from pod_worker.store.document_fields import mapping, plain_json, text
from pod_worker.store.errors import describe_error, is_permanent_error
from pod_worker.store.mongo import Document, Mongo, tolerant_rows
from pod_worker.store.queue.run_queue import RunQueue, RunRequest

BATCH = 100
_ERROR_LIMIT = 500

log = logging.getLogger(__name__)


def experiment_params(idea: Mapping[str, Json], params: Mapping[str, Json]) -> dict[str, Json]:
    """The parameters of an experiment: the task of the idea unless one is given."""
    task = {"task": idea["Task"]} if idea.get("Task") else {}
    return {**task, **params, "idea": dict(idea)}


def experiment_request(
    run_id: str, hypothesis_id: str, idea: Mapping[str, Json], params: Mapping[str, Json]
) -> RunRequest:
    return RunRequest(
        id=run_id,
        pipeline=EXPERIMENT_PIPELINE,
        params=experiment_params(idea, params),
        hypothesis_id=hypothesis_id,
    )


class WaitingLaunches:
    def __init__(self, database: Mongo, queue: RunQueue) -> None:
        self._hypotheses = tolerant_rows(database, HYPOTHESES)
        self._queue = queue

    def launch_ready(self) -> list[str]:
        """Queue the experiments whose idea is there; returns the ids of their runs.

        Without any, it costs one indexed query. Raises PyMongoError when the server does not answer.
        """
        ready = {"launchWhenReady": True, "ideaJson": {"$type": "object"}}
        found = list(self._hypotheses.find(ready, {"v": 0, "ideation": 0}).limit(BATCH))
        return [run_id for document in found if (run_id := self._launch(document))]

    def _launch(self, document: Document) -> str | None:
        hypothesis_id = document["_id"]
        run_id = text(document, "launchRunId") or f"launch-{hypothesis_id}"
        try:
            if not isinstance(hypothesis_id, str):
                raise InvalidRunError(f"the id of the hypothesis is a {type(hypothesis_id).__name__}, not text")
            idea = read_idea(mapping(document, "ideaJson")).to_json()
            params: dict[str, Json] = plain_json(mapping(document, "launchParams"))
            self._queue.enqueue(experiment_request(run_id, hypothesis_id, idea, params))
        except (RunError, InvalidRunError) as error:
            self._end(document, {"launchError": truncate(str(error), _ERROR_LIMIT)})
            return None
        except PyMongoError as error:
            if not is_permanent_error(error):
                raise
            self._end(document, {"launchError": truncate(describe_error(error), _ERROR_LIMIT)})
            return None
        return run_id if self._end(document, {"launchedRunId": run_id}) else None

    def _end(self, document: Document, values: Document) -> bool:
        """Take the launch off, unless another one was asked for meanwhile."""
        condition = {
            "_id": {"$eq": document["_id"]},
            "launchWhenReady": True,
            "launchRunId": {"$eq": document.get("launchRunId")},
        }
        try:
            change = {"$set": values | {"launchWhenReady": False}}
            is_ended = self._hypotheses.update_one(condition, change).matched_count == 1
        except PyMongoError as refusal:
            if not is_permanent_error(refusal):
                raise
            return False
        if is_ended and "launchError" in values:
            log.warning("hypothesis %r is not launched: %s", str(document["_id"])[:200], values["launchError"])
        return is_ended
