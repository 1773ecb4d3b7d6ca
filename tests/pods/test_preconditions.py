"""What is refused before money is spent: addresses a pod cannot reach, keys that do not fit, missing code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pod_worker.pods.launch.candidates import Candidate
from pod_worker.pods.launch.launcher import LaunchRequest
from pod_worker.pods.pod import PodSpec
from pod_worker.pods.preconditions import hosts_of, is_local, launch_problems
from pod_worker.pods.runpod_settings import RunpodSettings
from pod_worker.pods.ssh.login import SshLogin
from tests.pods.sshd import make_key

MONGO = "mongodb+srv://u:p@cluster.example.com/db"
ENV = {"MONGODB_URL": MONGO, "CONTROL_PLANE_URL": "https://control.example.com"}


@pytest.fixture
def settings(tmp_path: Path) -> RunpodSettings:
    make_key(tmp_path / "key")
    return RunpodSettings(api_key="k", login=SshLogin(private_key_path=tmp_path / "key"), code_archive=b"code")


def problems(settings: RunpodSettings, **env: str) -> tuple[str, ...]:
    spec = PodSpec("w", settings.worker_image, "gpu", env={**ENV, **env})
    return launch_problems(settings, LaunchRequest("w", spec, (Candidate("gpu"),)))


def test_nothing_is_wrong_with_reachable_addresses_and_a_key(settings: RunpodSettings) -> None:
    assert problems(settings) == ()


@pytest.mark.parametrize(
    "url",
    [
        "mongodb://127.0.0.1:27017/x",
        "mongodb://u:p@127.0.0.1/x",
        "mongodb://db.example.com:27017,LOCALHOST:27018/x?replicaSet=rs",
        "mongodb://[::1]:27017/",
        "mongodb://[::ffff:127.0.0.1]/",
        "mongodb://0.0.0.0/",
        "mongodb://127.8.8.8?x=1",
        "mongodb://u:p%40localhost@localhost./x",
        "mongodb://api.localhost/x",
        "mongodb:///x",
        "127.0.0.1:27017",
    ],
)
def test_a_loopback_address_is_unreachable_from_a_pod(settings: RunpodSettings, url: str) -> None:
    (problem,) = problems(settings, MONGODB_URL=url)
    assert problem.startswith("MONGODB_URL is unreachable from a pod")
    assert "u:p" not in problem


def test_the_control_plane_is_checked_too(settings: RunpodSettings) -> None:
    assert "CONTROL_PLANE_URL is unreachable" in problems(settings, CONTROL_PLANE_URL="http://127.0.0.1:8787")[0]
    assert "CONTROL_PLANE_URL is not set" in problems(settings, CONTROL_PLANE_URL="")[0]
    assert "MONGODB_URL is not set" in problems(settings, MONGODB_URL="")[0]


def test_pods_of_a_fake_on_this_machine_reach_loopback(settings: RunpodSettings) -> None:
    local = replace(settings, root="http://127.0.0.1:9000")
    assert problems(local, MONGODB_URL="mongodb://127.0.0.1/x") == ()
    elsewhere = replace(settings, root="https://api.example.com")
    assert problems(elsewhere, MONGODB_URL="mongodb://127.0.0.1/x")


@pytest.mark.parametrize("url", ["mongodb://localhost.example.com/", "mongodb://u:127.0.0.1@db.example/", MONGO])
def test_a_name_that_only_looks_local_is_not(url: str) -> None:
    assert not any(map(is_local, hosts_of(url)))


def test_a_missing_unreadable_or_foreign_key_is_named(settings: RunpodSettings, tmp_path: Path) -> None:
    assert "ssh-keygen" in problems(replace(settings, login=SshLogin()))[0]
    assert "cannot read" in problems(replace(settings, login=SshLogin(tmp_path / "none")))[0]
    make_key(tmp_path / "other")
    other = (tmp_path / "other.pub").read_text()
    assert "does not belong" in problems(replace(settings, ssh_public_key=other))[0]
    assert problems(replace(settings, ssh_public_key=(tmp_path / "key.pub").read_text())) == ()


def test_the_default_image_needs_code_from_elsewhere(settings: RunpodSettings) -> None:
    assert "RUNPOD_CODE_URL" in problems(replace(settings, code_archive=None))[0]
    assert problems(replace(settings, code_archive=None, code_url="https://git.example/x")) == ()
    assert problems(replace(settings, code_archive=None, worker_image="me/baked:1")) == ()
