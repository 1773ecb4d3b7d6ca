"""`pods create` brings a worker up by default, spends nothing while something is missing, and leaves no idle pod."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pod_worker.cli.exit_codes import ExitCode
from pod_worker.cli.pods import worker_start
from pod_worker.pods.ssh.bootstrap_scripts import BootstrapPlan
from pod_worker.pods.worker_client import PodTimeouts, RunpodClient
from tests.cli.pods.conftest import Pods
from tests.pods.cloud import Cloud
from tests.pods.sshd import Sshd, free_port
from tests.pods.test_worker_client import make_pod_folder


@pytest.fixture
def ready(cloud: Cloud, sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BootstrapPlan:
    """Everything a worker needs; a wait of the command is a wait of the cloud."""
    monkeypatch.setenv("RUNPOD_SSH_PRIVATE_KEY_PATH", str(sshd.folder / "user_key"))
    monkeypatch.setenv("RUNPOD_WORKER_IMAGE", "me/with-pod-worker:1")
    monkeypatch.setenv("POD_WORKER_SKIP_GPU", "1")
    monkeypatch.setattr("pod_worker.cli.pods.session.load_settings", without_database)
    for name, url in {"MONGODB_URL": "mongodb://db.example/x", "CONTROL_PLANE_URL": "https://c.example"}.items():
        monkeypatch.setenv(name, url)
    cloud.settings(ssh_host="127.0.0.1", ssh_port=sshd.port)

    def sleep(seconds: float) -> None:
        cloud.step(max(1.0, seconds))
        time.sleep(0.01)

    monkeypatch.setattr("pod_worker.cli.pods.session.sleep", sleep)
    plan = make_pod_folder(tmp_path / "pod")
    monkeypatch.setattr("pod_worker.pods.worker_client.bootstrap_of", lambda settings: plan)
    return plan


def without_database() -> object:
    """The settings without a MONGODB_URL, so that the intent log is a file: no test database has this name."""
    from pod_worker.config import load

    names = {name: value for name, value in os.environ.items() if name != "MONGODB_URL"}
    return load(names, None)


@pytest.mark.usefixtures("ready")
def test_a_worker_is_started_by_default(pods: Pods, cloud: Cloud, ready: BootstrapPlan) -> None:
    if os.geteuid() != 0:
        pytest.skip("the command logs in as root, which only root may do here")
    result = pods("create", "w", "--yes", "--mode", "training")
    state = Path(str(ready.state_dir))
    try:
        assert result.code == 0, result.err
        assert [result.out.strip()] == cloud.living()
        assert "the worker runs on" in result.err
        assert (state / "worker.log").read_text().startswith("worker --mode training")
    finally:
        os.kill(int((state / "worker.pid").read_text()), 9)


def test_nothing_is_spent_while_something_is_missing(pods: Pods, cloud: Cloud) -> None:
    for words in (("--yes",), ("--dry-run",), ("--dry-run", "--json")):
        result = pods("create", "w", *words)
        assert result.code == ExitCode.USAGE
        for cause in ("MONGODB_URL is not set", "CONTROL_PLANE_URL is not set", "no SSH key is set"):
            assert cause in result.err
    assert cloud.living() == []
    assert not cloud.asked("POST")


@pytest.mark.usefixtures("ready")
def test_a_key_that_cannot_be_used_is_found_before_the_pod_exists(
    pods: Pods, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNPOD_SSH_PRIVATE_KEY_PATH", "/nonexistent")
    result = pods("create", "w", "--yes")
    assert result.code == ExitCode.USAGE
    assert "cannot read the SSH private key" in result.err
    assert cloud.living() == []


@pytest.mark.usefixtures("ready")
def test_a_loopback_queue_is_refused_unless_pods_run_here(
    pods: Pods, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pod_worker.pods.preconditions.has_local_pods", lambda settings: False)
    monkeypatch.setenv("MONGODB_URL", "mongodb://127.0.0.1:27017/x")
    for words in ((), ("--command", "pod-worker worker")):
        result = pods("create", "w", "--yes", *words)
        assert result.code == ExitCode.USAGE
        assert "MONGODB_URL is unreachable from a pod" in result.err
    assert cloud.living() == []
    found = {each["check"]: each for each in pods("doctor", "--json").json}
    assert found["worker"]["result"] == "bad"
    assert "unreachable from a pod" in found["worker"]["found"]


def boot_error(cloud: Cloud, ready: BootstrapPlan) -> None:
    cloud.fault("boot_error")


def no_sshd(cloud: Cloud, ready: BootstrapPlan) -> None:
    cloud.settings(ssh_host="127.0.0.1", ssh_port=free_port())


def failing_step(cloud: Cloud, ready: BootstrapPlan) -> None:
    (Path(ready.code_dir) / "scripts" / "init_runpod.sh").write_text("echo no space left >&2; exit 1\n")


def failing_worker(cloud: Cloud, ready: BootstrapPlan) -> None:
    (Path(ready.code_dir) / "scripts" / "start_worker.sh").write_text("echo wrong key >&2; exit 2\n")


Break = Callable[[Cloud, BootstrapPlan], None]


@pytest.mark.parametrize("break_it", [boot_error, no_sshd, failing_step, failing_worker])
def test_a_pod_without_a_running_worker_is_given_back(
    pods: Pods, cloud: Cloud, ready: BootstrapPlan, monkeypatch: pytest.MonkeyPatch, break_it: Break
) -> None:
    defaults = RunpodClient.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "timeouts", PodTimeouts(boot=0.0, ssh=0.0))
    break_it(cloud, ready)
    result = pods("create", "w", "--yes")
    assert result.code != 0
    assert "is terminated; it is no longer billed" in result.err
    assert "Traceback" not in result.err
    assert cloud.living() == []


@pytest.mark.usefixtures("ready")
def test_ctrl_c_gives_the_pod_back(pods: Pods, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(worker_start, "_start", interrupt)
    result = pods("create", "w", "--yes")
    assert result.code != 0
    assert "is terminated; it is no longer billed" in result.err
    assert cloud.living() == []


@pytest.mark.usefixtures("ready")
def test_a_pod_that_stays_is_named_with_its_price(pods: Pods, cloud: Cloud) -> None:
    cloud.fault("boot_error")
    kept = pods("create", "w", "--yes", "--keep")
    (pod_id,) = cloud.living()
    assert f"WARNING: pod {pod_id} IS STILL BILLED at $0.69/h" in kept.err
    again = pods("create", "w", "--yes")
    assert cloud.living() == [pod_id], "a pod of an earlier command is not terminated"
    assert "IS STILL BILLED" in again.err
    cloud.fault("http_error", method="DELETE", status=500)
    unconfirmed = pods("create", "other", "--yes")
    assert len(cloud.living()) == 2
    assert unconfirmed.err.count("IS STILL BILLED") == 1


def test_a_pod_without_a_worker_is_announced(pods: Pods) -> None:
    result = pods("create", "w", "--no-up", "--yes")
    assert result.code == 0
    assert "worker: none: the pod idles and is billed" in result.err
    assert "WARNING: no worker runs on" in result.err


@pytest.mark.parametrize(
    "words",
    [
        ("--max-price", "0"),
        ("--max-price", "nan"),
        ("--max-price", "-1"),
        ("--max-price", "inf"),
        ("--gpu", ""),
        ("--image", " "),
        ("--volume", ""),
        ("--data-center", ""),
        ("--command", ""),
        ("--mode", "foo"),
        ("--mode", "all", "--no-up"),
        ("-e", "=x"),
    ],
)
def test_a_value_that_means_nothing_is_refused(pods: Pods, cloud: Cloud, words: tuple[str, ...]) -> None:
    result = pods("create", "w", "--no-up", "--yes", *words)
    assert result.code == ExitCode.USAGE
    assert words[0] in result.err or "NAME=VALUE" in result.err
    assert cloud.living() == []


def test_an_empty_name_is_refused(pods: Pods, cloud: Cloud) -> None:
    assert pods("create", "", "--no-up", "--yes").code == ExitCode.USAGE
    assert cloud.living() == []


@pytest.mark.parametrize(
    "words",
    [("gpus", "--max-price", "nan"), ("gpus", "--min-vram-gb", "nan"), ("ssh", "p", "--timeout", "0", "x")],
)
def test_numbers_of_other_commands_are_bounded(pods: Pods, words: tuple[str, ...]) -> None:
    assert pods(*words).code == ExitCode.USAGE


def test_a_wrong_worker_mode_of_the_environment_is_refused(
    pods: Pods, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKER_MODE", "foo")
    assert "WORKER_MODE='foo' is not one of" in pods("create", "w", "--no-up", "--yes").err
    assert cloud.living() == []


def test_the_mode_reaches_a_command(pods: Pods, cloud: Cloud) -> None:
    pods("create", "w", "--yes", "--command", "pod-worker worker", "--mode", "training")
    pod = cloud.provider("v2").list().value[0]  # type: ignore[union-attr]
    assert pod.env["WORKER_MODE"] == "training"


def test_secrets_in_the_environment_are_never_printed(
    pods: Pods, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNPOD_API_BASE_URL", cloud.url.replace("//", "//ana:hunter2@"))
    refused = pods("list")
    assert refused.code == ExitCode.USAGE
    assert "RUNPOD_API_BASE_URL has a user, a password or a query" in refused.err
    monkeypatch.setenv("RUNPOD_API_BASE_URL", cloud.url)
    monkeypatch.setenv("RUNPOD_API_KEY", f"{cloud.api_key}\n")
    assert pods("list").code == 0, "a line break at the end is no part of the key"
    monkeypatch.setenv("RUNPOD_API_KEY", "rpa_sentinel\nrpa_sentinel_2")
    broken = pods("list", "--json")
    assert broken.code == ExitCode.USAGE
    assert "RUNPOD_API_KEY" in broken.err
    for text in (refused.err, broken.err, broken.out):
        assert "hunter2" not in text
        assert "sentinel" not in text
