"""Hostile runs: the lease is kept, a cancel ends them, their logs stay small and no process is left."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from pod_worker.core.failure import FailureCode
from pod_worker.core.outcome import Canceled, Failed, Succeeded
from pod_worker.core.payload import Payload
from pod_worker.process import oom_kills
from pod_worker.worker.capture import output_capture
from pod_worker.worker.isolation.attempt_tag import (
    AttemptTag,
    kill_unguarded,
    processes_with_tag,
    unguarded_processes,
)
from tests.worker.hostile import TIMEOUTS, Attempt, supervised

Db = Database[dict[str, Any]]

# From the request to the confirmed end: both timeouts, the guard's sweep, and slack for a loaded machine. The
# limit is 35 s with the default timeouts of 5 + 5 s.
CANCEL_SECONDS = TIMEOUTS.cancel_seconds + TIMEOUTS.kill_seconds + 5.0
MIB = 1 << 20

HOSTILE = {
    "holds the GIL in native code": "ctypes.PyDLL(None).sleep(600)",
    "deadlocks": "lock = threading.Lock(); lock.acquire(); lock.acquire()",
    "ignores every signal it can": """
for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
while True:
    time.sleep(600)
""",
    "stops itself": "os.kill(os.getpid(), signal.SIGSTOP)",
    "forks into new sessions and closes everything": """
for _ in range(4):
    if os.fork() == 0:
        os.setsid()
        if os.fork() > 0:
            os._exit(0)
        os.closerange(0, 64)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
time.sleep(600)
""",
    "spins in threads": """
for _ in range(8):
    threading.Thread(target=lambda: [None for _ in iter(int, 1)]).start()
""",
    "sends random bytes to its supervisor": """
while True:
    uplink.write(b'{"type":"outcome"' + os.urandom(2000).replace(b"\\n", b"") + b"\\n")
    time.sleep(0.001)
""",
}


@pytest.mark.parametrize("program", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_child_neither_loses_its_lease_nor_survives_a_cancel(
    db: Db, tmp_path: Path, program: str
) -> None:
    with supervised(db, tmp_path, program) as attempt:
        attempt.is_renewed()
        assert attempt.cancel() < CANCEL_SECONDS
        assert isinstance(attempt.result().outcome, Canceled)


MESSAGES = """
def send(**message):
    uplink.write(json.dumps(message).encode() + b"\\n")
def checkpoint(state, stage="Stage_1"):
    send(type="checkpoint", stage=stage, done=False, state=state)
    time.sleep(600)
"""
DEEP = 'uplink.write(b\'{"type":"checkpoint","stage":"s","done":false,"state":{"a":\' + b"[" * 100_000 + b"\\n")'
INVALID = {
    "a number beyond 64 bits": ("checkpoint({'n': 2**70})", "beyond 64 bits"),
    "a key with NUL": ("checkpoint({'a\\0': 1})", "without NUL"),
    "a state beyond the limit": ("checkpoint({'n': 'x' * (5 << 20)})", "at most 4194304"),
    "too deep for MongoDB": ("checkpoint({'n': eval('[' * 90 + ']' * 90)})", "levels deep"),
    "an empty stage name": ("checkpoint({}, stage='')", "stage name"),
    "a stage name that is a path": ("checkpoint({}, stage='a.b')", "stage name"),
    "an unknown failure code": (
        "send(type='outcome', kind='failed', code='NO_SUCH_CODE', message='m'); os._exit(1)",
        "unknown failure code 'NO_SUCH_CODE'",
    ),
    "a signal without a name": ("signal.signal(40, signal.SIG_DFL); os.kill(os.getpid(), 40)", "signal 40"),
}


@pytest.mark.parametrize(("program", "message"), INVALID.values(), ids=INVALID.keys())
def test_a_message_that_cannot_be_used_ends_the_run_with_a_named_failure_and_never_the_worker(
    db: Db, tmp_path: Path, program: str, message: str
) -> None:
    with supervised(db, tmp_path, MESSAGES + program) as attempt:
        outcome = attempt.result().outcome
    assert isinstance(outcome, Failed)
    assert message in outcome.failure.message
    assert attempt.document["status"] in ("FAILED", "QUEUED")
    assert "leaseToken" not in attempt.document


@pytest.mark.parametrize(
    "program",
    ["uplink.write(b'x' * (300 << 20))", DEEP, "uplink.write(b'\\xff\\xfe\\n' * 100_000)"],
    ids=["300 MB without a newline", "100 000 levels", "invalid UTF-8"],
)
def test_a_line_that_is_no_message_is_ignored_in_bounded_memory(db: Db, tmp_path: Path, program: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with supervised(db, tmp_path, f"{program}\nuplink.write(b'\\n')\nsucceed()") as attempt:
        assert isinstance(attempt.result().outcome, Succeeded)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 64 * 1024, f"the supervisor grew by {grown} KiB"


def test_a_run_whose_events_cannot_be_recorded_is_still_settled(db: Db, tmp_path: Path) -> None:
    with supervised(db, tmp_path, "print('hello', flush=True)\nsucceed()", emit=refuse) as attempt:
        assert isinstance(attempt.result().outcome, Succeeded)
    assert attempt.document["status"] == "COMPLETED"


def refuse(payload: Payload) -> str:
    raise OSError(28, "No space left on device")


def test_a_run_that_cannot_be_started_is_settled_with_a_named_failure(db: Db, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "r").write_text("a file in the place of the run's folder")
    attempt = Attempt(db, tmp_path, "succeed()")
    attempt.start()
    outcome = attempt.result().outcome
    assert isinstance(outcome, Failed)
    assert outcome.failure.code is FailureCode.INTERNAL
    assert attempt.document["status"] == "QUEUED"


def test_what_a_child_leaves_behind_ends_with_it(db: Db, tmp_path: Path) -> None:
    program = """
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
succeed()
"""
    with supervised(db, tmp_path, program) as attempt:
        assert isinstance(attempt.result().outcome, Succeeded)
        assert attempt.document["status"] == "COMPLETED"


def test_an_orphan_that_hides_from_the_sweep_does_not_delay_the_end_of_its_run(
    db: Db, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the guard killed and its tag removed it escapes; the run must still be retried."""
    monkeypatch.setattr("pod_worker.worker.attempt.supervisor.FINAL_OUTPUT_SECONDS", 0.2)
    program = """
hidden = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env={}, start_new_session=True)
print(hidden.pid, flush=True)
os.kill(os.getppid(), signal.SIGKILL)
time.sleep(600)
"""
    with supervised(db, tmp_path, program) as attempt:
        outcome = attempt.result().outcome
        os.kill(int(attempt.logs[0].message), signal.SIGKILL)
    assert isinstance(outcome, Failed)
    assert outcome.failure.code is FailureCode.CRASHED_SIGNAL
    assert attempt.document["status"] == "QUEUED"
    for thread in threading.enumerate():
        if thread.name == "output":  # it ends, and closes its pipe, when the orphan does
            thread.join(10)


def test_what_worker_and_guard_left_when_killed_together_is_distinguished_from_what_is_guarded(
    db: Db, tmp_path: Path
) -> None:
    """The next worker on the pod kills the first and must spare the second."""
    orphan = sleeping_process(AttemptTag("orphan", 1, tmp_path / "work"))
    try:
        with supervised(db, tmp_path, HOSTILE["forks into new sessions and closes everything"]) as attempt:
            attempt.wait_until(lambda: len(attempt.living()) >= 5)  # not the guard, which only root can inspect
            watched = set(attempt.living())
            found = set(unguarded_processes(tmp_path / "work"))
            attempt.cancel()
        assert orphan.pid in found
        assert not found & watched
    finally:
        orphan.kill()
        orphan.wait()


def test_a_second_worker_with_a_work_root_of_its_own_is_never_touched(tmp_path: Path) -> None:
    """Two stacks on one machine, or two test suites: each sweeps only what carries its own root."""
    tags = [AttemptTag("same-run", 1, tmp_path / name / "work") for name in ("first", "second")]
    first, second = (sleeping_process(tag) for tag in tags)
    try:
        assert kill_unguarded(tags[0].work_root) == [first.pid]
        assert first.wait(10) == -signal.SIGKILL
        assert second.poll() is None
        assert processes_with_tag(tags[1]) == [second.pid]
        assert processes_with_tag(tags[0]) == []
    finally:
        for process in (first, second):
            process.kill()
            process.wait()


def sleeping_process(tag: AttemptTag) -> subprocess.Popen[bytes]:
    """A process of an attempt without a guard, as it is left when worker and guard are killed together."""
    process = subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); import time; time.sleep(600)"],
        env={**os.environ, **tag.variables()},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    with process.stdout:
        process.stdout.readline()  # until then its environment may be its parent's
    return process


def test_a_flood_of_a_gigabyte_is_read_to_its_end_and_leaves_small_logs(db: Db, tmp_path: Path) -> None:
    program = """
chunk = (b"x" * 99 + b"\\n") * 10_000
for _ in range(1074):
    os.write(1, chunk)
os.write(1, b"the end\\n")
succeed()
"""
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with supervised(db, tmp_path, program) as attempt:
        assert isinstance(attempt.result().outcome, Succeeded)
    seconds = time.monotonic() - began
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    kept = sorted((tmp_path / "work" / "r").glob("output.*"))
    assert sum(path.stat().st_size for path in kept) <= 2 * output_capture.FILE_BYTES + MIB
    assert (tmp_path / "work" / "r" / "output.log").read_bytes().endswith(b"the end\n")
    assert len(attempt.logs) < 2 * output_capture.BURST_LINES + (1 + seconds) * output_capture.LINES_PER_SECOND
    assert any("lines of output skipped" in log.message for log in attempt.logs)
    assert grown < 32 * 1024, f"the supervisor grew by {grown} KiB"


def test_binary_output_and_a_line_without_end_are_bounded_text(db: Db, tmp_path: Path) -> None:
    program = """
os.write(1, os.urandom(3_000_000).replace(b"\\n", b"").replace(b"\\r", b""))
os.write(2, b"\\n\\xff\\xfe\\x00\\x1b[31m last words\\n")
succeed()
"""
    with supervised(db, tmp_path, program) as attempt:
        assert isinstance(attempt.result().outcome, Succeeded)
    assert attempt.logs[-1].message.endswith("last words")
    for log in attempt.logs:
        assert len(log.message) <= output_capture.LINE_CHARACTERS + len(" [line cut after 4000 bytes]")
        assert not set(log.message) & {chr(code) for code in (*range(9), *range(11, 32))}


@pytest.fixture
def memory_group() -> Iterator[Path | None]:
    """A cgroup with 64 MiB, or None where this user may not make one."""
    for root in (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")):
        group = root / f"pod-worker-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            name = "memory.limit_in_bytes" if (group / "memory.limit_in_bytes").exists() else "memory.max"
            (group / name).write_text(str(64 * MIB))
        except OSError:
            group.rmdir()
            continue
        yield group
        _remove(group)
        return
    yield None


def _remove(group: Path) -> None:
    """The kernel releases a cgroup a moment after its last process."""
    for _ in range(200):
        try:
            group.rmdir()
            return
        except OSError:
            threading.Event().wait(0.02)


def test_a_child_that_uses_all_memory_is_named_and_no_other_process_dies(
    db: Db, tmp_path: Path, memory_group: Path | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a cgroup the kernel's OOM killer ends it; without one, a limit of the process."""
    if memory_group:  # the worker of this test is outside the group, that of a pod is inside
        counters = (memory_group / name for name in ("memory.events", "memory.oom_control"))
        monkeypatch.setattr(oom_kills, "counter_file", lambda: next(file for file in counters if file.exists()))
    limit = (
        f"open({str(memory_group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))"
        if memory_group
        else "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 28, 1 << 28))"
    )
    program = f"{limit}\nhoard = []\nwhile True:\n    hoard.append(bytearray(b'x') * 1_000_000)\n"
    with supervised(db, tmp_path, program) as attempt:
        outcome = attempt.result().outcome
    assert isinstance(outcome, Failed)
    if memory_group:
        assert outcome.failure.code is FailureCode.HOST_OOM
    else:
        assert "MemoryError" in (outcome.failure.traceback or "")
    assert attempt.document["status"] == "QUEUED", "another pod may have more memory"
