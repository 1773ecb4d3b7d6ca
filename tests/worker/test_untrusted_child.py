"""What the process of a run can reach of its worker: no standard input, no keys, no guard that it could disarm."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from pymongo.database import Database

from pod_worker.core.credentials import attempt_token
from pod_worker.core.failure import FailureCode
from pod_worker.core.model_access import ModelAccess
from pod_worker.core.outcome import Canceled, Failed, Succeeded
from pod_worker.pipelines import PIPELINES
from pod_worker.process.tree import become_subreaper
from tests.worker.hostile import supervised

Db = Database[dict[str, Any]]
ORDINARY_USER = 61234
REPOSITORY = Path(__file__).resolve().parents[2]
CONTROL_TOKEN = "control-plane-token-of-the-fleet"


def interpreter_of_everyone() -> str:
    """A Python that an ordinary user may execute, also where ours is in root's home folder."""
    folders = [*Path(sys.executable).resolve().parents]
    is_open = all(folder.stat().st_mode & 0o001 for folder in folders)
    found = sys.executable if is_open or os.geteuid() else shutil.which("python3", path=os.defpath)
    assert found, "install python3 in /usr/bin: the interpreter of the tests is in a private folder"
    return found


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_code_that_asks_on_standard_input_gets_an_end_of_file_at_once(db: Db, tmp_path: Path) -> None:
    """transformers asks there whether to run a model's code; the run must not wait for an answer."""
    program = "try:\n    input('run it? [y/N] ')\nexcept EOFError:\n    print('no answer', flush=True)\nsucceed()"
    with supervised(db, tmp_path, program) as attempt:
        assert isinstance(attempt.result().outcome, Succeeded)
    assert "no answer" in attempt.logs[-1].message


def test_a_run_that_reads_standard_input_cannot_take_the_supervisors_commands(db: Db, tmp_path: Path) -> None:
    program = """
threading.Thread(target=sys.stdin.read).start()
print("ready", flush=True)
if b"stop" in commands.readline():
    uplink.write(b'{"type":"outcome","kind":"canceled"}\\n')
    os._exit(1)
"""
    with supervised(db, tmp_path, program) as attempt:
        attempt.wait_until(lambda: bool(attempt.logs))
        attempt.operations.cancel("r")
        attempt.supervisor.renew_now()
        assert isinstance(attempt.result().outcome, Canceled)
        assert attempt.result().settlement is not None


def test_the_run_gets_a_token_for_its_own_attempt_and_never_the_control_planes(db: Db, tmp_path: Path) -> None:
    program = "print(spec['attempt_token'], CONTROL in json.dumps(spec), flush=True)\nsucceed()"
    program = f"import base64\nCONTROL = base64.b64decode({base64.b64encode(CONTROL_TOKEN.encode())!r}).decode()\n{program}"
    with supervised(db, tmp_path, program, control_plane_token=CONTROL_TOKEN) as attempt:
        attempt.result()
    token, has_control_token = attempt.logs[-1].message.split()
    claim = attempt_token.verify(CONTROL_TOKEN, token)
    assert claim == attempt_token.AttemptClaim("r", 1)
    assert has_control_token == "False"


@pytest.mark.parametrize("asks_models", [True, False])
def test_only_a_pipeline_that_asks_models_gets_their_keys(
    db: Db, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asks_models: bool
) -> None:
    monkeypatch.setitem(PIPELINES, "synthetic", replace(PIPELINES["synthetic"], asks_models=asks_models))
    program = "access = spec['model_access'] or {}\nprint(len(access.get('openai_api_key') or ''), flush=True)\nsucceed()"
    with supervised(db, tmp_path, program, model_access=ModelAccess(openai_api_key="k" * 20)) as attempt:
        attempt.result()
    assert attempt.logs[-1].message == ("20" if asks_models else "0")


def test_no_text_of_the_access_shows_its_keys() -> None:
    access = ModelAccess(openai_api_key="key-of-openai", anthropic_api_key="key-of-anthropic")
    assert "key-of" not in repr(access)
    assert access.secrets() == ["key-of-openai", "key-of-anthropic"]


# ── the guard ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_guard_that_was_stopped_cannot_prevent_a_cancel(db: Db, tmp_path: Path) -> None:
    program = "print(os.getppid(), flush=True)\nos.kill(os.getppid(), signal.SIGSTOP)\ntime.sleep(600)"
    with supervised(db, tmp_path, program) as attempt:
        attempt.wait_until(lambda: bool(attempt.logs))
        assert attempt.cancel() < 10
        assert not is_running(int(attempt.logs[0].message))


def test_a_guard_that_was_stopped_cannot_keep_a_run_that_was_taken_away(db: Db, tmp_path: Path) -> None:
    program = "print(os.getppid(), flush=True)\nos.kill(os.getppid(), signal.SIGSTOP)\ntime.sleep(600)"
    with supervised(db, tmp_path, program) as attempt:
        attempt.wait_until(lambda: bool(attempt.logs))
        attempt.operations.reset("r", force=True)
        attempt.supervisor.renew_now()
        attempt.result()


@pytest.fixture
def subreaper() -> Iterator[None]:
    become_subreaper()
    yield
    become_subreaper(enabled=False)


def test_an_orphan_without_a_tag_does_not_survive_a_killed_guard(db: Db, tmp_path: Path, subreaper: None) -> None:
    program = """
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
print(subprocess.Popen(sleep, env={}, start_new_session=True).pid, flush=True)
os.kill(os.getppid(), signal.SIGKILL)
time.sleep(600)
"""
    with supervised(db, tmp_path, program) as attempt:
        outcome = attempt.result().outcome
    assert isinstance(outcome, Failed)
    assert outcome.failure.code is FailureCode.CRASHED_SIGNAL
    assert not is_running(int(attempt.logs[0].message))


def test_the_sweep_spares_processes_that_are_not_of_the_attempt(db: Db, tmp_path: Path, subreaper: None) -> None:
    other = psutil.Popen(["sleep", "600"])
    try:
        with supervised(db, tmp_path, "os.kill(os.getppid(), signal.SIGKILL)\ntime.sleep(600)") as attempt:
            attempt.result()
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


# ── keys in the environment and memory of worker and guard ──────────────────────────────────────────────────

INSPECT = """
import os, signal, subprocess, sys
{deny}
target = os.fork()
if target == 0:
    signal.pause()
reader = "import sys; open(sys.argv[1] + '/environ', 'rb').read(); open(sys.argv[1] + '/fd/0', 'rb')"
done = subprocess.run([sys.executable, "-c", reader, f"/proc/{{target}}"], stderr=subprocess.DEVNULL)
os.kill(target, signal.SIGKILL)
sys.exit(done.returncode)
"""


@pytest.fixture
def package() -> Iterator[Path]:
    """A copy of the modules without dependencies where every user may read it."""
    root = Path(tempfile.mkdtemp(prefix="open-package-"))
    root.chmod(0o755)
    for module in (
        "__init__",
        "process/__init__",
        "process/tree",
        "process/sandbox_server",
        "worker/__init__",
        "worker/isolation/__init__",
        "worker/isolation/guard",
    ):
        target = root / "pod_worker" / f"{module}.py"
        target.parent.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / "pod_worker" / f"{module}.py", target)
    yield root
    shutil.rmtree(root)


def user_without_rights() -> int | None:
    return ORDINARY_USER if os.geteuid() == 0 else None


def inspected(package: Path, deny: str) -> int:
    """Exit code of a process that reads environment and descriptors of another one of its own ordinary user."""
    done = subprocess.run(
        [interpreter_of_everyone(), "-c", INSPECT.format(deny=deny)],
        env={"PATH": os.defpath, "PYTHONPATH": str(package), "KEY": "x"},
        check=False,
        stdin=subprocess.DEVNULL,
        user=user_without_rights(),
    )
    return done.returncode


def test_another_process_of_the_same_user_cannot_read_our_environment(package: Path) -> None:
    assert inspected(package, "") == 0, "this test has lost its subject"
    assert inspected(package, "from pod_worker.process.tree import deny_inspection; deny_inspection()") == 1


def test_the_guard_denies_inspection_and_the_run_does_not(package: Path) -> None:
    """The files in /proc of a process that is not dumpable belong to root (proc(5))."""
    read, write = os.pipe()
    script = str(package / "pod_worker" / "worker" / "isolation" / "guard.py")
    argv = [interpreter_of_everyone(), "-I", "-S", script, "600", f"[{read}]", "null", "null", "--"]
    guard = subprocess.Popen(
        [*argv, "/bin/sh", "-c", "echo $$ >&2; exec sleep 600"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=(read,),
        user=user_without_rights(),
    )
    try:
        assert guard.stderr is not None
        run = int(guard.stderr.readline())
        assert Path(f"/proc/{guard.pid}/environ").stat().st_uid == 0
        assert Path(f"/proc/{run}/environ").stat().st_uid == (user_without_rights() or os.geteuid())
    finally:
        guard.communicate()  # closes its standard input: it kills the run and ends
        for fd in (read, write):
            os.close(fd)
