"""No request is a 500: hostile values in every place of every route, and the application still serves."""

from __future__ import annotations

from typing import Any

import pytest

from pod_worker.artifacts.object_store import ObjectStore
from tests.control.conftest import TOKEN, Plane
from tests.control.fuzz import Fuzzer, Request


@pytest.mark.parametrize("seed", range(3))
def test_no_request_is_a_server_error(plane: Plane, store: Any, s3: Any, seed: int) -> None:
    store["runs"].insert_one({"_id": "r1", "status": "RUNNING", "attempt": 1})
    objects = ObjectStore(s3.endpoint, s3.access_key, s3.secret_key, s3.bucket)
    http = plane(object_store=objects)
    fuzzer = Fuzzer(seed)
    failed: list[tuple[int, Request, str]] = []
    for _ in range(150):
        request = fuzzer.request()
        headers = {name: value.encode("latin-1") for name, value in request.headers.items()}
        headers["Authorization"] = f"Bearer {TOKEN}".encode()
        answer = http.request(
            request.method, request.path, content=request.body, headers=headers, follow_redirects=False
        )
        if answer.status_code >= 500:
            failed.append((answer.status_code, request, answer.text[:300]))
    assert failed == []
    assert http.get("/readyz").status_code == 200
