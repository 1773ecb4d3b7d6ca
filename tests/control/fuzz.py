"""Random HTTP requests against the control plane: hostile values in every place of every route.

`python -m tests.control.fuzz 10000` sends so many to a control plane of its own and prints a table.
"""

from __future__ import annotations

import collections
import gzip
import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

VALUES: list[Any] = [
    None, True, 0, -1, 1, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 2**70, 10**400, 0.5, 1e308, float("nan"), float("inf"),
    "", "x", "r1", "ü", "日本", "\ud800", "\0", "a\0b", "$gt", "a.b", "../..", "²", "9" * 5000, "x" * 100_000, " ",
    "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999+23:59", "2026-01-01T00:00:00Z", "NaN", "1e999", "%00", "%",
    [], {}, [[]], {"$gt": ""}, {"a": {"b": [1, None]}}, ["x"] * 1000,
]  # fmt: skip
DEEP = "[" * 5000 + "]" * 5000
IDS = [
    "r1",
    "r2",
    "none",
    "..",
    ".",
    "%2e%2e",
    "a%2Fb",
    "%FF",
    "%ED%A0%80",
    "%00",
    "x" * 3000,
    "ü",
    "$gt",
    "%20",
    "a;b",
]
PATHS = [
    "/", "/runs", "/runs/{id}", "/healthz", "/readyz", "/api/health", "/metrics", "/openapi.json", "/static/{id}",
    "/api/runs", "/api/runs/{id}", "/api/runs/{id}/events", "/api/runs/{id}/logs", "/api/runs/{id}/metrics",
    "/api/runs/{id}/cancel", "/api/runs/{id}/reset", "/api/runs/{id}/artifacts", "/api/stats",
    "/api/runs/{id}/artifacts/presign", "/api/runs/{id}/artifacts/finalize", "/api/runs/{id}/artifacts/abort",
    "/api/artifacts/runs/{id}/1/a.txt", "/api/training/jobs/{id}/metrics", "/api/ingest/event", "/api/ingest/events",
    "/{id}", "/api/{id}",
]  # fmt: skip
QUERIES = [
    "cursor", "status", "pipeline", "hypothesisId", "page", "pageSize", "hidden", "type", "level", "since", "limit",
    "order", "tail", "name", "stage", "points", "after",
]  # fmt: skip
FIELDS = [
    "by", "reason", "force", "from_scratch", "action", "filename", "key", "content_type", "attempt", "lease_token",
    "bytes", "sha256", "kind", "upload_id", "first_part", "part_count", "parts", "role", "step", "loss", "epoch",
    "progress", "id", "source", "type", "subject", "time", "seq", "data", "specversion", "extensions", "traceparent",
]  # fmt: skip
TYPES = [
    "application/json", "application/cloudevents+json", "application/x-ndjson", "application/cloudevents-batch+json",
    "application/json; charset=utf-8;", "text/plain", "", "application/json; charset=\"x", ";;;", "a/b; charset*=utf-8''%FF",
    "multipart/form-data", "application/x-www-form-urlencoded",
]  # fmt: skip
EVENT: dict[str, Any] = {
    "specversion": "1.0", "id": "e", "source": "s", "type": "ai.run.log", "subject": "run/r1",
    "time": "2026-01-01T00:00:00Z", "data": {"run_id": "r1", "level": "info", "message": "x"},
}  # fmt: skip


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Fuzzer:
    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def request(self) -> Request:
        rng = self._rng
        method = rng.choice(["GET", "GET", "POST", "POST", "POST", "HEAD", "PUT", "DELETE", "OPTIONS"])
        path = rng.choice(PATHS).replace("{id}", quote(rng.choice(IDS), safe="%;$"))
        if rng.random() < 0.5:
            pairs = [(rng.choice(QUERIES), self._text()) for _ in range(rng.randint(1, 3))]
            path += "?" + "&".join(
                f"{name}={quote(value.encode('utf-8', 'surrogatepass'))[:6000]}" for name, value in pairs
            )
        return Request(method, path, self._headers(), self._body() if method in ("POST", "PUT") else b"")

    def _text(self) -> str:
        value = self._rng.choice(VALUES)
        return value if isinstance(value, str) else json.dumps(value)

    def _headers(self) -> dict[str, str]:
        rng = self._rng
        headers = {"Content-Type": rng.choice(TYPES)}
        if rng.random() < 0.2:
            headers |= {"ce-specversion": "1.0", "ce-id": "e", "ce-source": "s", "ce-type": "ai.run.log"}
            headers |= {"ce-subject": "run/r1", "ce-time": "2026-01-01T00:00:00Z"}
            headers[f"ce-{rng.choice(['seq', 'attempt', 'subject', 'time', 'id', 'extensions', 'x'])}"] = (
                self._header()
            )
        if rng.random() < 0.1:
            headers[
                rng.choice(["Content-Encoding", "Accept", "Origin", "Sec-Fetch-Site", "Last-Event-ID", "Range"])
            ] = self._header()
        if rng.random() < 0.1:
            headers["Content-Encoding"] = "gzip"
        return headers

    def _header(self) -> str:
        text = self._text().encode("latin-1", "replace").decode("latin-1")[:6000]
        return "".join(each for each in text if each.isprintable()).strip()

    def _body(self) -> bytes:
        rng = self._rng
        kind = rng.randrange(7)
        if kind == 0:
            return rng.randbytes(rng.randrange(200))
        if kind == 1:
            return rng.choice([b"", b"{", b"null", b"[]", b'"x"', DEEP.encode(), b"\xff", b"1e999", b"x" * 70_000])
        if kind == 2:
            event = EVENT | {rng.choice(list(EVENT)): rng.choice(VALUES)}
            lines = [json.dumps(event).encode() for _ in range(rng.randint(1, 3))]
            return b"\n".join(lines)
        if kind == 3:
            data = EVENT["data"] | {
                rng.choice(["run_id", "level", "message", "kv", "x", "$set", "a.b"]): rng.choice(VALUES)
            }
            return json.dumps([EVENT | {"data": data, "id": str(rng.random())}]).encode()
        if kind == 4:
            return gzip.compress(json.dumps(EVENT).encode())
        fields = {rng.choice(FIELDS): rng.choice(VALUES) for _ in range(rng.randint(1, 6))}
        return json.dumps(fields).encode()


def main(count: int, seed: int = 1) -> None:
    """Send to a real process over real sockets; its memory is sampled on the way."""
    import requests

    from pod_worker.local.mongod import Mongod
    from tests.control.conftest import TOKEN
    from tests.control.runs.test_live import Server

    with Mongod(Path(sys.argv[2] if len(sys.argv) > 2 else ".fuzz"), cache_gb=0.25) as mongod:
        server = Server(mongod.url_for("fuzz"))
        statuses: collections.Counter[int] = collections.Counter()
        memory = []
        fuzzer = Fuzzer(seed)
        session = requests.Session()
        for number in range(count):
            if number % max(1, count // 10) == 0:
                memory.append(resident_mb(server.process.pid))
            request = fuzzer.request()
            headers = {name: value.encode("latin-1") for name, value in request.headers.items()}
            headers["Authorization"] = f"Bearer {TOKEN}".encode()
            try:
                answer = session.request(
                    request.method,
                    server.url + request.path,
                    data=request.body,
                    headers=headers,
                    timeout=20,
                    allow_redirects=False,
                )
            except requests.RequestException as error:
                print("NO ANSWER", request, error)
                continue
            statuses[answer.status_code] += 1
            if answer.status_code >= 500:
                print("FAILED", answer.status_code, request, answer.text[:300])
        memory.append(resident_mb(server.process.pid))
        print(dict(sorted(statuses.items())), "MB:", memory, "stop:", server.stop())


def resident_mb(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 // 1024**2


if __name__ == "__main__":
    main(int(sys.argv[1]))
