"""Where commands find MongoDB: the settings, else the local stack that really runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pod_worker.local.folder_lock import FolderLock
from pod_worker.stack_settings import load_settings
from tests.cli.conftest import CommandResult

STACK = {
    "mongodb_url": "mongodb://127.0.0.1:1/stack",
    "control_plane_url": "http://127.0.0.1:2",
    "s3_url": "http://127.0.0.1:3",
    "s3_bucket": "b",
    "s3_keys_file": None,
    "token": "stack-token-0123456789",
    "pids": {},
}


@pytest.fixture
def stack_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("MONGODB_URL", "CONTROL_PLANE_URL", "CONTROL_PLANE_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "stack"
    folder.mkdir()
    (folder / "stack.json").write_text(json.dumps(STACK))
    monkeypatch.setenv("POD_WORKER_DATA", str(folder))
    return folder


def test_a_running_stack_fills_in_what_the_environment_leaves_open(stack_folder: Path) -> None:
    lock = FolderLock(stack_folder)
    lock.acquire()
    try:
        settings = load_settings()
    finally:
        lock.release()
    assert settings.require_mongodb_url() == STACK["mongodb_url"]
    assert settings.control_plane_url == STACK["control_plane_url"]


def test_the_file_of_a_killed_stack_is_not_used(stack_folder: Path) -> None:
    assert load_settings().mongodb_url is None


def test_commands_reach_the_object_store_of_a_running_stack(
    stack_folder: Path, cli: Callable[..., CommandResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = stack_folder / "keys.json"
    keys.write_text('{"access_key": "local-1234", "secret_key": "sentinel-0123456789"}')
    (stack_folder / "stack.json").write_text(json.dumps(STACK | {"s3_keys_file": str(keys)}))
    monkeypatch.delenv("MONGODB_URL")
    monkeypatch.setenv("POD_WORKER_DATA", str(stack_folder))
    monkeypatch.setenv("RUNPOD_SSH_PASSWORD", "sentinel")
    monkeypatch.setenv("RUNPOD_GPU_TYPE", "H100")
    lock = FolderLock(stack_folder)
    lock.acquire()
    try:
        settings = load_settings()
        shown = cli("config", "show", "--origin").out
    finally:
        lock.release()
    assert settings.minio_endpoint == STACK["s3_url"]
    assert settings.minio_secret_key is not None
    assert settings.minio_secret_key.reveal() == "sentinel-0123456789"
    assert f"CONTROL_PLANE_URL\thttp://127.0.0.1:2\tlocal stack {stack_folder}" in shown
    assert "RUNPOD_GPU_TYPE\tH100\tenvironment" in shown
    assert "RUNPOD_SSH_PASSWORD\t***\tenvironment" in shown
    assert "sentinel" not in shown
