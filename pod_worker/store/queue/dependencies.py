"""Runs that wait for other runs.

`after` names them, `blockedBy` those of them that have not ended well yet.

A run with a `blockedBy` is not claimable. It is released when each of its dependencies ended well. It ends when
one of them ended badly or was deleted. The worker that settles a dependency does this at once, and the sweep does
it after a crash between the two. Each step is one conditional write, so both may do it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

from pymongo.read_concern import ReadConcern

from pod_worker.core.failure import FailureCode
from pod_worker.core.run import ENDED_WELL, TERMINAL, AfterFailure, RunStatus
from pod_worker.store.collections import RUNS
from pod_worker.store.document_fields import finite, text, texts
from pod_worker.store.mongo import Document, Mongo, literal, tolerant_rows
from pod_worker.store.queue.document_room import write_or_leave
from pod_worker.store.queue.run_document import WAITING_FIELDS, history_append, start_by

BATCH = 1000
DELETED = "deleted"  # shown as the state of a dependency that is gone
_WELL = frozenset(status.value for status in ENDED_WELL)
_BADLY = frozenset(status.value for status in TERMINAL - ENDED_WELL) | {DELETED}


class Dependencies:
    def __init__(self, database: Mongo, *, collection: str = RUNS) -> None:
        # The state of a dependency is settled with a majority before anyone asks here.
        self._runs = tolerant_rows(database, collection).with_options(read_concern=ReadConcern("majority"))

    def missing(self, run_ids: Sequence[str]) -> list[str]:
        """Which of these runs do not exist."""
        found = {run["_id"] for run in self._runs.find({"_id": {"$in": list(run_ids)}}, {"_id": 1})}
        return [run_id for run_id in run_ids if run_id not in found]

    def release(self, run_id: str) -> int:
        """Look at the runs that wait for this one; how many changed."""
        return self._advance_all({"blockedBy": run_id})

    def sweep(self) -> int:
        """Look at all waiting runs; how many changed.

        Without any, it costs one indexed query.
        """
        return self._advance_all({"blockedBy": {"$exists": True}})

    def _advance_all(self, condition: Document) -> int:
        """These runs, then those that waited for them: chains of any length."""
        count = 0
        while changed := self._look_at(condition):
            count += len(changed)
            condition = {"blockedBy": {"$in": changed}}
        return count

    def _look_at(self, condition: Document) -> list[str]:
        """The ids of the runs that changed."""
        changed: list[str] = []
        found = self._runs.find(condition | {"status": RunStatus.QUEUED.value}, _FIELDS)
        while waiting := list(itertools.islice(found, BATCH)):
            states = self._states({name for run in waiting for name in texts(run, "blockedBy")})
            changed += [str(run["_id"]) for run in waiting if self._advance(run, states)]
        return changed

    def _states(self, run_ids: Iterable[str]) -> dict[str, str]:
        wanted = list(run_ids)
        found = self._runs.find({"_id": {"$in": wanted}}, {"status": 1}) if wanted else ()
        return dict.fromkeys(wanted, DELETED) | {str(run["_id"]): str(run.get("status")) for run in found}

    def _advance(self, run: Document, states: Mapping[str, str]) -> bool:
        waits_for = texts(run, "blockedBy")
        left = [name for name in waits_for if states[name] not in _WELL]
        bad = next((name for name in left if states[name] in _BADLY), None)
        if bad is not None:
            update = _ending(bad, states[bad], is_skipped=text(run, "afterFailure") == AfterFailure.SKIP.value)
        elif not left:
            deadline = start_by(finite(run.get("maxQueueSeconds")))
            update = [
                {"$set": {"history": history_append("released"), "startBy": deadline}},
                {"$unset": ["blockedBy"]},
            ]
        else:
            return False
        # Unchanged: a reset may have given it other dependencies.
        seen = {"_id": run["_id"], "status": RunStatus.QUEUED.value, "blockedBy": {"$eq": run.get("blockedBy")}}
        return write_or_leave(lambda each: self._runs.update_one(seen, each), update, str(run["_id"]))


_FIELDS = {"blockedBy": 1, "afterFailure": 1, "maxQueueSeconds": 1}


def _ending(dependency: str, state: str, *, is_skipped: bool) -> list[Document]:
    message = f"The run waited for {dependency[:200]}, which ended as {state}."
    if is_skipped:
        values: Document = {
            "status": RunStatus.CANCELED.value,
            "canceledAt": "$$NOW",
            "cancelReason": literal(message),
            "history": history_append("skipped", detail=message),
        }
    else:
        values = {
            "status": RunStatus.FAILED.value,
            "failedAt": "$$NOW",
            "errorCode": FailureCode.USER_ERROR.value,
            "errorMessage": literal(f"{message} Reset that run first, then this one."),
            "retryable": False,
            "history": history_append("failed", detail=message),
        }
    return [{"$set": values}, {"$unset": WAITING_FIELDS}]


def find_cycle(after: Mapping[str, Sequence[str]]) -> list[str]:
    """The ids of runs that wait for each other in a circle.

    The first id is repeated at the end. Empty without a circle.
    """
    done: set[str] = set()
    for start in after:
        # Depth first with an own stack: a chain may be longer than Python's. The path, in order.
        path = {start: iter(after[start])}
        while path:
            node, rest = next(reversed(path.items()))
            follower = next((name for name in rest if name in after and name not in done), None)
            if follower is None:
                done.add(node)
                path.popitem()
            elif follower in path:
                names = list(path)
                return [*names[names.index(follower) :], follower]
            else:
                path[follower] = iter(after[follower])
    return []
