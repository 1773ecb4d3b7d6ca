"""The command line in this process, against a database of the test's own."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pod_worker.artifacts.object_store import ObjectStore
from pod_worker.cli import main
from pod_worker.cli.diagnostics import doctor_checks
from pod_worker.cli.diagnostics.diagnosis import Diagnosis
from pod_worker.core.lease import Fence
from pod_worker.core.stage import Artifact
from pod_worker.store import artifact_registry


@dataclass(frozen=True)
class CommandResult:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., CommandResult]
TOKEN = "a-control-plane-token"


@pytest.fixture
def cli(
    mongodb_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Cli:
    """Call it with words; it answers with exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MONGODB_URL", mongodb_url)
    monkeypatch.setenv("POD_WORKER_DATA", str(tmp_path / "no-stack"))

    # The step takes ten seconds; tests/training/test_environment_check.py runs it.
    monkeypatch.setattr(
        doctor_checks, "training_step", lambda: Diagnosis("training", "ok", "not run by this test")
    )

    def call(*words: str) -> CommandResult:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        captured = capsys.readouterr()
        code = ended.value.code
        return CommandResult(code if isinstance(code, int) else 0, captured.out, captured.err)

    return call


# Artifacts over the real path: command line, control plane, object store.


@pytest.fixture
def store(s3: Any) -> ObjectStore:
    return ObjectStore(s3.endpoint, s3.access_key, s3.secret_key, s3.bucket)


@pytest.fixture
def publish(db: Any, store: ObjectStore, tmp_path: Path) -> Any:
    db["runs"].insert_one({"_id": "run1", "status": "RUNNING", "attempt": 2, "leaseToken": "t"})

    def put(name: str, body: bytes, attempt: int = 2, kind: str = "data", role: str | None = None) -> str:
        path, sha = tmp_path / "body", hashlib.sha256(body).hexdigest()
        path.write_bytes(body)
        key = f"runs/run1/{attempt}/{name}"
        store.put(key, path)
        made = Artifact(key, len(body), sha, kind, "text/plain", role)
        assert artifact_registry.register(db, f"run1:{kind}:{sha}", Fence("run1", 2, "t"), made)
        return key

    return put


@pytest.fixture
def control_plane(
    cli: Cli, mongodb_url: str, store: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[str]:
    """On a real port, with a key; and a ~/.netrc that knows this host, which must not be used."""
    import uvicorn

    from pod_worker.control.app import build_app
    from pod_worker.store.mongo import connect

    database = connect(mongodb_url)
    app = build_app(database, store, token=TOKEN, open_on_loopback=False)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the control plane did not start"
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login other password other\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("CONTROL_PLANE_URL", url)
    monkeypatch.setenv("CONTROL_PLANE_TOKEN", TOKEN)
    yield url
    server.should_exit = True
    thread.join(10)
    database.client.close()
