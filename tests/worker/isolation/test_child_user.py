"""Runs under a user of their own: which user, what is handed over, what stays out of reach."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from pod_worker.core.clock import SystemClock
from pod_worker.core.outcome import Canceled, Succeeded
from pod_worker.core.payload import RunLog, StageMetric
from pod_worker.outbox.emitter import RunEmitter
from pod_worker.outbox.ids import UlidGenerator
from pod_worker.outbox.spool import Spool
from pod_worker.process.folder_access import closed_folder
from pod_worker.worker.isolation.attempt_tag import unguarded_processes
from pod_worker.worker.isolation.child_user import (
    DEFAULT_UID,
    ChildUser,
    ChildUserError,
    check_user,
    find_user,
    hand_over,
    make_way,
    prepare_home,
)
from tests.worker.hostile import supervised
from tests.worker.test_untrusted_child import interpreter_of_everyone, is_running

Db = Database[dict[str, Any]]
USER = ChildUser(DEFAULT_UID, DEFAULT_UID, (), "pod-worker-run")
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of another user")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter, unlike pytest's."""
    folder = Path(tempfile.mkdtemp(prefix="child-user-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


# ── which user ──────────────────────────────────────────────────────────────────────────────────────────────


@only_root
def test_the_default_for_root_is_a_user_without_an_account() -> None:
    user = find_user("auto")
    assert user is not None
    assert (user.uid, user.is_dedicated) == (DEFAULT_UID, True)


def test_none_keeps_the_workers_user() -> None:
    assert find_user("none") is None


def test_a_worker_that_is_not_root_keeps_its_user_and_refuses_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert find_user("auto") is None
    with pytest.raises(ChildUserError, match="needs a worker that is root"):
        find_user("nobody")


@only_root
@pytest.mark.parametrize(("setting", "message"), [("no-such-user", "no such user"), ("root", "protects nothing")])
def test_a_user_that_cannot_protect_is_refused(setting: str, message: str) -> None:
    with pytest.raises(ChildUserError, match=message):
        find_user(setting)


def test_the_first_closed_folder_is_named(open_folder: Path) -> None:
    target = open_folder / "private" / "work"
    target.mkdir(parents=True)
    assert closed_folder(target, USER.uid, (USER.gid, *USER.groups)) is None
    (open_folder / "private").chmod(0o700)
    assert closed_folder(target, USER.uid, (USER.gid, *USER.groups)) == open_folder / "private"


@only_root
def test_a_user_that_cannot_reach_the_work_root_is_refused_with_the_fix(open_folder: Path) -> None:
    open_folder.chmod(0o700)
    with pytest.raises(ChildUserError, match=f"chmod o.x {open_folder}"):
        check_user(USER, [open_folder / "work"])


@only_root
def test_the_way_to_a_state_folder_is_open_whatever_the_umask_is(open_folder: Path) -> None:
    """/var/lib/pod-worker does not exist at first, and a pod's umask may be 077."""
    before = os.umask(0o077)
    try:
        make_way(open_folder / "lib" / "pod-worker" / "work")
    finally:
        os.umask(before)
    assert closed_folder(open_folder / "lib" / "pod-worker" / "work", USER.uid, (USER.gid, *USER.groups)) is None
    assert stat.S_IMODE((open_folder / "lib" / "pod-worker").stat().st_mode) == 0o711


# ── what is handed over ─────────────────────────────────────────────────────────────────────────────────────


@only_root
def test_home_and_named_caches_belong_to_the_user_and_a_private_tmpdir_is_dropped(open_folder: Path) -> None:
    cache = open_folder / "hub"
    (cache / "models").mkdir(parents=True)
    (cache / "models" / "link").symlink_to("/etc/passwd")
    env = {"PATH": "/bin", "HOME": "/root", "HF_HOME": str(cache), "TMPDIR": str(open_folder)}
    prepared = prepare_home(USER, open_folder, env)
    assert prepared["HOME"] == str(open_folder / ".home")
    assert "TMPDIR" not in prepared
    for path in (Path(prepared["HOME"]), cache, cache / "models", cache / "models" / "link"):
        assert path.lstat().st_uid == DEFAULT_UID
    assert Path("/etc/passwd").stat().st_uid == 0


@only_root
def test_a_folder_that_was_handed_over_before_is_left_as_it_is(open_folder: Path) -> None:
    """A run may have put hard links there by now."""
    folder = open_folder / "cache"
    hand_over(folder, USER)
    (folder / "later").write_text("x")
    hand_over(folder, USER)
    assert (folder / "later").stat().st_uid == 0


@only_root
def test_supervisor_and_child_write_one_stream_and_the_child_reaches_no_other(open_folder: Path) -> None:
    clock = SystemClock()
    spool = Spool.open(open_folder / "spool", "w")
    spool.share_with_group(USER.gid)
    emitters = {run: RunEmitter(spool, "s", run, 1, clock, UlidGenerator(clock)) for run in ("mine", "other")}
    for emitter in emitters.values():
        emitter.emit(RunLog(message="from the supervisor"))
    emitters["mine"].hand_over(USER.uid, USER.gid)

    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(USER.gid)
            os.setuid(USER.uid)
            code = 2 if _emits(spool.directory, "mine", clock) else 3
            if code == 2 and not _emits(spool.directory, "other", clock):
                code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    emitters["mine"].close()
    emitters["mine"].emit(StageMetric(stage="s", name="loss", value=1.0, step=1))  # a new file of ours
    folder = spool.directory / "run-mine-1"
    assert {path.stat().st_uid for path in folder.iterdir()} == {DEFAULT_UID}
    assert len(list(spool.lines("run-mine-1"))) == 3
    emitters["mine"].hand_over(0, 0)
    assert {path.stat().st_uid for path in (folder, *folder.iterdir())} == {0}
    spool.close()


def _emits(directory: Path, run: str, clock: SystemClock) -> bool:
    try:
        spool = Spool.attach(directory)
        RunEmitter(spool, "s", run, 1, clock, UlidGenerator(clock)).emit(RunLog(message="from the child"))
    except OSError:
        return False
    return spool.dropped == 0


# ── a run at work ───────────────────────────────────────────────────────────────────────────────────────────

REACH = """
supervisor, guard = SUPERVISOR, os.getppid()
def attempt(name, action):
    try:
        action()
    except OSError as error:
        print(name, "denied", flush=True)
    else:
        print(name, "DONE", flush=True)
print("user", os.getuid(), os.getgid(), os.getgroups(), flush=True)
for name, pid in (("supervisor", supervisor), ("guard", guard)):
    attempt(name + " environment", lambda: open(f"/proc/{pid}/environ", "rb").read())
    attempt(name + " stdin", lambda: open(f"/proc/{pid}/fd/0", "wb"))
    attempt(name + " signal", lambda: os.kill(pid, signal.SIGCONT))
attempt("spool", lambda: os.listdir(spec["spool_dir"]))
attempt("work root", lambda: os.listdir(os.path.dirname(spec["work_dir"])))
attempt("own folder", lambda: open(os.path.join(spec["work_dir"], "file"), "w"))
"""


@only_root
def test_a_run_reaches_its_own_folder_and_neither_worker_nor_guard_nor_spool(db: Db, open_folder: Path) -> None:
    program = REACH.replace("SUPERVISOR", str(os.getpid())) + "succeed()"
    with supervised(db, open_folder, program, user=USER, interpreter=interpreter_of_everyone()) as attempt:
        assert isinstance(attempt.result().outcome, Succeeded)
    found = dict(log.message.rsplit(" ", 1) for log in attempt.logs[1:])
    assert attempt.logs[0].message == f"user {DEFAULT_UID} {DEFAULT_UID} []"
    assert found.pop("own folder") == "DONE"
    assert len(found) == 8
    assert set(found.values()) == {"denied"}
    assert (open_folder / "work" / "r").stat().st_uid == DEFAULT_UID
    assert stat.S_IMODE((open_folder / "work").stat().st_mode) == 0o710


@only_root
@pytest.mark.parametrize(
    "program",
    [
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(600)",
        "subprocess.Popen(['/bin/sleep', '600'], start_new_session=True)\nprint('up', flush=True)\ntime.sleep(600)",
    ],
)
def test_a_cancel_ends_a_run_of_another_user(db: Db, open_folder: Path, program: str) -> None:
    with supervised(db, open_folder, program, user=USER, interpreter=interpreter_of_everyone()) as attempt:
        attempt.wait_until(lambda: bool(attempt.logs))
        attempt.cancel()
        assert isinstance(attempt.result().outcome, Canceled)


@only_root
def test_a_run_of_another_user_dies_with_its_guard(db: Db, open_folder: Path) -> None:
    """The kernel forgets PR_SET_PDEATHSIG when the user changes; the guard has to ask after that."""
    program = "print(os.getpid(), os.getppid(), flush=True)\ntime.sleep(600)"
    with supervised(db, open_folder, program, user=USER, interpreter=interpreter_of_everyone()) as attempt:
        attempt.wait_until(lambda: bool(attempt.logs))
        child, guard = (int(word) for word in attempt.logs[0].message.split())
        os.kill(guard, signal.SIGKILL)
        attempt.result()
    assert not is_running(child)
    assert child not in unguarded_processes(open_folder / "work", (DEFAULT_UID,))
