"""Child processes: what their death says, how they are stopped, and that none outlives us."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from pod_worker.local.errors import ChildDiedError, NotReadyError, StopRequestedError
from pod_worker.local.process import LOOPBACK, ChildProcess, describe_exit, free_port, start_listening

SLEEP = "import time; time.sleep(600)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True);" + SLEEP
WITH_GRANDCHILD = (
    f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {SLEEP!r}]).pid, flush=True);"
)
OWNER = f"""
import sys
from pathlib import Path
from pod_worker.local.process import LOOPBACK, ChildProcess
child = ChildProcess("child", [sys.executable, "-c", {SLEEP!r}], Path(sys.argv[1]))
child.start()
print(child.pid, flush=True)
sys.stdin.read()
"""


def python(tmp_path: Path, code: str) -> ChildProcess:
    return ChildProcess("child", [sys.executable, "-c", code], tmp_path / "child.log")


def test_death_before_ready_shows_code_and_last_lines(tmp_path: Path) -> None:
    child = python(tmp_path, "print('no config'); raise SystemExit(3)")
    child.start()

    with pytest.raises(
        ChildDiedError, match=r"child ended with exit code 3\.\nLast lines of .*child.log:\n  no config"
    ):
        child.wait_until(lambda: False, timeout_seconds=20)


def test_ready_is_not_believed_of_a_dead_child(tmp_path: Path, eventually) -> None:
    child = python(tmp_path, "pass")
    child.start()
    eventually(lambda: not child.is_running())

    with pytest.raises(ChildDiedError):
        child.wait_until(lambda: True, timeout_seconds=1)


def test_slow_child_is_reported_with_its_log(tmp_path: Path) -> None:
    child = python(tmp_path, SLEEP)
    child.start()

    with pytest.raises(NotReadyError, match=r"not ready after 0.1 s"):
        child.wait_until(lambda: False, timeout_seconds=0.1)

    child.kill()


def test_stop_request_ends_the_wait(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    child = python(tmp_path, SLEEP)
    child.start()

    with pytest.raises(StopRequestedError):
        child.wait_until(lambda: False, timeout_seconds=20, stop=stop)

    child.kill()


def test_stop_is_term_first(tmp_path: Path) -> None:
    child = python(tmp_path, SLEEP)
    child.start()

    assert child.stop() == -signal.SIGTERM
    assert child.stop() == -signal.SIGTERM


def test_stop_kills_what_does_not_listen(tmp_path: Path, eventually) -> None:
    child = python(tmp_path, DEAF)
    child.start()
    eventually(lambda: "  deaf" in child.log_tail())

    assert child.stop(grace_seconds=0.1) == -signal.SIGKILL


@pytest.mark.parametrize("then", [SLEEP, "pass"], ids=["stopped", "ended alone"])
def test_grandchildren_go_with_the_child(tmp_path: Path, eventually, is_gone, then: str) -> None:
    child = python(tmp_path, WITH_GRANDCHILD + then)
    child.start()
    eventually(lambda: child.log_path.read_text().endswith("\n"))
    grandchild = int(child.log_path.read_text())

    if then == SLEEP:
        child.stop()

    eventually(lambda: not child.is_running())
    eventually(lambda: is_gone(grandchild))


def test_child_started_from_a_short_thread_outlives_that_thread(tmp_path: Path) -> None:
    """The kernel's parent-death signal watches the thread that forked, not the process."""
    child = python(tmp_path, SLEEP)
    thread = threading.Thread(target=child.start)
    thread.start()
    thread.join()
    while Path(f"/proc/self/task/{thread.native_id}").exists():
        pass

    assert psutil.Process(child.pid).is_running()
    with pytest.raises(NotReadyError):
        child.wait_until(lambda: False, timeout_seconds=0.2)
    child.kill()


def test_missing_executable_is_an_error_in_every_thread(tmp_path: Path) -> None:
    errors: list[Exception] = []

    def start() -> None:
        try:
            ChildProcess("ghost", [str(tmp_path / "ghost")], tmp_path / "ghost.log").start()
        except ChildDiedError as error:
            errors.append(error)

    start()
    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert ["ghost could not be started: [Errno 2]" in str(error) for error in errors] == [True, True]


def test_child_dies_when_its_owner_is_killed(tmp_path: Path, eventually, is_gone) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path / "log")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert not is_gone(pid)
        owner.kill()

    eventually(lambda: is_gone(pid))


def test_environment_is_the_one_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_THE_PARENT", "1")
    code = "import os; print(sorted(k for k in os.environ if k.startswith('OF_')))"
    log = tmp_path / "log"
    child = ChildProcess("child", [sys.executable, "-c", code], log, env={"OF_THE_CHILD": "1"})
    child.start()
    with pytest.raises(ChildDiedError):
        child.wait_until(lambda: False, timeout_seconds=20)

    assert log.read_text().strip() == "['OF_THE_CHILD']"


def test_log_of_the_run_before_is_kept_once(tmp_path: Path, eventually) -> None:
    for text in ("one", "two", "three"):
        child = python(tmp_path, f"print({text!r})")
        child.start()
        eventually(lambda child=child: not child.is_running())

    assert {path.name: path.read_text().strip() for path in tmp_path.iterdir()} == {
        "child.log": "three",
        "child.log.1": "two",
    }


def test_free_port_stays_reserved_while_its_server_is_down() -> None:
    """A chaos run's control plane was killed and started again; its workers could meet another stack meanwhile."""
    port = free_port()
    for _ in range(2):
        with socket.create_server((LOOPBACK, port)):
            pass
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind((LOOPBACK, port))


def test_random_port_that_was_taken_meanwhile_is_chosen_again(tmp_path: Path) -> None:
    ports: list[int] = []

    def make(port: int) -> ChildProcess:
        ports.append(port)
        return python(
            tmp_path, "print('Address already in use'); raise SystemExit(1)" if len(ports) == 1 else SLEEP
        )

    child, port = start_listening(make, lambda child, port: len(ports) > 1, 0, 20)

    child.kill()
    assert ports == [ports[0], port]


@pytest.mark.parametrize("is_taken_first", [True, False])
def test_port_that_may_move_is_left_when_another_program_has_it_or_takes_it(
    tmp_path: Path, is_taken_first: bool
) -> None:
    ports: list[int] = []
    wanted = free_port()

    def make(port: int) -> ChildProcess:
        ports.append(port)
        return python(
            tmp_path, "print('Address already in use'); raise SystemExit(1)" if port == wanted else SLEEP
        )

    with socket.create_server((LOOPBACK, wanted)) if is_taken_first else contextlib.nullcontext():
        child, port = start_listening(make, lambda child, port: port != wanted, wanted, 20, may_move=True)

    child.kill()
    assert ports == [port] if is_taken_first else [wanted, port]


def test_port_asked_for_by_number_is_never_replaced(tmp_path: Path) -> None:
    ports: list[int] = []

    def make(port: int) -> ChildProcess:
        ports.append(port)
        return python(tmp_path, "print('Address already in use'); raise SystemExit(1)")

    wanted = free_port()
    with pytest.raises(ChildDiedError, match="already in use"):
        start_listening(make, lambda child, port: False, wanted, 20)

    assert ports == [wanted]


def test_exit_is_described_in_words() -> None:
    assert describe_exit(2) == "exit code 2"
    assert describe_exit(-signal.SIGSEGV) == "signal SIGSEGV"
    assert describe_exit(-200) == "signal 200"


def test_signal_to_a_gone_child_goes_nowhere(tmp_path: Path) -> None:
    child = python(tmp_path, SLEEP)
    child.signal(signal.SIGTERM)
    child.start()
    child.kill()

    child.signal(signal.SIGTERM)

    assert child.exit_code() == -signal.SIGKILL
