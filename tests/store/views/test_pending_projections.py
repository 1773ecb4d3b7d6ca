"""Markers of any content are replayed or deleted, and never stop the process that reads them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from bson.datetime_ms import DatetimeMS
from bson.objectid import ObjectId

from pod_worker.store.views.pending_projections import PendingProjections

OLD = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("since", ["abc", None, float("nan"), float("inf"), -5, [], DatetimeMS(2**62)], ids=repr)
def test_a_marker_without_a_usable_position_replays_the_whole_run(db: Any, since: Any) -> None:
    db["pending_projections"].insert_one(
        {"_id": "x:r1", "owner": "x", "runId": "r1", "since": since, "seenAt": OLD}
    )
    markers = PendingProjections(db, "me")
    [marker] = markers.abandoned(20)
    assert (marker.run_id, marker.since) == ("r1", 0)
    markers.discard(marker)
    assert markers.abandoned(20) == []


@pytest.mark.parametrize(
    "fields", [{"runId": 7}, {"runId": None}, {"_id": ObjectId("6" * 24), "runId": []}], ids=str
)
def test_a_marker_without_a_run_is_deleted(db: Any, fields: dict[str, Any]) -> None:
    db["pending_projections"].insert_one({"_id": "x", "since": 1, "seenAt": OLD} | fields)
    assert PendingProjections(db, "me").abandoned(20) == []
    assert db["pending_projections"].count_documents({}) == 0


def test_markers_of_different_owners_and_runs_stay_apart(db: Any) -> None:
    PendingProjections(db, "a").mark({"b:c": 1})
    PendingProjections(db, "a:b").mark({"c": 2})
    assert db["pending_projections"].count_documents({}) == 2
