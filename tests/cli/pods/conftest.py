"""`pod-worker pods` in this process, against a fake RunPod and a real sshd."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pod_worker.cli import main
from pod_worker.core.clock import ManualClock
from pod_worker.fake_runpod.server import FakeServer, Options, running
from tests.cli.conftest import CommandResult
from tests.pods.cloud import Cloud
from tests.pods.sshd import Sshd, make_folder
from tests.pods.sshd import running as running_sshd


@pytest.fixture(scope="module")
def fake_server() -> Iterator[FakeServer]:
    with running(Options(speed=0, seed=3)) as fake:
        yield fake


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running_sshd(make_folder(tmp_path_factory.mktemp("sshd"))) as sshd:
        yield sshd


@pytest.fixture
def cloud(fake_server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    for name in [
        name for name in os.environ if name.startswith(("RUNPOD_", "MONGODB", "CONTROL_PLANE", "WORKER_"))
    ]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RUNPOD_API_KEY", fake_server.api_key)
    monkeypatch.setenv("RUNPOD_API_BASE_URL", fake_server.url)
    monkeypatch.setenv("RUNPOD_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("POD_WORKER_DATA", str(tmp_path / "no-stack"))
    monkeypatch.chdir(tmp_path)
    cloud = Cloud(fake_server.url, fake_server.api_key, ManualClock())
    cloud.reset()
    cloud.settings(ssh_host=None)
    return cloud


Pods = Callable[..., CommandResult]


@pytest.fixture
def pods(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> Pods:
    def run(*words: str) -> CommandResult:
        with pytest.raises(SystemExit) as ended:
            main(["pods", *words])
        output = capsys.readouterr()
        return CommandResult(int(ended.value.code or 0), output.out, output.err)

    return run


def rent(pods: Pods, name: str = "w") -> str:
    result = pods("create", name, "--no-up", "--yes")
    assert result.code == 0, result.err
    return result.out.strip()
