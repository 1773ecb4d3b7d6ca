"""The guard starts sandbox servers for a run: under a user of their own where it is root, and they end with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pod_worker.sandbox.identity import SANDBOX_UID
from pod_worker.worker.isolation import guard
from pod_worker.worker.isolation.child_user import DEFAULT_UID, ChildUser, sandbox_user
from tests.sandbox.support import ROOT, floor, has_own_user, open_python, wait_until

# As the stage of a run does.
CHILD = r"""
import json, os, sys, threading, time
from pathlib import Path
from pod_worker.core.execution import ExecutionRequest
from pod_worker.core.failure import RunError
from pod_worker.sandbox.client import SandboxClient
from pod_worker.sandbox.starting import GuardStarter

class NeverStop:
    def check(self): pass
    def is_set(self): return False

work = Path(sys.argv[1])
client = SandboxClient(GuardStarter(int(os.environ["POD_WORKER_SANDBOX_FD"]), ["random"]), json.loads(sys.argv[2]))
report = {"uid": os.getuid(), "layers": client.layers, "server": client.server.pid, "server_uid": client.server.uid}
node = work / "nodes" / "1"
node.mkdir(parents=True)
(node / "solution.py").write_text("import os; print(os.getuid(), 'SECRET_OF_RUN' in os.environ); os.mkdir('out', 0o700)")
request = ExecutionRequest(folder=node, argv=("solution.py",))
report["first"] = client.execute(request, NeverStop()).output
(node / "solution.py").write_text(
    "import os, time\n"
    "if os.fork() == 0:\n"
    "    os.setsid()\n"
    "    open('started', 'w').write(str(os.getpid()))\n"
    "time.sleep(600)\n"
)
ended = []
def run():
    try:
        client.execute(request, NeverStop())
    except RunError as error:
        ended.append(error.code)
thread = threading.Thread(target=run)
thread.start()
while not ((node / "started").exists() and (node / "started").read_text()):
    time.sleep(0.01)
(work / "kill.tmp").write_text(str(client.server.pid))
(work / "kill.tmp").rename(work / "kill")
thread.join(60)
report["ended"] = ended
(node / "solution.py").write_text("print('again')")
report["orphan"] = int((node / "started").read_text())
report["second"] = client.execute(request, NeverStop()).output
client.remove(node)
report["is_removed"] = not node.exists()
(work / "report.tmp").write_text(json.dumps(report))
(work / "report.tmp").rename(work / "report")
time.sleep(600)
"""


@pytest.fixture
def work() -> Iterator[Path]:
    """The folder of a run, as the worker makes it."""
    with tempfile.TemporaryDirectory(prefix="guard-sandbox-") as root:
        if has_own_user():
            os.chown(root, -1, DEFAULT_UID)
            os.chmod(root, 0o710)
        folder = Path(root) / "run"
        folder.mkdir(mode=0o700)
        if has_own_user():
            os.chown(folder, DEFAULT_UID, DEFAULT_UID)
        yield folder


def start(work: Path) -> subprocess.Popen[bytes]:
    user = ChildUser(DEFAULT_UID, DEFAULT_UID, (), "pod-worker-run") if has_own_user() else None
    sandbox = sandbox_user(user)
    argv = guard.program(
        600,
        (),
        (user.uid, user.gid, user.groups) if user else None,
        needs_sandbox=True,
        sandbox_user=(sandbox.uid, sandbox.gid, sandbox.groups) if sandbox else None,
    )
    packages = [path for path in sys.path if "site-packages" in path]
    return subprocess.Popen(
        [open_python(), *argv[1:], open_python(), "-c", CHILD, str(work), json.dumps(floor())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd="/",
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *packages]), "SECRET_OF_RUN": "x"},
        start_new_session=True,
    )


def end(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    assert process.stdin
    assert process.stdout
    process.stdin.close()
    report: dict[str, Any] = json.loads(process.stdout.read())
    process.stdout.close()
    process.wait(30)
    return report


def test_a_run_gets_a_server_of_another_user_and_a_new_one_for_a_dead_one(work: Path) -> None:
    process = start(work)
    try:
        wait_until((work / "kill").exists)
        os.kill(int((work / "kill").read_text()), 9)
        wait_until(lambda: (work / "report").exists() or process.poll() is not None)
        found = json.loads((work / "report").read_text())
        is_orphan_alive = psutil.pid_exists(found["orphan"])
        servers = [each.pid for each in psutil.Process(process.pid).children(recursive=True)]
    finally:
        ending = end(process)
    if has_own_user():
        assert (found["uid"], found["server_uid"]) == (DEFAULT_UID, SANDBOX_UID)
        assert "uid" in found["layers"]
        assert found["first"] == f"{SANDBOX_UID} False\n"
    assert found["ended"] == ["ENVIRONMENT"]
    assert found["second"] == "again\n"
    assert found["is_removed"]
    assert not is_orphan_alive
    assert ending["survivors"] == 0
    assert not [pid for pid in servers if psutil.pid_exists(pid)]
    assert found["server"] not in servers


def test_a_guard_without_a_sandbox_starts_as_before() -> None:
    program = "import os; raise SystemExit('POD_WORKER_SANDBOX_FD' in os.environ)"
    process = subprocess.Popen(
        [*guard.program(600, (), None), sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout
    assert json.loads(process.stdout.readline())["code"] == 0
    process.communicate(timeout=30)
