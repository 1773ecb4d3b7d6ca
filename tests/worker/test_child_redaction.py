"""The real child program with a stage that gives its environment away: its spool holds no secret of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pod_worker.core.lease import Fence
from pod_worker.core.run import Run, RunStatus
from pod_worker.outbox import Spool
from pod_worker.worker import protocol

LEAKING_RUN = Path(__file__).resolve().parents[1] / "acceptance" / "leaking_run"
SECRETS = {"HF_TOKEN": "hf_0123456789abcdef", "STORE_URL": "https://ana:hunter22@store.example"}
TOKEN = "pwa1.1.cjE.0123456789abcdef"


def test_the_spool_of_a_run_that_logs_its_environment_has_no_secret(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path / "spools", "w")
    run = Run("r1", "synthetic", "synthetic", RunStatus.RUNNING, params={"stages": 1, "fail_at": 1}, attempt=1)
    spec = protocol.AttemptSpec(
        run, Fence("r1", 1, "lease"), "p", "w", str(spool.directory), 1 << 24, str(tmp_path), "http://x", TOKEN
    )
    commands, send = os.pipe()
    receive, uplink = os.pipe()
    env = {
        **os.environ,
        **SECRETS,
        "POD_WORKER_ATTEMPT_TAG": "r1/1",
        protocol.COMMAND_FD_VARIABLE: str(commands),
        protocol.UPLINK_FD_VARIABLE: str(uplink),
        "PYTHONPATH": os.pathsep.join([str(LEAKING_RUN), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        "PYTHON_LEAK_EVIDENCE": str(tmp_path / "evidence"),
    }
    program = [sys.executable, "-m", "pod_worker.worker.child"]
    with subprocess.Popen(program, env=env, pass_fds=(commands, uplink), stdout=subprocess.DEVNULL) as child:
        os.close(commands)
        os.close(uplink)
        os.write(send, protocol.encode_line(spec))
        with os.fdopen(receive, "rb") as file:
            messages = file.read()
    os.close(send)
    assert child.returncode == 1
    assert b"no access with" in messages, "the stage raised its environment; the supervisor masks messages"
    lines = b"".join(spool.lines())
    assert b"ai.run.stage_failed" in lines
    assert b"environment: " in lines
    for secret in (SECRETS["HF_TOKEN"], "hunter22"):
        assert secret.encode() not in lines
    spool.close()
