"""The stack as a person meets it: real signals to a real process, and nothing left behind."""

from __future__ import annotations

import io
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from pod_worker.local.description import StackDescription, read_description
from pod_worker.local.errors import (
    ChildDiedError,
    FolderInUseError,
    LocalStackError,
    NotReadyError,
    StopRequestedError,
)
from pod_worker.local.mongod import Mongod, require_mongodb
from pod_worker.local.s3 import ObjectStoreServer, connect
from pod_worker.local.stack import Stack, stop_on_signals

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
SAY_TERM = """
import signal, sys, time
def on_term(number, frame):
    with open(sys.argv[1], "a") as file: file.write(sys.argv[2] + " ")
    time.sleep(float(sys.argv[3]))
    raise SystemExit(0)
signal.signal(signal.SIGTERM, on_term)
print("ready", flush=True)
time.sleep(600)
"""
WAIT_FOR_BOTH = """
    while len(open(sys.argv[1]).read().split()) < 2: time.sleep(0.01)
    time.sleep(0.3 if sys.argv[2] == "worker-1" else 0)
"""
UP = f"""
import sys, threading
from pathlib import Path
from pod_worker.local.stack import Stack, stop_on_signals
stop = threading.Event()
with stop_on_signals(stop), Stack(Path(sys.argv[1]), stop=stop) as stack:
    stack.start_process("sleeper", {SLEEP!r})
    stack.publish(control_plane_url="http://127.0.0.1:1", token="t0ken")
    stack.watch()
"""


@pytest.fixture
def given(mongod: Mongod, s3_server: ObjectStoreServer, tmp_path: Path) -> Iterator[Stack]:
    """A stack on the session's servers, so that it starts at once."""
    with Stack(tmp_path, mongodb_url=mongod.url, s3=s3_server.access) as stack:
        yield stack


@pytest.fixture
def up(tmp_path: Path, eventually) -> Iterator[tuple[subprocess.Popen[bytes], StackDescription]]:
    """A stack with everything in it, in a process of its own."""
    with subprocess.Popen([sys.executable, "-c", UP, str(tmp_path)]) as process:
        eventually(lambda: process.poll() is not None or _is_published(tmp_path))
        description = read_description(tmp_path)
        assert description is not None
        yield process, description
        process.kill()


def _is_published(data_dir: Path) -> bool:
    description = read_description(data_dir)
    return description is not None and description.token is not None


def _says_ready(log: Path) -> bool:
    return "ready" in log.read_text()


def test_description_is_private_complete_and_without_the_s3_secret(up, tmp_path: Path) -> None:
    _, description = up
    path = tmp_path / "stack.json"

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(description.pids) == ["mongod", "s3", "sleeper", "stack"]
    assert description.mongodb_url.startswith("mongodb://127.0.0.1:")
    assert description.token == "t0ken"
    assert description.s3_keys_file is not None
    assert json.loads(Path(description.s3_keys_file).read_text())["secret_key"] not in path.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_stops_everything_cleanly(up, tmp_path: Path, number: int, is_gone) -> None:
    process, description = up

    process.send_signal(number)

    assert process.wait(20) == 0
    assert all(is_gone(pid) for pid in description.pids.values())
    assert not (tmp_path / "stack.json").exists()
    assert "shutting down" in (tmp_path / "mongodb" / "member0.log").read_text().lower()


def test_sigkill_leaves_nothing_running_and_the_folder_usable(up, tmp_path: Path, eventually, is_gone) -> None:
    process, description = up

    process.kill()
    process.wait(20)

    eventually(lambda: all(is_gone(pid) for pid in description.pids.values()))
    assert (tmp_path / "stack.json").exists()
    assert read_description(tmp_path) is None
    with Stack(tmp_path) as again:
        assert again.describe().pids.keys() == {"mongod", "s3", "stack"}


def test_second_stack_on_the_folder_is_refused_and_does_no_harm(given: Stack, tmp_path: Path) -> None:
    second = Stack(tmp_path)
    with pytest.raises(FolderInUseError, match=f"in use by process {os.getpid()}"):
        second.start()
    second.stop()

    assert read_description(tmp_path) == given.describe()


def test_children_stop_in_reverse_order(given: Stack, tmp_path: Path, eventually) -> None:
    order = tmp_path / "order"
    for name in ("control", "worker"):
        argv = [sys.executable, "-c", SAY_TERM, str(order), name, "0.1"]
        log = tmp_path / "logs" / f"{name}.log"
        given.start_process(name, argv, ready=partial(_says_ready, log))

    given.stop()

    assert order.read_text() == "worker control "


def test_children_of_one_role_stop_at_the_same_time(given: Stack, tmp_path: Path) -> None:
    """Each would wait for the other's signal for ever, were they stopped one after the other.

    The slower one must not be asked again, which a worker would take for "now, by force".
    """
    order = tmp_path / "order"
    argv = [sys.executable, "-c", SAY_TERM.replace("time.sleep(float(sys.argv[3]))", WAIT_FOR_BOTH), str(order)]
    children = []
    for name in ("worker-1", "worker-2"):
        log = tmp_path / "logs" / f"{name}.log"
        ready = partial(_says_ready, log)
        children.append(given.start_process(name, [*argv, name], role="worker", grace_seconds=20, ready=ready))

    given.stop()

    assert [child.exit_code() for child in children] == [0, 0]
    assert sorted(order.read_text().split()) == ["worker-1", "worker-2"]


def test_watch_names_the_child_that_ended(given: Stack) -> None:
    given.start_process("steady", SLEEP)
    given.start_process("brief", [sys.executable, "-c", "print('bye'); raise SystemExit(7)"])

    exited = given.watch(timeout_seconds=20)

    assert exited is not None
    assert (exited.name, exited.code) == ("brief", 7)
    assert "bye" in exited.log_tail
    assert given.remove("brief") == 7
    assert given.watch(timeout_seconds=0.3) is None
    assert given.describe().pids.keys() == {"stack", "steady"}


def test_watch_ends_with_the_stop_event(given: Stack) -> None:
    timer = threading.Timer(0.2, given.stop_event.set)
    timer.start()

    assert given.watch() is None
    timer.join()


def test_watch_sees_a_server_die(tmp_path: Path, mongod: Mongod) -> None:
    with Stack(tmp_path, mongodb_url=mongod.url) as stack:
        os.kill(stack.describe().pids["s3"], signal.SIGKILL)

        exited = stack.watch(timeout_seconds=20)

        assert exited is not None
        assert (exited.name, exited.code) == ("s3", -signal.SIGKILL)


def test_child_that_is_never_ready_is_not_left_running(given: Stack, tmp_path: Path, is_gone, eventually) -> None:
    pid_file = tmp_path / "pid"
    code = f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(600)"

    def not_ready() -> bool:
        eventually(lambda: pid_file.exists() and pid_file.read_text() != "")
        return False

    with pytest.raises(NotReadyError):
        given.start_process("slow", [sys.executable, "-c", code], ready=not_ready, ready_seconds=0.1)

    assert is_gone(int(pid_file.read_text()))
    assert given.describe().pids == {"stack": os.getpid()}


def test_child_that_dies_while_starting_shows_its_last_words(given: Stack) -> None:
    with pytest.raises(ChildDiedError, match="no such database"):
        given.start_process(
            "control", [sys.executable, "-c", "raise SystemExit('no such database')"], ready=lambda: False
        )


def test_two_children_cannot_share_a_name(given: Stack) -> None:
    given.start_process("worker", SLEEP)

    with pytest.raises(LocalStackError, match="already has a child called worker"):
        given.start_process("worker", SLEEP)


def test_stop_while_starting_leaves_nothing_and_frees_the_folder(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()

    with pytest.raises(StopRequestedError):
        Stack(tmp_path, stop=stop).start()

    with Stack(tmp_path) as stack:
        assert stack.describe().pids


def test_given_servers_are_used_and_left_alone(
    mongod: Mongod, s3_server: ObjectStoreServer, tmp_path: Path
) -> None:
    access = replace(s3_server.access, bucket="given-to-the-stack")
    with Stack(tmp_path, mongodb_url=mongod.url_for("given"), s3=access) as stack:
        assert stack.mongodb_url.startswith(mongod.url_for("given").partition("?")[0])
        assert stack.s3 == access
        assert stack.describe().pids == {"stack": os.getpid()}
        assert stack.describe().s3_keys_file is None

    assert mongod.primary() is not None
    assert s3_server.process.is_running()


def test_wrong_given_server_stops_the_start(tmp_path: Path, s3_server: ObjectStoreServer) -> None:
    url = "mongodb://ann:hidden@127.0.0.1:port/x"

    with pytest.raises(LocalStackError, match="is not a MongoDB connection string") as caught:
        Stack(tmp_path, mongodb_url=url, s3=s3_server.access).start()

    assert "hidden" not in str(caught.value)
    assert not (tmp_path / "stack.json").exists()


def test_second_signal_acts_as_without_us() -> None:
    stop = threading.Event()
    at_first = signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.getsignal(signal.SIGINT)

    with stop_on_signals(stop):
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)

    assert signal.getsignal(signal.SIGINT) is before
    signal.signal(signal.SIGINT, at_first)


def test_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stop = threading.Event()
        with stop_on_signals(stop):
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.is_set()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_damaged_description_names_the_fix(given: Stack, tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text("{}")

    with pytest.raises(LocalStackError, match="Fix: stop that stack"):
        read_description(tmp_path)


def test_a_data_folder_of_any_name_works(tmp_path: Path) -> None:
    folder = tmp_path / ("données à 100% $HOME;x" + "y" * 100) / "C:é'\"&"
    with Stack(folder) as stack:
        with connect(stack.s3) as client:
            client.put_object(stack.s3.bucket, "a b", io.BytesIO(b"x"), 1)
            assert client.get_object(stack.s3.bucket, "a b").data == b"x"
        require_mongodb(stack.mongodb_url)
        assert read_description(folder) == stack.describe()
    assert {path.name for path in tmp_path.iterdir()} == {folder.parent.name}
