"""Permanent against transient, with the errors that a real server and the real driver raise."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pymongo import InsertOne, UpdateOne
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    ExecutionTimeout,
    NetworkTimeout,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WTimeoutError,
)

from pod_worker.store.errors import describe_error, is_duplicate_only, is_partial_write, is_permanent_error
from pod_worker.store.mongo import Mongo, connect

BIG = "x" * (15 * 1024 * 1024)


def caught(action: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as found:
        action()
    return found.value


def grow(db: Mongo) -> None:
    db["rows"].insert_one({"_id": 1, "text": BIG})
    db["rows"].update_one({"_id": 1}, [{"$set": {"more": {"$concat": ["$text", "$text"]}}}])


PERMANENT: dict[str, Callable[[Mongo], object]] = {
    "a field name that is empty": lambda db: db["rows"].update_one({"_id": 1}, {"$set": {"a.": 1}}),
    "arithmetic with text": lambda db: db["rows"].update_one(
        {"_id": 1}, [{"$set": {"a": {"$add": ["text", 1]}}}], upsert=True
    ),
    "a number beyond 64 bits": lambda db: db["rows"].insert_one({"a": 2**70}),
    "a document beyond 16 MiB": lambda db: db["rows"].insert_one({"a": BIG, "b": BIG}),
    "growth beyond 16 MiB": grow,
    "a lone surrogate": lambda db: db["rows"].insert_one({"a": "\ud800"}),
    "a key with NUL": lambda db: db["rows"].insert_one({"a\0b": 1}),
    "a foreign object": lambda db: db["rows"].insert_one({"a": object()}),
    "an unknown command": lambda db: db.command("noSuchCommand"),
}


@pytest.mark.parametrize("name", PERMANENT)
def test_what_a_repetition_cannot_help_is_permanent(db: Mongo, name: str) -> None:
    error = caught(lambda: PERMANENT[name](db))
    assert is_permanent_error(error), repr(error)
    assert "does not answer" not in describe_error(error)
    assert "\n" not in describe_error(error)


def test_depth_that_bson_cannot_hold_is_permanent(db: Mongo) -> None:
    deep: object = 1
    for _ in range(100_000):
        deep = [deep]
    assert is_permanent_error(caught(lambda: db["rows"].insert_one({"a": deep})))


@pytest.mark.parametrize(
    "error",
    [
        AutoReconnect("x"),
        NetworkTimeout("x"),
        NotPrimaryError("x"),
        ServerSelectionTimeoutError("x"),
        ExecutionTimeout("x", 50),
        WTimeoutError("x", 64),
        OperationFailure("x", 11600),
        OperationFailure("x", 18),
        OperationFailure("x", 112),
        OperationFailure("x"),
        OperationFailure("x", 20, {"errorLabels": ["RetryableWriteError"]}),
        OSError("x"),
        KeyError("x"),
    ],
    ids=repr,
)
def test_what_a_repetition_may_help_is_transient(error: Exception) -> None:
    assert not is_permanent_error(error)


def test_an_absent_server_is_transient() -> None:
    absent = connect("mongodb://127.0.0.1:9/x", timeout_seconds=0.05)
    error = caught(lambda: absent["rows"].insert_one({}))
    assert not is_permanent_error(error)
    assert "does not answer" in describe_error(error)
    absent.client.close()


def test_a_bulk_is_permanent_when_all_that_is_left_is(db: Mongo) -> None:
    db["rows"].insert_one({"_id": 1, "a": "text"})
    good_and_bad = [InsertOne({"_id": 2}), UpdateOne({"_id": 1}, [{"$set": {"a": {"$add": ["$a", 1]}}}])]
    error = caught(lambda: db["rows"].bulk_write(good_and_bad, ordered=False))
    assert isinstance(error, BulkWriteError)
    assert is_partial_write(error)
    assert is_permanent_error(error)
    assert "refused 1 of the writes" in describe_error(error)
    assert db["rows"].count_documents({"_id": 2}) == 1


def test_a_bulk_of_duplicates_is_told_from_others(db: Mongo) -> None:
    db["rows"].insert_one({"_id": 1})
    error = caught(lambda: db["rows"].insert_many([{"_id": 1}, {"_id": 2}], ordered=False))
    assert isinstance(error, BulkWriteError)
    assert is_duplicate_only(error)


@pytest.mark.parametrize(
    ("details", "permanent"),
    [
        ({"writeErrors": [{"code": 2}], "writeConcernErrors": []}, True),
        ({"writeErrors": [{"code": 2}, {"code": 11600}], "writeConcernErrors": []}, False),
        ({"writeErrors": [{"code": 2}], "writeConcernErrors": [{"code": 64}]}, False),
        ({"writeErrors": [], "writeConcernErrors": [{"code": 64}]}, False),
    ],
)
def test_a_bulk_with_something_transient_in_it_is_transient(
    details: dict[str, list[object]], permanent: bool
) -> None:
    assert is_permanent_error(BulkWriteError(details)) is permanent
    assert isinstance(BulkWriteError(details), PyMongoError)
