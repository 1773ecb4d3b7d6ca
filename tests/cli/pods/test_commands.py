"""`pod-worker pods …` against the fake RunPod: what is shown, what is asked, what is spent, and the exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pod_worker.cli.exit_codes import ExitCode
from tests.cli.pods.conftest import Pods, rent
from tests.pods.cloud import GPU, Cloud
from tests.pods.sshd import Sshd


def test_a_dry_run_shows_the_plan_and_spends_nothing(
    pods: Pods, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hunter2")
    result = pods("create", "w", "--gpu", "RTX 4090", "--gpu", "L4", "-e", "HF_TOKEN", "--no-up", "--dry-run")
    assert result.code == 0
    assert "$0.69/h" in result.err
    assert "NVIDIA L4" in result.err
    assert "HF_TOKEN" in result.err
    assert "hunter2" not in result.out + result.err
    assert cloud.living() == []
    plan = pods("create", "w", "--no-up", "--dry-run", "--json", "--max-price", "0.5", "--gpu", "L4").json
    assert [each["usd_per_hour"] for each in plan["candidates"]] == [0.44]
    assert cloud.living() == []


def test_nothing_is_rented_without_a_yes(pods: Pods, cloud: Cloud) -> None:
    result = pods("create", "w", "--no-up")
    assert result.code == ExitCode.USAGE
    assert "--yes" in result.err
    assert cloud.living() == []


def test_rent_list_show_and_give_back(pods: Pods, cloud: Cloud) -> None:
    pod_id = rent(pods)
    assert cloud.living() == [pod_id]
    assert rent(pods) == pod_id, "the same name is the same pod"
    (listed,) = pods("list", "--json").json
    assert (listed["id"], listed["gpu"], listed["usd_per_hour"]) == (pod_id, GPU, 0.69)
    plain = pods("list")
    assert pod_id in plain.out
    assert "$0.69 per hour" in plain.err
    shown = pods("show", pod_id, "--json").json
    assert (shown["order"], shown["intent"]) == ("w", "CREATED")
    assert "WORKER_ID" in shown["env_names"]
    assert pods("terminate", pod_id).code == ExitCode.USAGE
    assert cloud.living() == [pod_id]
    assert pods("terminate", pod_id, "--yes").code == 0
    assert cloud.living() == []
    assert rent(pods) != pod_id


def test_the_worker_gets_the_queues_address_and_an_own_command(
    pods: Pods, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTROL_PLANE_TOKEN", "token-0123456789")
    pod_id = pods("create", "w", "--yes", "--command", "pod-worker worker --mode 'all'", "-e", "A=b=c").out.strip()
    listing = cloud.provider("v2").list()
    pod = listing.value[0]  # type: ignore[union-attr]
    assert pod.id == pod_id
    assert pod.env["CONTROL_PLANE_TOKEN"] == "token-0123456789"
    assert pod.env["A"] == "b=c"


@pytest.mark.parametrize(
    ("words", "fault", "code"),
    [
        (("create", "w", "--no-up", "--yes"), {"kind": "no_capacity"}, ExitCode.NO_CAPACITY),
        (
            ("create", "w", "--no-up", "--yes"),
            {"kind": "http_error", "status": 402, "method": "POST"},
            ExitCode.BUDGET,
        ),
        (
            ("create", "w", "--no-up", "--yes"),
            {"kind": "http_error", "status": 422, "method": "POST"},
            ExitCode.USAGE,
        ),
        (
            ("create", "w", "--no-up", "--yes"),
            {"kind": "http_error", "status": 401, "method": "POST"},
            ExitCode.AUTH,
        ),
        (("list",), {"kind": "http_error", "status": 401}, ExitCode.AUTH),
        (("list",), {"kind": "http_error", "status": 503}, ExitCode.TEMPORARY),
        (("show", "none"), None, ExitCode.NOT_FOUND),
        (("terminate", "none", "--yes"), None, ExitCode.NOT_FOUND),
        (("logs", "none"), None, ExitCode.NOT_FOUND),
        (("ssh", "none", "true"), None, ExitCode.NOT_FOUND),
        (("create", "w", "--no-up", "--yes", "--gpu", "RTX 9999"), None, ExitCode.NOT_FOUND),
        (("create", "w", "--no-up", "--yes", "--volume", "none"), None, ExitCode.NOT_FOUND),
        (("create", "w", "--no-up", "--yes", "--max-price", "0.01"), None, ExitCode.BUDGET),
        (("create", "w", "--no-up", "--yes", "-e", "novalue"), None, ExitCode.USAGE),
        (("create", "w", "--no-up", "--yes", "--cloud", "PRIVATE"), None, ExitCode.USAGE),
    ],
)
def test_exit_codes(
    pods: Pods,
    cloud: Cloud,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    fault: dict[str, Any] | None,
    code: ExitCode,
) -> None:
    monkeypatch.setattr("pod_worker.cli.pods.session.sleep", lambda seconds: None)
    if fault:
        cloud.fault(**fault)
    result = pods(*words)
    assert result.code == code, result.err
    assert result.err
    assert "Traceback" not in result.err
    assert cloud.living() == []


def test_no_key_is_a_usage_error_with_the_fix(pods: Pods, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNPOD_API_KEY")
    result = pods("list")
    assert result.code == ExitCode.USAGE
    assert "RUNPOD_API_KEY" in result.err


def test_a_key_from_dotenv(pods: Pods, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNPOD_API_KEY")
    Path(".env").write_text(f"RUNPOD_API_KEY={cloud.api_key}\nRUNPOD_GPU_TYPE=L4\n")
    assert pods("list").code == 0
    assert "NVIDIA L4" in pods("create", "w", "--no-up", "--dry-run").err


def test_gpus_are_sorted_by_price_and_filtered(pods: Pods, cloud: Cloud) -> None:
    everything = pods("gpus", "--json").json
    lowest = [min(each["usd_per_hour"].values(), default=1e9) for each in everything]
    assert lowest == sorted(lowest)
    cloud.fault("no_capacity", gpu=GPU)
    some = pods("gpus", "--json", "--min-vram-gb", "24", "--max-price", "0.5", "--available").json
    assert some
    assert len(some) < len(everything)
    assert GPU not in [each["id"] for each in some]
    assert "RTX 4090" in pods("gpus").out


def test_volumes(pods: Pods, cloud: Cloud) -> None:
    volume_id = cloud.make_volume("Peter")
    (listed,) = pods("volumes", "--json").json
    assert (listed["id"], listed["name"], listed["size_gb"]) == (volume_id, "Peter", 20)
    assert "Peter" in pods("volumes").out


def test_logs(pods: Pods, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pod_worker.pods.runpod.v2.BACKLOG_QUIET_SECONDS", 0.2)
    pod_id = rent(pods)
    cloud.step(60)
    cloud.say(pod_id, "hello", "world")
    assert "C world" in pods("logs", pod_id).out
    last = json.loads(pods("logs", pod_id, "--tail", "1", "--json").out)
    assert last["line"] == "world"


def test_ssh_runs_a_command_and_gives_its_code(
    pods: Pods, cloud: Cloud, sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNPOD_SSH_PRIVATE_KEY_PATH", str(sshd.folder / "user_key"))
    pod_id = rent(pods)
    early = pods("ssh", pod_id, "true")
    assert early.code == ExitCode.TEMPORARY
    assert "22/tcp" in early.err
    cloud.settings(ssh_host="127.0.0.1", ssh_port=sshd.port)
    cloud.step(60)
    result = pods("ssh", pod_id, "echo out; echo err >&2; exit 7")
    assert (result.code, result.out) == (7, "out\n")
    assert result.err.endswith("err\n")
    line = pods("ssh", pod_id).out
    assert line.startswith(f"ssh -p {sshd.port} ")
    assert "StrictHostKeyChecking=accept-new" in line
    cloud.settings(ssh_host=None)


def test_an_unwanted_pod_is_swept(pods: Pods, cloud: Cloud) -> None:
    pod_id = rent(pods)
    cloud.fault("http_error", method="DELETE", status=500, times=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pod_worker.cli.pods.session.sleep", lambda seconds: None)
        assert pods("terminate", pod_id, "--yes").code == ExitCode.TEMPORARY
    assert cloud.living() == [pod_id]
    assert pods("sweep").code == ExitCode.USAGE, "asks first"
    assert pods("sweep", "--yes", "--json").json["terminated"] == [pod_id]
    assert cloud.living() == []
    assert pods("sweep").code == 0


def test_the_doctor_names_what_is_wrong_and_the_fix(
    pods: Pods, cloud: Cloud, sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    sick = pods("doctor", "--json")
    assert sick.code == ExitCode.FAILED
    found = {each["check"]: each for each in sick.json}
    assert found["api"]["result"] == "ok"
    assert found["gpu"]["result"] == "ok"
    assert "MONGODB_URL" in found["worker"]["found"]
    monkeypatch.setenv("RUNPOD_SSH_PRIVATE_KEY_PATH", str(sshd.folder / "user_key"))
    monkeypatch.setenv("RUNPOD_SSH_PUBLIC_KEY_PATH", str(sshd.folder / "user_key.pub"))
    key = {each["check"]: each["result"] for each in pods("doctor", "--json").json}["ssh key"]
    assert key == "ok"
    monkeypatch.setenv("RUNPOD_SSH_PUBLIC_KEY_PATH", str(sshd.folder / "host_key.pub"))
    assert "ssh-keygen -y" in pods("doctor").out
    monkeypatch.setenv("RUNPOD_API_KEY", "rpa_wrong")
    broken = pods("doctor")
    assert broken.code == ExitCode.FAILED
    assert "rpa_wrong" not in broken.out + broken.err


def test_with_a_database_the_intents_are_shared(
    pods: Pods, cloud: Cloud, mongodb_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MONGODB_URL", mongodb_url)
    pod_id = rent(pods)
    assert not (tmp_path / "state" / "intents.db").exists()
    assert pods("show", pod_id, "--json").json["intent"] == "CREATED"
    (pod,) = cloud.provider("v2").list().value  # type: ignore[union-attr]
    assert pod.env["MONGODB_URL"] == mongodb_url, "the worker on the pod has the same queue"


def test_help_needs_neither_requests_nor_paramiko() -> None:
    import subprocess
    import sys

    script = (
        "import sys\nfrom pod_worker.cli import main\n"
        "try: main(['pods', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'requests', 'paramiko', 'pymongo'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
