"""Are the views what a replay of the event log would make of them?

The run's documents are copied into a second database, cleared of everything projected, rebuilt from the same log,
and compared field by field.
"""

from __future__ import annotations

from collections.abc import Iterator

from chaos.report import Row, none_wanted
from pod_worker.control.rebuild import rebuild_all
from pod_worker.store.mongo import Document, Mongo

VIEWS = ("runs", "stages", "validations", "artifacts", "metrics")
_COPIED = (*VIEWS, "events")
_ABSENT = "(absent)"
SYSTEM_STAGE = "system"  # gauges of heartbeats, which no log keeps


def rows(database: Mongo) -> Iterator[Row]:
    replica = database.client[f"{database.name}_replayed"]
    _copy(database, replica)
    replica["metrics"].delete_many({"stage": {"$ne": SYSTEM_STAGE}})
    rebuild_all(replica)
    differences = [text for name in VIEWS for text in compare(database, replica, name)]
    count = sum(database[name].count_documents({}) for name in VIEWS)
    yield none_wanted(
        "view ≠ replayed view",
        differences,
        "documents of runs, stages, artifacts, validations and metrics that a replay of the log makes differently",
        of=count,
    )


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
