"""Against a real HTTP server on the loopback that speaks as much of the hub as a download needs."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants as constants
import pytest

from pod_worker.core.failure import CancelRequested, FailureCode, RunError
from pod_worker.training.model.hub import locate, wanted_files
from tests.training.conftest import point_hub_at

SHA = "0123456789abcdef0123456789abcdef01234567"
FILES = {"config.json": b"{}", "model.safetensors": b"weights", "run_me.py": b"import os", "big.bin": b"x"}


class FakeHub(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path.startswith("/api/models/some/model"):
            names = [{"rfilename": name} for name in FILES]
            self.answer(200, json.dumps({"id": "some/model", "sha": SHA, "siblings": names}).encode())
        elif path.startswith(f"/some/model/resolve/{SHA}/") and (name := path.rpartition("/")[2]) in FILES:
            self.answer(200, FILES[name])
        elif "gated" in path:
            self.answer(403, b"", "GatedRepo")
        else:
            self.answer(404, b"", "RepoNotFound")

    do_HEAD = do_GET

    def answer(self, status: int, body: bytes, code: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", SHA)
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    point_hub_at(url, tmp_path / "hub", monkeypatch)
    yield url
    server.shutdown()
    server.server_close()


def nothing() -> None:
    pass


def refusal(model: str, code: FailureCode) -> str:
    with pytest.raises(RunError) as caught:
        locate(model, None, nothing)
    assert caught.value.code is code
    return caught.value.message


def test_a_folder_is_used_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert locate(str(tmp_path), None, nothing) == tmp_path


def test_a_hub_model_is_brought_here_without_its_code(hub: str) -> None:
    folder = locate("some/model", None, nothing)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == b"weights"


def test_a_cancel_is_heard_between_files(hub: str) -> None:
    def stop() -> None:
        raise CancelRequested

    with pytest.raises(CancelRequested):
        locate("some/model", None, stop)


def test_a_model_that_does_not_exist_is_the_inputs_fault(hub: str) -> None:
    assert "exists neither here nor on the hub" in refusal("unknown/nothing", FailureCode.INVALID_INPUT)


def test_a_gated_model_says_what_to_do(hub: str) -> None:
    assert "HF_TOKEN" in refusal("gated/model", FailureCode.INVALID_INPUT)


def test_an_unreachable_hub_is_the_networks_fault() -> None:
    assert "could not be reached" in refusal("some/model", FailureCode.NETWORK)


def test_offline_is_honoured(hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refusal("some/model", FailureCode.INVALID_INPUT)


@pytest.mark.parametrize("model", ["/no/such/folder", "../x", "a b", "a/b/c", "~unknown/x", "-rf"])
def test_what_is_neither_a_folder_nor_an_id(model: str) -> None:
    assert "not a hub id" in refusal(model, FailureCode.INVALID_INPUT)


def test_a_file_and_a_folder_without_a_model(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("")
    assert "is a file" in refusal(str(tmp_path / "weights"), FailureCode.INVALID_INPUT)
    assert "no config.json" in refusal(str(tmp_path), FailureCode.INVALID_INPUT)


def test_safetensors_are_preferred_and_indices_come_along() -> None:
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index, pickled = "model.safetensors.index.json", "pytorch_model.bin"
    both = ["README.md", "config.json", "tokenizer.json", index, *shards, pickled, "x.gguf", "code.py"]
    assert wanted_files(both) == ["config.json", "tokenizer.json", index, *shards]
    assert wanted_files(["config.json", pickled]) == ["config.json", pickled]
