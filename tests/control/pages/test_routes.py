"""The page: a shell that no site can frame, that loads nothing from elsewhere and escapes what it shows."""

from __future__ import annotations

import re
from typing import Any

import pytest
from fastapi.testclient import TestClient

from pod_worker.control.pages.routes import FOLDER
from tests.control.conftest import Plane

FILES = sorted(path for path in FOLDER.iterdir() if path.is_file())  # not __pycache__


def test_the_list_and_a_run(http: TestClient, store: Any) -> None:
    store["runs"].insert_one({"_id": "01K", "status": "QUEUED"})
    for path in ("/", "/runs", "/runs/01K"):
        answer = http.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_a_run_that_does_not_exist_is_404(http: TestClient) -> None:
    answer = http.get("/runs/nope")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert "There is no run" in answer.text
    assert "run.js" not in answer.text


def test_a_runs_name_is_text(http: TestClient, store: Any) -> None:
    store["runs"].insert_one({"_id": '<script>alert(1)" x=', "status": "QUEUED"})
    page = http.get("/runs/<script>alert(1)%22%20x=").text
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert 'data-run="&lt;script' in page


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_nothing_comes_from_elsewhere_and_text_stays_text(path: object) -> None:
    source = str(path.read_text())  # type: ignore[attr-defined]
    known = source.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|//cdn|innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", known)
    assert not re.search(r"<(script|style)>|\son[a-z]+=\"|style=\"", known), "the policy forbids inline code"


def test_every_file_a_page_names_is_there(http: TestClient) -> None:
    sources = "".join(path.read_text() for path in FILES)
    names = set(re.findall(r"/static/([\w.]+)", sources)) | set(re.findall(r'from "\./([\w.]+)"', sources))
    assert {"runs.js", "run.js", "page.css", "chart.js"} <= names
    for name in names:
        assert http.get(f"/static/{name}").status_code == 200, name
    assert http.get("/static/..%2Fpage.py").status_code == 404
    assert http.get("/static/shell.html").status_code == 404


def test_the_page_is_guarded_and_its_files_are_not(plane: Plane) -> None:
    http = plane(client="203.0.113.9", base_url="http://control.example")
    assert http.get("/").status_code == 401
    assert http.get("/static/page.css").status_code == 200
