"""The layer in front of every route: the key before the body, and limits for all routes."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from pod_worker.artifacts.object_store import ObjectStore
from pod_worker.control.app import build_app
from pod_worker.control.web import body as body_module
from pod_worker.control.web.admission import PUBLIC_PATHS, RequestLimits
from tests.control.conftest import TOKEN, Plane
from tests.control.lines import JSON, event

REMOTE = {"client": "203.0.113.9", "base_url": "http://control.example"}
KEY = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def app(store: Any, s3: Any) -> Any:
    objects = ObjectStore(s3.endpoint, s3.access_key, s3.secret_key, s3.bucket)
    return build_app(store, objects, token=TOKEN, open_on_loopback=False)


def ask(
    app: Any, method: str, path: str, *chunks: bytes, headers: dict[str, str] | None = None, ends: bool = True
) -> tuple[int, dict[str, Any], int]:
    """(status, problem, how many chunks were read). Without an end the body goes on for ever."""
    return asyncio.run(_ask(app, method, path, chunks, headers or {}, ends))


async def _ask(
    app: Any, method: str, path: str, chunks: tuple[bytes, ...], headers: dict[str, str], ends: bool
) -> tuple[int, dict[str, Any], int]:
    read = 0
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        nonlocal read
        if read >= len(chunks) and not ends:
            await asyncio.Event().wait()
        read += 1
        return {
            "type": "http.request",
            "body": chunks[read - 1] if chunks else b"",
            "more_body": read < len(chunks) or not ends,
        }

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "client": ("203.0.113.9", 1),
        "server": ("control.example", 80),
        "scheme": "http",
        "http_version": "1.1",
        "state": {},
    }
    await app(scope, receive, send)
    text = b"".join(each.get("body", b"") for each in sent[1:])
    return sent[0]["status"], json.loads(text) if text.startswith(b"{") else {}, read


def routes(app: Any) -> list[tuple[str, str]]:
    """The documented routes and the pages."""
    found = [(verb.upper(), path) for path, verbs in app.openapi()["paths"].items() for verb in verbs]
    return [*found, ("GET", "/"), ("GET", "/runs"), ("GET", "/runs/r1")]


def test_every_route_but_the_public_ones_asks_for_the_key_before_it_reads(app: Any) -> None:
    checked = 0
    for method, path in routes(app):
        if path in PUBLIC_PATHS or path.startswith("/static/"):
            continue
        status, problem, read = ask(app, method, path.replace("{", "").replace("}", ""), b"[" * 1000, b"x")
        assert (status, problem["code"], read) == (401, "no_key", 0), (method, path)
        checked += 1
    assert checked >= 18


def test_an_unknown_path_needs_a_key_too(app: Any) -> None:
    assert ask(app, "GET", "/nothing")[0] == 401
    assert ask(app, "GET", "/nothing", headers=KEY)[0] == 404


@pytest.mark.parametrize("path", ["/api/runs/r1/cancel", "/api/runs/r1/reset", "/api/training/jobs/r1/metrics"])
def test_a_body_beyond_64_kib_is_refused_as_soon_as_it_is_too_large(app: Any, path: str) -> None:
    chunk = b"[" * 40 * 1024
    status, problem, read = ask(app, "POST", path, *[chunk] * 100, headers=KEY | JSON)
    assert (status, problem["code"], read) == (413, "too_large", 2)
    declared = ask(app, "POST", path, b"{}", headers=KEY | JSON | {"Content-Length": str(10**9)})
    assert (declared[0], declared[2]) == (413, 0)


def test_artifact_requests_have_a_limit_of_their_own(app: Any) -> None:
    chunk = b" " * 1024 * 1024
    path = "/api/runs/r1/artifacts/finalize"
    assert ask(app, "POST", path, chunk, b"{}", headers=KEY | JSON)[0] == 422
    assert ask(app, "POST", path, chunk, chunk, b"{}", headers=KEY | JSON)[0] == 413


def test_a_body_that_does_not_end_is_given_up(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_module.read_body, "__defaults__", (body_module.BODY_LIMIT_BYTES, 0.05))
    for path in ("/api/runs/r1/cancel", "/api/ingest/event"):
        status, problem, _ = ask(app, "POST", path, b"{", headers=KEY | JSON, ends=False)
        assert (status, problem["code"]) == (408, "too_slow")


def test_too_many_requests_at_once_are_sent_away(store: Any) -> None:
    app = build_app(store, None, token=TOKEN, open_on_loopback=False, limits=RequestLimits(concurrent=1))
    held = asyncio.Event()

    async def hold(scope: Any, receive: Any, send: Any) -> None:
        held.set()
        await asyncio.sleep(3600)

    async def scene() -> tuple[int, str]:
        first = asyncio.create_task(app._admission(hold, _scope(), _nothing, _nothing, reads_body=False))
        await held.wait()
        status, problem, _ = await _ask(app, "GET", "/api/stats", (), KEY, True)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        after, _, _ = await _ask(app, "GET", "/api/nothing", (), KEY, True)
        assert after == 404, "a request that ended gives its place back"
        return status, problem["code"]

    assert asyncio.run(scene()) == (503, "busy")


def _scope() -> dict[str, Any]:
    return {"type": "http", "method": "GET", "path": "/healthz", "headers": [], "client": None}


async def _nothing(*_: Any) -> dict[str, Any]:
    return {}


# ── keys ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("token", ["", " ", "\n"])
def test_an_empty_key_is_refused_at_the_start(store: Any, token: str) -> None:
    with pytest.raises(ValueError, match="CONTROL_PLANE_TOKEN is empty"):
        build_app(store, None, token=token, open_on_loopback=True)


def test_an_empty_key_opens_nothing(plane: Plane) -> None:
    http = plane(**REMOTE)
    for key in ("Bearer", "Bearer ", "Basic " + base64.b64encode(b"me:").decode(), "Basic "):
        assert http.get("/api/runs", headers={"Authorization": key}).status_code == 403, key


PROXIES: list[dict[str, str]] = [
    {"X-Forwarded-For": "1.2.3.4"},
    {"X-Forwarded-Host": "x"},
    {"X-Forwarded-Proto": "https"},
    {"X-Real-IP": "1.2.3.4"},
    {"Via": "1.1 proxy"},
    {"Forwarded": "for=1.2.3.4"},
    {"CF-Connecting-IP": "1.2.3.4"},
    {"True-Client-IP": "1.2.3.4"},
]


@pytest.mark.parametrize("headers", PROXIES, ids=lambda each: next(iter(each)))
def test_a_request_through_a_proxy_needs_the_key(plane: Plane, headers: dict[str, str]) -> None:
    http = plane(open_on_loopback=True)
    assert http.get("/api/runs").status_code == 200
    assert http.get("/api/runs", headers=headers).status_code == 401
    assert http.get("/api/runs", headers=headers | KEY).status_code == 200


def test_http_1_0_is_a_proxys_request(store: Any) -> None:
    """nginx with only `proxy_pass` sends HTTP/1.0, the upstream's Host and no header of its own."""
    app = build_app(store, None, token=None, open_on_loopback=True)

    async def status(version: str) -> int:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope = _scope() | {
            "path": "/api/nothing",
            "raw_path": b"/api/nothing",
            "query_string": b"",
            "http_version": version,
            "client": ("127.0.0.1", 1),
            "headers": [(b"host", b"127.0.0.1:8787")],
            "scheme": "http",
            "server": ("127.0.0.1", 8787),
            "state": {},
        }
        await app(scope, _nothing, send)
        return int(sent[0]["status"])

    assert [asyncio.run(status(version)) for version in ("1.1", "1.0")] == [404, 401]


def test_an_origin_that_is_no_url_is_another_site(plane: Plane) -> None:
    answer = plane().post("/api/runs/r1/cancel", headers={"Origin": "http://[x"})
    assert (answer.status_code, answer.json()["code"]) == (403, "cross_origin")


# ── one shape for every failure ─────────────────────────────────────────────────────────────────────────────


def test_an_unexpected_error_is_a_problem_too(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    from pod_worker.control.ingest.group_commit import GroupCommit
    from pod_worker.store.queue.stats import QueueStatsReader

    def broken(*_: Any) -> None:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(QueueStatsReader, "read", broken)
    monkeypatch.setattr(GroupCommit, "submit", broken)
    http = plane()
    for answer in (http.get("/api/stats"), http.post("/api/ingest/event", json=event("e"), headers=JSON)):
        assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
        assert "mistake" not in answer.text


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/api/health", "/", "/metrics", "/static/page.css"])
def test_head_has_no_body(http: TestClient, path: str) -> None:
    answer = http.head(path)
    assert (answer.status_code, answer.content) == (200, b"")


def test_head_of_a_live_view_ends(http: TestClient) -> None:
    assert http.head("/api/runs/r1/live").status_code == 405


@pytest.mark.parametrize("run_id", ["a/b", "a/b/c", "a/events"])
@pytest.mark.parametrize(
    "call",
    [
        lambda http, run: http.get(f"/api/runs/{run}"),
        lambda http, run: http.get(f"/runs/{run}"),
        lambda http, run: http.post(f"/api/runs/{run}/cancel"),
        lambda http, run: http.post(f"/api/runs/{run}/reset"),
        lambda http, run: http.post(f"/api/training/jobs/{run}/metrics", json={"step": 1}),
    ],
)
def test_an_id_with_a_slash_is_refused_alike(
    http: TestClient, store: Any, run_id: str, call: Callable[[Any, str], Any]
) -> None:
    """Such an id is refused at enqueue and at claim, so no route has to reach it."""
    store["runs"].insert_one({"_id": run_id, "status": "QUEUED"})
    answer = call(http, run_id.replace("/", "%2F"))
    if (run_id, answer.request.method) != ("a/events", "GET"):  # the events of run `a`, which has none
        assert answer.status_code == 404
    assert store["runs"].find_one({"_id": run_id})["status"] == "QUEUED"
