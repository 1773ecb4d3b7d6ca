"""A local server that speaks the JSON of both indexes of literature, and answers with faults on request."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from pod_worker.core.failure import CancelRequested
from pod_worker.core.research.literature import Work
from pod_worker.literature.http_index import IndexLimits
from pod_worker.literature.recorded import SHIPPED, RecordedSearch

QUICK = IndexLimits(
    interval_seconds=0, attempts=3, connect_seconds=5, read_seconds=5, first_backoff_seconds=0.001,
    longest_wait_seconds=0.01,
)  # fmt: skip


class Stop:
    """A stop signal of tests."""

    def __init__(self) -> None:
        self.is_requested = False

    def check(self) -> None:
        if self.is_requested:
            raise CancelRequested("a test stops")

    def is_set(self) -> bool:
        return self.is_requested


@dataclass(frozen=True)
class Fault:
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    hold: threading.Event | None = None  # wait for it before the answer
    is_cut: bool = False  # close the connection in the middle of the body


class IndexServer:
    """Answers from the recorded works; `faults` are used up first, one a request."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, dict[str, str], dict[str, str]]] = []
        self._recorded = RecordedSearch(SHIPPED)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.requests.append((parts.path, query, dict(handler.headers.items())))
        fault = self.faults.pop(0) if self.faults else None
        if fault and fault.hold:
            fault.hold.wait(30)
        body = fault.body if fault else json.dumps(self._document(parts.path, query)).encode()
        handler.send_response(fault.status if fault else 200)
        for name, value in (fault.headers if fault else {}).items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body) + (10 if fault and fault.is_cut else 0)))
        handler.end_headers()
        try:
            handler.wfile.write(body)
        except OSError:
            pass
        handler.close_connection = True

    def _document(self, path: str, query: dict[str, str]) -> dict[str, Any]:
        if path == "/graph/v1/paper/search":
            found = self._recorded.search(query["query"], int(query["limit"]))
            rows = [_semantic_scholar(work) for work in found]
            return {"total": len(rows), "offset": 0, **({"data": rows} if rows else {})}
        assert path == "/works", path
        found = self._recorded.search(query["search"], int(query["per-page"]))
        return {"meta": {"count": len(found)}, "results": [_openalex(work) for work in found]}

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _semantic_scholar(work: Work) -> dict[str, Any]:
    return {
        "paperId": work.id.encode().hex(),
        "title": work.title,
        "authors": [{"authorId": str(index), "name": name} for index, name in enumerate(work.authors)],
        "year": work.year,
        "venue": work.venue,
        "abstract": work.abstract or None,
        "url": work.url,
    }


def _openalex(work: Work) -> dict[str, Any]:
    inverted: dict[str, list[int]] = {}
    for position, word in enumerate(work.abstract.split()):
        inverted.setdefault(word, []).append(position)
    return {
        "id": f"https://openalex.org/W{int.from_bytes(work.id.encode()[-6:])}",
        "doi": work.url if "doi.org" in work.url else None,
        "display_name": work.title,
        "publication_year": work.year,
        "authorships": [{"author": {"id": f"A{index}", "display_name": name}} for index, name in enumerate(work.authors)],
        "primary_location": {"source": {"display_name": work.venue}, "landing_page_url": work.url},
        "abstract_inverted_index": inverted or None,
    }  # fmt: skip


@pytest.fixture(scope="module")
def index_server() -> Iterator[IndexServer]:
    server = IndexServer()
    yield server
    server.close()


@pytest.fixture
def server(index_server: IndexServer) -> IndexServer:
    index_server.faults.clear()
    index_server.requests.clear()
    return index_server


@pytest.fixture
def stop() -> Stop:
    return Stop()
