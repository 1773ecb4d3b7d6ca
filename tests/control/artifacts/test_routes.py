"""The artifact routes: what they refuse, what they never overwrite, what may be repeated."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import pytest
import requests
from fastapi import FastAPI, HTTPException, Request
from fastapi.testclient import TestClient
from pymongo import MongoClient

from pod_worker.artifacts.object_store import ObjectStore
from pod_worker.control.artifacts.routes import router
from pod_worker.control.web import problem
from pod_worker.store import artifact_keys

RUN = "/api/runs/run1/artifacts"
LEASED: dict[str, Any] = {"attempt": 2, "lease_token": "token2"}
BODY = b"the artifact's bytes"
SHA = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def store(s3: Any) -> ObjectStore:
    return ObjectStore(s3.endpoint, s3.access_key, s3.secret_key, s3.bucket)


def _client(database: Any, store: ObjectStore, **settings: Any) -> TestClient:
    def authorize(request: Request) -> None:
        if request.headers.get("Authorization") != "Bearer good":
            raise HTTPException(401, "give the token")

    app = FastAPI()
    problem.install(app)
    app.include_router(router(database, store, authorize, authorize, **settings))
    return TestClient(app, headers={"Authorization": "Bearer good"}, follow_redirects=False)


@pytest.fixture
def client(db: Any, store: ObjectStore) -> Iterator[TestClient]:
    db["runs"].insert_one({"_id": "run1", "status": "RUNNING", "attempt": 2, "leaseToken": "token2"})
    db["runs"].insert_one({"_id": "free", "status": "RUNNING"})
    with _client(db, store, part_bytes=1000) as made:
        yield made


def _presign(client: TestClient, route: str = RUN, **fields: Any) -> Any:
    return client.post(f"{route}/presign", json={"action": "put", "filename": "a.txt"} | fields)


def _announcement(key: str, **fields: Any) -> dict[str, Any]:
    known = {"key": key, "bytes": len(BODY), "sha256": SHA, "kind": "data"}
    return known | {"content_type": "text/plain"} | LEASED | fields


def _uploaded(client: TestClient, body: bytes = BODY, **fields: Any) -> str:
    grant = _presign(client, **(LEASED | fields)).json()
    assert requests.put(grant["url"], data=body, timeout=10).status_code == 200
    key: str = grant["key"]
    return key


def _refusal(answer: Any) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == answer.status_code
    assert problem["detail"]
    return answer.status_code, problem["code"]


def _finalize(client: TestClient, key: str, route: str = RUN, **fields: Any) -> Any:
    return client.post(f"{route}/finalize", json=_announcement(key, **fields))


def _published(client: TestClient, body: bytes = BODY, filename: str = "a.txt", **fields: Any) -> str:
    """The key of a registered artifact."""
    sha = hashlib.sha256(body).hexdigest()
    answer = _finalize(client, _uploaded(client, body, filename=filename), bytes=len(body), sha256=sha, **fields)
    assert answer.status_code == 200, answer.text
    key: str = answer.json()["artifact"]["key"]
    return key


def test_an_upload_is_registered_once_however_often_it_is_finalized(client: TestClient, db: Any) -> None:
    upload = _uploaded(client)
    first = _finalize(client, upload)
    assert first.status_code == 200, first.text
    made = first.json()["artifact"]
    assert made["id"] == f"run1:data:{SHA}"
    assert made["key"] == "runs/run1/2/a.txt"
    assert made["verified_at"].endswith("Z")
    assert _finalize(client, upload).json() == first.json()
    assert db["artifacts"].count_documents({}) == 1
    assert client.get(RUN).json() == [made]
    again = _presign(client, **LEASED, kind="data", sha256=SHA, bytes=len(BODY)).json()
    assert again == {"key": made["key"], "registered": True, "artifact": made, "parts": [], "stored": []}


def test_finalizing_at_the_same_time_reads_the_object_once(
    client: TestClient, db: Any, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = _uploaded(client)
    real, readings, both = store.sha256, [], threading.Barrier(2)

    def slow(key: str) -> Any:
        readings.append(key)
        both.wait(10)
        return real(key)

    monkeypatch.setattr(store, "sha256", slow)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(_finalize, client, upload) for _ in range(3)]
        both.wait(10)
        answers = [each.result(10) for each in asked]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert len(readings) == 1
    assert db["artifacts"].count_documents({}) == 1


def test_a_long_reading_is_asked_for_again(client: TestClient, db: Any, store: ObjectStore) -> None:
    upload = _uploaded(client)
    with _client(db, store, wait_seconds=0.0) as hasty:
        answer = _finalize(hasty, upload)
        assert (answer.status_code, answer.headers["Retry-After"]) == (202, "1")
        while answer.status_code == 202:
            answer = _finalize(hasty, upload)
        assert answer.status_code == 200


@pytest.mark.parametrize(
    "fields",
    [{"sha256": "0" * 64}, {"bytes": 3}, {"bytes": len(BODY), "sha256": hashlib.sha256(b"x").hexdigest()}],
)
def test_a_mismatch_is_removed_and_not_registered(
    fields: dict[str, Any], client: TestClient, db: Any, store: ObjectStore
) -> None:
    key = _uploaded(client)
    assert _refusal(_finalize(client, key, **fields)) == (422, "mismatch")
    assert store.list("") == []
    assert db["artifacts"].count_documents({}) == 0


def test_an_object_of_the_wrong_size_is_not_even_read(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = _uploaded(client)
    monkeypatch.setattr(ObjectStore, "sha256", None)
    assert _refusal(_finalize(client, upload, bytes=3)) == (422, "mismatch")


def test_a_mismatch_never_touches_a_published_object(client: TestClient, store: ObjectStore) -> None:
    key = _published(client)
    for wrong in ({"sha256": "0" * 64}, {"sha256": "0" * 64, "bytes": 1}):
        assert _refusal(_finalize(client, _uploaded(client), **wrong)) == (422, "mismatch")
        assert _refusal(_finalize(client, key, **wrong)) == (422, "bad_key")
    assert store.sha256(key).sha256 == SHA


def test_no_presigned_url_ever_points_at_a_published_key(client: TestClient, store: ObjectStore) -> None:
    grant = _presign(client, **LEASED).json()
    requests.put(grant["url"], data=BODY, timeout=10)
    key = _finalize(client, grant["key"]).json()["artifact"]["key"]
    again = [
        grant,
        _presign(client, **LEASED).json(),
        _presign(client, **LEASED, sha256=SHA).json(),  # without a kind it is not known to be registered
        _presign(client, **LEASED, sha256=SHA, kind="log").json(),
        _presign(client, **LEASED, key=grant["key"]).json(),
    ]
    for each in again:
        assert each["key"].startswith("uploads/")
        assert requests.put(each["url"], data=b"other bytes", timeout=10).status_code == 200
        assert store.sha256(key).sha256 == SHA
    assert len({each["key"] for each in again[1:4]}) == 3, "each upload has a key of its own"


def test_concurrent_finalizes_never_delete_or_mix_what_is_registered(
    client: TestClient, db: Any, store: ObjectStore
) -> None:
    """Of one upload, and of two uploads of one name; one of them with a wrong hash or with other bytes."""
    other = b"other bytes entirely"
    other_sha = hashlib.sha256(other).hexdigest()
    with ThreadPoolExecutor(4) as pool:
        for number in range(12):
            name = f"{number}.txt"
            upload, second = _uploaded(client, filename=name), _uploaded(client, other, filename=name)
            asked = [
                pool.submit(_finalize, client, upload, kind=f"k{number}"),
                pool.submit(_finalize, client, upload, kind=f"k{number}", sha256="0" * 64),
                pool.submit(_finalize, client, second, kind=f"k{number}", bytes=len(other), sha256=other_sha),
                pool.submit(_finalize, client, second, kind=f"k{number}"),
            ]
            assert {each.result(20).status_code for each in asked} <= {200, 422, 404}
    for number in range(12):
        _published(client, filename=f"{number}.txt", kind=f"k{number}")
    rows = list(db["artifacts"].find())
    assert len(rows) >= 12
    assert len({row["key"] for row in rows}) == len(rows)
    for row in rows:
        assert store.sha256(row["key"]).sha256 == row["sha256"]


def test_an_upload_that_changes_after_it_was_read_is_not_published_as_verified(
    client: TestClient, db: Any, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    grant = _presign(client, **LEASED).json()
    requests.put(grant["url"], data=BODY, timeout=10)
    real = store.sha256

    def change(key: str) -> Any:
        found = real(key)
        requests.put(grant["url"], data=BODY[::-1], timeout=10)
        return found

    monkeypatch.setattr(store, "sha256", change)
    assert _refusal(_finalize(client, grant["key"])) == (422, "mismatch")
    assert db["artifacts"].count_documents({}) == 0


def test_names_that_need_quoting_are_published_and_downloaded(client: TestClient, store: ObjectStore) -> None:
    for name in ("a # b?.txt", "100%.txt", "résumé/日本 +&=.bin"):
        key = _published(client, name.encode(), name)
        assert key == f"runs/run1/2/{name}"
        answer = client.get(f"/api/artifacts/{quote(key)}")
        assert requests.get(answer.headers["Location"], timeout=10).content == name.encode()


@pytest.mark.parametrize(
    ("first", "second"), [("model", "model/config.json"), ("model/config.json", "model"), ("a", "a/b/c")]
)
def test_a_file_where_a_folder_is_is_refused_at_once(client: TestClient, first: str, second: str) -> None:
    _published(client, filename=first)
    assert _refusal(_presign(client, **LEASED, filename=second)) == (409, "name_conflict")
    begun = f"uploads/01ARZ3NDEKTSV4RRFFQ69G5FAV/runs/run1/2/{second}"
    assert _refusal(_finalize(client, begun, sha256="0" * 64)) == (409, "name_conflict")
    for neighbour in (f"{first}.txt", f"{first}0", f"{first}-1/x", "b"):
        assert "url" in _presign(client, **LEASED, filename=neighbour).json()


@pytest.mark.parametrize(
    "wrong", [{"lease_token": "other"}, {"attempt": 1}, {"attempt": 3}, {"lease_token": None}]
)
def test_who_does_not_hold_the_run_is_fenced_everywhere(
    wrong: dict[str, Any], client: TestClient, db: Any, store: ObjectStore
) -> None:
    key = _uploaded(client)
    holder = LEASED | wrong
    assert _refusal(_presign(client, **holder)) == (409, "fenced")
    assert _refusal(_finalize(client, key, **holder)) == (409, "fenced")
    upload = {"key": key, "upload_id": "u"} | holder
    assert _refusal(client.post(f"{RUN}/abort", json=upload)) == (409, "fenced")
    assert db["artifacts"].count_documents({}) == 0
    assert store.stat(key) is not None


def test_a_run_lost_while_its_object_is_read_registers_nothing(
    client: TestClient, db: Any, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = _uploaded(client)
    real = store.sha256

    def lose(key: str) -> Any:
        db["runs"].update_one({"_id": "run1"}, {"$set": {"attempt": 3, "leaseToken": "token3"}})
        return real(key)

    monkeypatch.setattr(store, "sha256", lose)
    assert _refusal(_finalize(client, upload)) == (409, "fenced")
    assert db["artifacts"].count_documents({}) == 0


def test_a_run_without_a_lease_needs_only_the_bearer_token(client: TestClient, db: Any) -> None:
    route = "/api/runs/free/artifacts"
    grant = _presign(client, route).json()
    requests.put(grant["url"], data=BODY, timeout=10)
    made = _finalize(client, grant["key"], route, attempt=None, lease_token=None)
    assert made.status_code == 200, made.text
    row = db["artifacts"].find_one()
    assert (row["runId"], row["attempt"], row["key"]) == ("free", 0, "runs/free/0/a.txt")
    assert _refusal(_presign(client, route, attempt=1)) == (409, "fenced")
    assert _refusal(_presign(client, route, lease_token="x")) == (422, "bad_request")


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "a//b", "", "a\\b", "a\0b", "x" * 513, None])
def test_a_name_that_leaves_its_folder_is_refused(name: str | None, client: TestClient) -> None:
    assert _refusal(_presign(client, **LEASED, filename=name)) == (422, "bad_key")


ULID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"


@pytest.mark.parametrize(
    "key",
    [
        f"uploads/{ULID}/runs/other/2/x",
        f"uploads/{ULID}/runs/run1/3/x",
        f"uploads/{ULID}/runs/run1/2/../x",
        f"uploads/{ULID}/runs/run1/٢/x",
        f"uploads/../{ULID}/runs/run1/2/x",
        f"uploads/{ULID.lower()}/runs/run1/2/x",
        f"/uploads/{ULID}/runs/run1/2/x",
        f"uploads/{ULID}",
        "runs/run1/2/x",
        "x",
        "../x",
    ],
)
def test_only_upload_keys_of_the_run_and_its_attempts_so_far_are_accepted(key: str, client: TestClient) -> None:
    assert _refusal(_presign(client, **LEASED, key=key)) == (422, "bad_key")
    assert _refusal(_finalize(client, key)) == (422, "bad_key")
    upload = {"key": key, "upload_id": "u"} | LEASED
    assert _refusal(client.post(f"{RUN}/abort", json=upload)) == (422, "bad_key")


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "a:b"},
        {"kind": ""},
        {"sha256": "abc"},
        {"bytes": -1},
        {"bytes": 10**15},
        {"bytes": 1.5},
        {"content_type": "text/plain\r\nX-Evil: 1"},
        {"content_type": "nonsense"},
        {"action": "delete"},
        {"attempt": "two"},
    ],
)
def test_bad_values_are_refused_with_the_reason(fields: dict[str, Any], client: TestClient) -> None:
    assert _refusal(_presign(client, **(LEASED | fields))) == (422, "bad_request")


def test_a_role_is_one_word(client: TestClient) -> None:
    assert _refusal(_finalize(client, "x", role="final draft")) == (422, "bad_request")


def test_bodies_are_bounded_and_must_be_json(client: TestClient) -> None:
    assert _refusal(client.post(f"{RUN}/presign", content=b"x" * (9 * 1024 * 1024))) == (413, "too_large")
    assert _refusal(client.post(f"{RUN}/presign", content=b"{")) == (422, "bad_request")


def test_unknown_runs_and_missing_objects_are_named(client: TestClient) -> None:
    assert _refusal(_presign(client, "/api/runs/none/artifacts", **LEASED)) == (404, "run_not_found")
    key = _presign(client, **LEASED).json()["key"]
    assert _refusal(_finalize(client, key)) == (404, "object_missing")
    assert _refusal(_finalize(client, key, upload_id="no-such-upload", parts=[])) == (404, "upload_gone")
    assert client.get("/api/runs/none/artifacts").json() == []


def test_every_route_requires_the_key(client: TestClient) -> None:
    stranger = {"Authorization": "Bearer bad"}
    for route in ("presign", "finalize", "abort"):
        assert client.post(f"{RUN}/{route}", json={}, headers=stranger).status_code == 401
    assert client.get(RUN, headers=stranger).status_code == 401
    assert client.get("/api/artifacts/runs/run1/2/a.txt", headers=stranger).status_code == 401


def test_other_bytes_under_a_taken_name_get_a_key_of_their_own(client: TestClient, store: ObjectStore) -> None:
    first = _published(client)
    other = hashlib.sha256(b"other").hexdigest()
    assert _published(client, b"other") == f"runs/run1/2/a.{other[:12]}.txt"
    assert _published(client, kind="log") == first, "the same bytes share an object"
    assert store.sha256(first).sha256 == SHA
    assert [item.key for item in store.list("uploads/")] == [], "nothing is left of the uploads"


def test_a_key_that_another_finalize_has_reserved_is_not_used(client: TestClient, db: Any) -> None:
    """It has copied its bytes there, or is about to."""
    artifact_keys.reserve(db, "runs/run1/2/a.txt", "run1", "bb" * 32)
    assert _published(client) == f"runs/run1/2/a.{SHA[:12]}.txt"


def test_a_row_that_only_an_event_claims_counts_for_nothing(client: TestClient, db: Any) -> None:
    db["artifacts"].insert_one({"_id": f"run1:data:{SHA}", "runId": "run1", "key": "runs/run1/2/a.txt"})
    grant = _presign(client, **LEASED, kind="data", sha256=SHA, bytes=len(BODY)).json()
    assert not grant["registered"]
    requests.put(grant["url"], data=BODY, timeout=10)
    assert _finalize(client, grant["key"]).status_code == 200
    assert db["artifacts"].find_one()["verifiedAt"] is not None


def test_parts_come_in_pages_and_an_upload_can_be_gone_on_with(client: TestClient, db: Any) -> None:
    body = bytes(range(256)) * 10  # 2560 bytes: parts of 1000, 1000, 560
    sha = hashlib.sha256(body).hexdigest()
    asked = LEASED | {"bytes": len(body), "sha256": sha, "kind": "data"}
    grant = _presign(client, **asked, part_count=2).json()
    assert (grant["part_bytes"], grant["parts_total"]) == (1000, 3)
    assert [part["number"] for part in grant["parts"]] == [1, 2]
    etag = requests.put(grant["parts"][0]["url"], data=body[:1000], timeout=10).headers["ETag"].strip('"')
    asked |= {"upload_id": grant["upload_id"], "key": grant["key"]}
    renewed = _presign(client, **asked).json()
    assert renewed["upload_id"] == grant["upload_id"]
    assert renewed["stored"] == [{"number": 1, "etag": etag, "bytes": 1000}]
    rest = _presign(client, **asked, first_part=2).json()
    assert [part["number"] for part in rest["parts"]] == [2, 3]
    assert rest["stored"] == []
    parts = [{"number": 1, "etag": etag}]
    for part, chunk in zip(rest["parts"], (body[1000:2000], body[2000:]), strict=True):
        answer = requests.put(part["url"], data=chunk, timeout=10)
        parts.append({"number": part["number"], "etag": answer.headers["ETag"]})
    announced = {"bytes": len(body), "sha256": sha, "upload_id": grant["upload_id"], "parts": parts}
    assert db["artifact_keys"].find_one({"_id": grant["key"]})["uploadId"] == grant["upload_id"]
    assert _finalize(client, grant["key"], **announced).status_code == 200
    assert db["artifact_keys"].find_one({"_id": grant["key"]}) is None
    assert _finalize(client, grant["key"], **announced).status_code == 200
    asked |= {"filename": "b", "kind": "log"}
    assert _refusal(_presign(client, **asked, first_part=2)) == (404, "upload_gone")
    assert _presign(client, **asked).json()["upload_id"] != grant["upload_id"]


def test_wrong_parts_are_refused_and_an_upload_can_be_aborted(client: TestClient, store: ObjectStore) -> None:
    grant = _presign(client, **LEASED, bytes=5000).json()
    parts = [{"number": 1, "etag": "0" * 32}]
    answer = _finalize(client, grant["key"], upload_id=grant["upload_id"], parts=parts)
    assert _refusal(answer) == (422, "bad_parts")
    other = _presign(client, **LEASED, bytes=5000).json()
    asked = LEASED | {"key": other["key"], "upload_id": other["upload_id"]}
    for _ in range(2):
        assert client.post(f"{RUN}/abort", json=asked).status_code == 204


def test_a_download_is_a_redirect_to_an_attachment(client: TestClient) -> None:
    key = _published(client, filename="plots/loss curve.txt")
    answer = client.get(f"/api/artifacts/{key}")
    assert answer.status_code == 307
    assert answer.headers["Cache-Control"] == "no-store"
    got = requests.get(answer.headers["Location"], timeout=10)
    assert got.content == BODY
    assert got.headers["Content-Disposition"].startswith('attachment; filename="loss curve.txt"')


@pytest.mark.parametrize(
    "path", ["runs/run1/2/nothing", "etc/passwd", "runs/run1/2/%2e%2e/%2e%2e/run2/1/x", "runs/run1/2/a%00b", ""]
)
def test_there_is_nothing_to_download_elsewhere(path: str, client: TestClient) -> None:
    assert _refusal(client.get(f"/api/artifacts/{path}")) == (404, "object_missing")


def test_a_pod_gets_a_link_by_key_or_by_name_and_the_hash_with_it(client: TestClient) -> None:
    key = _published(client)
    by_key = client.post(f"{RUN}/presign", json={"action": "get", "key": key}).json()
    by_name = client.post(f"{RUN}/presign", json={"action": "get", "filename": "a.txt"}).json()
    assert (by_key["sha256"], by_key["key"]) == (by_name["sha256"], by_name["key"]) == (SHA, key)
    assert requests.get(by_name["url"], timeout=10).content == BODY
    for wrong in ({"filename": "b.txt"}, {"key": "runs/run1/2/b.txt"}, {}):
        answer = client.post(f"{RUN}/presign", json={"action": "get"} | wrong)
        assert _refusal(answer) == (404, "object_missing")
    answer = client.post(f"{RUN}/presign", json={"action": "get", "key": "runs/free/0/x"})
    assert _refusal(answer) == (422, "bad_key")


def test_a_store_or_a_database_that_is_away_is_a_503(client: TestClient, db: Any, store: ObjectStore) -> None:
    down = ObjectStore("127.0.0.1:1", "access-key", "secret-key", "bucket")
    with _client(db, down) as other:
        answer = other.get("/api/artifacts/runs/run1/2/a.txt")
        assert _refusal(answer) == (503, "store_away")
        assert answer.headers["Retry-After"] == "2"
    away: MongoClient[Any] = MongoClient("mongodb://127.0.0.1:1", serverSelectionTimeoutMS=100)
    with away, _client(away["x"], store) as other:
        assert _refusal(_presign(other, **LEASED))[0] == 503


def test_the_routes_describe_themselves(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    assert {"/api/runs/{run_id}/artifacts/presign", "/api/artifacts/{key}"} <= set(described["paths"])
    assert "lease_token" in described["components"]["schemas"]["FinalizeRequest"]["properties"]


def test_a_finalize_that_meets_a_deletion_takes_another_key(
    client: TestClient, db: Any, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep dooms the key between the copy and the registration."""
    upload = _uploaded(client)
    real = store.copy

    def copy(found: Any, target: str) -> None:
        real(found, target)
        if target == "runs/run1/2/a.txt":
            artifact_keys.doom(db, target, "run1")
            artifact_keys.mark_deleted(db, target)

    monkeypatch.setattr(store, "copy", copy)
    assert _refusal(_finalize(client, upload)) == (503, "key_doomed")
    assert db["artifacts"].count_documents({}) == 0
    assert [*artifact_keys.deletions_due(db)] == ["runs/run1/2/a.txt"], "the copy is deleted too"
    again = _finalize(client, upload)
    assert again.json()["artifact"]["key"] == f"runs/run1/2/a.{SHA[:12]}.txt"


@pytest.mark.parametrize("route", ["presign", "finalize"])
def test_an_answer_that_knows_the_bytes_counts_as_a_publication(client: TestClient, db: Any, route: str) -> None:
    upload = _uploaded(client)
    assert _finalize(client, upload).status_code == 200
    before = db["artifacts"].find_one()["publishedAt"]
    if route == "presign":
        _presign(client, **LEASED, kind="data", sha256=SHA, bytes=len(BODY))
    else:
        _finalize(client, upload)
    assert db["artifacts"].find_one()["publishedAt"] > before
