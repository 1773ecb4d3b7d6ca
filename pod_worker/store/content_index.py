"""What the content store has: files in packs, manifests, data sets.

A file's row names its pack and place. A manifest is recorded only while every pack of its files is there. Each use
stamps `lastUsedAt`; a sweep takes a row only by a filter on that stamp, so a submit in the same moment wins or
sees that the content is gone. Nothing here is ever changed into other content.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from pymongo import ASCENDING, DESCENDING, IndexModel, InsertOne
from pymongo.errors import BulkWriteError, DuplicateKeyError

from pod_worker.core.run import TERMINAL
from pod_worker.store.collections import CONTENT, CONTENT_MANIFESTS, CONTENT_PACKS, DATA_SETS, RUNS
from pod_worker.store.mongo import Document, Mongo, literal

BATCH = 5_000

INDEXES: dict[str, list[IndexModel]] = {
    CONTENT: [IndexModel([("pack", ASCENDING)], name="pack")],
    CONTENT_PACKS: [
        IndexModel([("lastUsedAt", ASCENDING)], name="last_used"),
        IndexModel([("isDoomed", ASCENDING)], name="doomed", sparse=True),
    ],
    CONTENT_MANIFESTS: [
        IndexModel([("lastUsedAt", ASCENDING)], name="last_used"),
        IndexModel([("packs", ASCENDING)], name="packs"),
        IndexModel([("isDoomed", ASCENDING)], name="doomed", sparse=True),
    ],
    DATA_SETS: [
        IndexModel([("pack", ASCENDING)], name="pack"),
        IndexModel([("manifest", ASCENDING)], name="manifest"),
        IndexModel([("createdAt", DESCENDING)], name="created"),
        IndexModel([("lastUsedAt", ASCENDING)], name="last_used"),
    ],
    RUNS: [
        IndexModel(
            [("params.workdir.manifest", ASCENDING)],
            name="workdir",
            partialFilterExpression={"params.workdir.manifest": {"$type": "string"}},
        )
    ],
}


@dataclass(frozen=True, slots=True)
class PlacedFile:
    """Where the bytes of one content are."""

    sha256: str
    pack: str
    offset: int
    bytes: int


@dataclass(frozen=True, slots=True)
class DataSet:
    """A file or folder that was uploaded once, for any run."""

    key: str
    name: str
    bytes: int
    created_at: datetime | None
    pack: str | None  # of a file
    manifest: str | None = None  # of a folder
    files: int | None = None  # of a folder


def locate(database: Mongo, hashes: Sequence[str]) -> dict[str, PlacedFile]:
    """The places of those that are stored, by hash."""
    found: dict[str, PlacedFile] = {}
    for start in range(0, len(hashes), BATCH):
        rows = database[CONTENT].find({"_id": {"$in": list(hashes[start : start + BATCH])}})
        for row in rows:
            found[row["_id"]] = PlacedFile(row["_id"], row["pack"], row["offset"], row["bytes"])
    return found


def use_packs(database: Mongo, packs: Sequence[str]) -> set[str]:
    """Stamp the packs as used now; returns those that stay.

    A pack that a sweep has begun to delete is not among them.
    """
    condition: Document = {"_id": {"$in": list(packs)}, "isDoomed": {"$ne": True}}
    database[CONTENT_PACKS].update_many(condition, [{"$set": {"lastUsedAt": "$$NOW"}}])
    return {str(row["_id"]) for row in database[CONTENT_PACKS].find(condition, {"_id": 1})}


def use_manifest(database: Mongo, sha256: str) -> bool:
    """Whether the manifest is recorded; stamps it and its packs as used now."""
    row = database[CONTENT_MANIFESTS].find_one_and_update(
        {"_id": sha256, "isDoomed": {"$ne": True}}, [{"$set": {"lastUsedAt": "$$NOW"}}]
    )
    if row is None:
        return False
    return use_packs(database, row["packs"]) == set(row["packs"])


def record_pack(database: Mongo, pack: str, size: int, files: Sequence[PlacedFile]) -> bool:
    """Record a verified pack and the files that have no place yet.

    False: a sweep deletes the pack at this moment. Repeatable.
    """
    row: Document = {
        "bytes": literal(size),
        "createdAt": {"$ifNull": ["$createdAt", "$$NOW"]},
        "lastUsedAt": "$$NOW",
    }
    try:
        database[CONTENT_PACKS].update_one({"_id": pack, "isDoomed": {"$ne": True}}, [{"$set": row}], upsert=True)
    except DuplicateKeyError:
        return is_pack(database, pack)  # doomed, or recorded at the same time
    rows = [
        InsertOne[Document]({"_id": each.sha256, "pack": pack, "offset": each.offset, "bytes": each.bytes})
        for each in files
    ]
    if rows:
        try:
            database[CONTENT].bulk_write(rows, ordered=False)
        except BulkWriteError as error:
            if any(each["code"] != 11000 for each in (error.details or {}).get("writeErrors", [])):
                raise
    return True


def is_pack(database: Mongo, pack: str) -> bool:
    """Whether the pack is recorded and stays."""
    return pack in use_packs(database, [pack])


def pack_sizes(database: Mongo, packs: Sequence[str]) -> dict[str, int]:
    rows = database[CONTENT_PACKS].find({"_id": {"$in": list(packs)}}, {"bytes": 1})
    return {str(row["_id"]): int(row["bytes"]) for row in rows}


def record_manifest(database: Mongo, sha256: str, files: int, size: int, packs: Sequence[str]) -> bool:
    """Record a manifest whose packs are all there; False when one is gone."""
    wanted = set(packs)
    if use_packs(database, sorted(wanted)) != wanted:
        return False
    row: Document = {
        "files": literal(files),
        "bytes": literal(size),
        "packs": literal(sorted(wanted)),
        "createdAt": {"$ifNull": ["$createdAt", "$$NOW"]},
        "lastUsedAt": "$$NOW",
    }
    usable: Document = {"_id": sha256, "isDoomed": {"$ne": True}}
    try:
        database[CONTENT_MANIFESTS].update_one(usable, [{"$set": row}], upsert=True)
    except DuplicateKeyError:  # doomed, or recorded at the same time
        return use_manifest(database, sha256)
    return True


def manifest_of_run(database: Mongo, run_id: str) -> str | None:
    """The manifest that the run's parameters name.

    Raises LookupError for an unknown run.
    """
    row = database[RUNS].find_one({"_id": run_id}, {"params.workdir.manifest": 1})
    if row is None:
        raise LookupError(run_id)
    workdir = (row.get("params") or {}).get("workdir")
    named = workdir.get("manifest") if isinstance(workdir, dict) else None
    return named if isinstance(named, str) else None


def record_data_set(database: Mongo, key: str, name: str, pack: str, size: int) -> bool:
    """Give a stored pack a key; False when the pack is gone. Repeatable.

    A key of another pack keeps it: read the data set afterwards.
    """
    if not is_pack(database, pack):
        return False
    _record_data_set(database, {"_id": key, "pack": pack}, {"name": name, "pack": pack, "bytes": size})
    return is_pack(database, pack)  # a sweep may have begun before the row was there


def record_data_folder(database: Mongo, key: str, name: str, manifest: str) -> bool:
    """Give a recorded manifest a key; as `record_data_set`."""
    if not use_manifest(database, manifest):
        return False
    found = database[CONTENT_MANIFESTS].find_one({"_id": manifest})
    if found is None:
        return False
    fields: Document = {"name": name, "manifest": manifest, "bytes": found["bytes"], "files": found["files"]}
    _record_data_set(database, {"_id": key, "manifest": manifest}, fields)
    return use_manifest(database, manifest)


def _record_data_set(database: Mongo, condition: Document, fields: Document) -> None:
    row: Document = {name: literal(value) for name, value in fields.items()}
    row |= {"createdAt": {"$ifNull": ["$createdAt", "$$NOW"]}, "lastUsedAt": "$$NOW"}
    with suppress(DuplicateKeyError):  # the key has other content, or was recorded at the same time
        database[DATA_SETS].update_one(condition, [{"$set": row}], upsert=True)


def data_set(database: Mongo, key: str) -> DataSet | None:
    """Stamps it as used now."""
    row = database[DATA_SETS].find_one_and_update({"_id": key}, [{"$set": {"lastUsedAt": "$$NOW"}}])
    return _data_set(row) if row else None


def data_sets(database: Mongo, limit: int = 1000) -> list[DataSet]:
    """The newest first."""
    return [_data_set(row) for row in database[DATA_SETS].find().sort("createdAt", DESCENDING).limit(limit)]


def forget_data_sets(database: Mongo, before: datetime) -> int:
    """Delete data sets that no unfinished run names, unused since then."""
    stale: Document = {"lastUsedAt": {"$lt": before}}
    names = [str(row["_id"]) for row in database[DATA_SETS].find(stale, {"_id": 1})]
    if not names:
        return 0
    named = _named_data_sets(database)
    removed = 0
    for name in names:
        if not any(each == name or (name.endswith("/") and each.startswith(name)) for each in named):
            removed += database[DATA_SETS].delete_one({"_id": name} | stale).deleted_count
    return removed


def _named_data_sets(database: Mongo) -> set[str]:
    """The values of parameters of unfinished runs that can be keys of data sets."""
    open_runs = database[RUNS].find({"status": {"$nin": [each.value for each in TERMINAL]}}, {"params": 1})
    values = [
        value for row in open_runs if isinstance(params := row.get("params"), dict) for value in params.values()
    ]
    return {value for value in values if isinstance(value, str) and value.startswith("data/")}


def doom_manifests(database: Mongo, before: datetime) -> Iterator[str]:
    """The manifests that no run and no data set names, unused since then.

    Also those doomed earlier.
    """
    stale: Document = {"$or": [{"lastUsedAt": {"$lt": before}}, {"isDoomed": True}]}
    for row in database[CONTENT_MANIFESTS].find(stale, {"_id": 1}):
        name = row["_id"]
        # With its type: the server uses a partial index only for conditions that imply its filter.
        named: Document = {"params.workdir.manifest": {"$eq": name, "$type": "string"}}
        if database[RUNS].find_one(named, {"_id": 1}) is not None:
            continue
        if database[DATA_SETS].find_one({"manifest": name}, {"_id": 1}) is not None:
            continue
        if (
            database[CONTENT_MANIFESTS]
            .update_one({"_id": name} | stale, {"$set": {"isDoomed": True}})
            .matched_count
        ):
            yield name


def forget_manifest(database: Mongo, manifest: str) -> None:
    """After its object is deleted."""
    database[CONTENT_MANIFESTS].delete_one({"_id": manifest, "isDoomed": True})


def doom_packs(database: Mongo, before: datetime) -> Iterator[str]:
    """The packs that nothing names and that were not used since then.

    Also those doomed earlier. Their files have no place any more when this yields.
    """
    stale: Document = {"$or": [{"lastUsedAt": {"$lt": before}}, {"isDoomed": True}]}
    for row in database[CONTENT_PACKS].find(stale, {"_id": 1}):
        name = row["_id"]
        if any(
            database[collection].find_one({field: name}, {"_id": 1})
            for collection, field in ((CONTENT_MANIFESTS, "packs"), (DATA_SETS, "pack"))
        ):
            continue
        doomed = database[CONTENT_PACKS].update_one({"_id": name} | stale, {"$set": {"isDoomed": True}})
        if doomed.matched_count:
            database[CONTENT].delete_many({"pack": name})
            yield name


def forget_pack(database: Mongo, pack: str) -> None:
    """After its object is deleted."""
    database[CONTENT_PACKS].delete_one({"_id": pack, "isDoomed": True})


def _data_set(row: Document) -> DataSet:
    return DataSet(
        row["_id"],
        row["name"],
        row["bytes"],
        row.get("createdAt"),
        row.get("pack"),
        row.get("manifest"),
        row.get("files"),
    )
