"""Are the views what the event log would make of them again, in any order?

The runs' documents are copied into a second database, cleared of everything projected, rebuilt from the same log,
and compared field by field: once by the product's own rebuild, in the order of arrival, and once in a shuffled
order with some events twice, because an order that arrived once proves nothing about the others.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import islice

from chaos.report import Row, zero_target_row
from pod_worker.control.events.projections import project
from pod_worker.control.events.replay import events_for_replay, rebuild
from pod_worker.store.collections import ARTIFACTS, EVENTS, RUNS, STAGES, VALIDATIONS
from pod_worker.store.events.event_log import EventLog
from pod_worker.store.mongo import Document, Mongo
from pod_worker.store.views.metric_series import MetricSeries, Series
from pod_worker.store.views.writer import Views

VIEWS = (RUNS, STAGES, VALIDATIONS, ARTIFACTS)
SYSTEM_STAGE = "system"  # gauges of heartbeats, which no log keeps
_COPIED = (*VIEWS, EVENTS)
_ABSENT = "(absent)"
_BATCH = 50
_REPEATED = 0.1  # share of events that come twice


def rows(database: Mongo, seed: int) -> Iterator[Row]:
    yield _row(
        "view ≠ replayed view",
        database,
        rebuild_all,
        "runs, stages, artifacts, validations and metric series that a replay of the log makes differently",
    )
    yield _row(
        "view ≠ shuffled view",
        database,
        lambda replica: rebuild_shuffled(replica, random.Random(f"replay:{seed}")),
        "the same with the log in a shuffled order and a tenth of it twice",
    )


def _row(name: str, database: Mongo, rebuild_replica: Callable[[Mongo], object], meaning: str) -> Row:
    replica = database.client[f"{database.name}_replayed"]
    _copy(database, replica)
    rebuild_replica(replica)
    differences = [text for view in VIEWS for text in compare(database, replica, view)]
    mine, theirs = _series(database), _series(replica)
    differences += [f"series {key}" for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key)]
    database.client.drop_database(replica.name)
    count = sum(database[view].count_documents({}) for view in VIEWS) + len(mine)
    return zero_target_row(name, differences, meaning, of=count)


def _series(database: Mongo) -> dict[tuple[str, str, str], Series]:
    """Every series of every run as a reader sees it; the split into documents does not matter."""
    reader = MetricSeries(database)
    runs = [str(each["_id"]) for each in database[RUNS].find({}, {"_id": 1})]
    found = ((run, series) for run in runs for series in reader.read(run))
    return {(run, each.stage, each.name): each for run, each in found if each.stage != SYSTEM_STAGE}


def rebuild_all(database: Mongo) -> dict[str, int]:
    """Every run that has events: run id -> how many events counted."""
    return {run_id: rebuild(database, run_id) for run_id in EventLog(database).run_ids()}


def rebuild_shuffled(database: Mongo, rng: random.Random) -> None:
    views, log = Views(database), EventLog(database)
    for run_id in sorted(log.run_ids()):
        views.clear_projected(run_id)
        entries = [entry for entry in log.replay(run_id) for _ in range(1 + (rng.random() < _REPEATED))]
        rng.shuffle(entries)
        rest = iter(entries)
        while batch := list(islice(rest, _BATCH)):
            views.apply(project(events_for_replay(batch, views.current_attempts([run_id]))))


def _copy(source: Mongo, target: Mongo) -> None:
    target.client.drop_database(target.name)
    for name in _COPIED:
        source[name].aggregate([{"$out": {"db": target.name, "coll": name}}])


def compare(one: Mongo, other: Mongo, name: str) -> Iterator[str]:
    theirs = {each["_id"]: each for each in other[name].find()}
    for mine in one[name].find():
        found = theirs.pop(mine["_id"], None)
        if found is None:
            yield f"{name} {mine['_id']}: not in the replay"
        elif mine != found:
            yield f"{name} {mine['_id']}: {', '.join(sorted(_different(mine, found)))}"
    yield from (f"{name} {key}: only in the replay" for key in theirs)


def _different(mine: Document, found: Document, path: str = "") -> Iterator[str]:
    for field in mine.keys() | found.keys():
        one, other = mine.get(field, _ABSENT), found.get(field, _ABSENT)
        if isinstance(one, dict) and isinstance(other, dict):
            yield from _different(one, other, f"{path}{field}.")
        elif one != other:
            yield f"{path}{field} {str(one)[:60]} ≠ {str(other)[:60]}"
