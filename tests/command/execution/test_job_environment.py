"""The environment of a job: prepared once, whole or not at all, and found again."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pod_worker.command.execution.cache_folder import MARKER, CacheFolders
from pod_worker.command.execution.environment import setup_environment
from pod_worker.command.execution.folders import JobFolders
from pod_worker.command.execution.job_environment import ENVIRONMENTS, PreparedEnvironment, prepared
from pod_worker.command.execution.process import CommandProcess
from pod_worker.core.failure import CancelRequested, FailureCode, RunError
from pod_worker.stages.context import StopFlag

SYSTEM_PYTHON = "/usr/bin/python3"  # without pod_worker


class Pod:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.logs: list[str] = []
        self.folders = self.attempt("r")

    def attempt(self, run: str, **files: str) -> JobFolders:
        folder = self.root / run
        folder.mkdir(exist_ok=True)
        self.folders = JobFolders(folder)
        self.folders.clear()
        for name, text in files.items():
            (self.folders.work / name).write_text(text)
        return self.folders

    @contextmanager
    def environment(self, **more: Any) -> Iterator[PreparedEnvironment]:
        given = {
            "python": "",
            "setup": "",
            "lock_files": [],
            "env": setup_environment(os.environ, {}),
            "stop": StopFlag(),
            "log": self.logs.append,
        } | more
        with prepared(self.folders, **given) as found:
            yield found

    def prepare(self, **more: Any) -> None:
        with self.environment(**more):
            pass

    def run(self, text: str, environment: PreparedEnvironment) -> int | None:
        env = environment.complete(dict(os.environ))
        return CommandProcess(["bash", "-ec", text], self.folders.work, env).wait(StopFlag()).code

    @property
    def environments(self) -> list[Path]:
        return [path for path in (self.root / ENVIRONMENTS).iterdir() if (path / MARKER).exists()]


@pytest.fixture
def pod(tmp_path: Path) -> Pod:
    return Pod(tmp_path)


COUNTED = 'echo x >> "$COUNT"; echo made > made; echo more >> given; mkdir -p sub/d; ln -s made sub/l; rm -f old'


def test_setup_runs_once_and_its_files_are_there_the_second_time(pod: Pod, tmp_path: Path) -> None:
    env = setup_environment(os.environ, {"COUNT": str(tmp_path / "count")})
    for run in ("a", "b"):
        work = pod.attempt(run, given="1\n", old="x").work
        pod.prepare(setup=COUNTED, env=env)
        assert (work / "made").read_text() == "made\n"
        assert (work / "given").read_text() == "1\nmore\n"
        assert (work / "sub" / "d").is_dir()
        assert os.readlink(work / "sub" / "l") == "made"
        assert not (work / "old").exists()
    assert (tmp_path / "count").read_text() == "x\n"
    assert "from the cache" in pod.logs[-1]


def test_text_of_setup_lock_files_and_interpreter_decide(pod: Pod) -> None:
    for setup, lock in (("true", "1"), ("true", "2"), ("true ", "1"), ("true", "1")):
        pod.attempt("r", lock=lock)
        pod.prepare(setup=setup, lock_files=["lock"])
    assert len(pod.environments) == 3


def test_a_missing_lock_file_is_named(pod: Pod) -> None:
    with pytest.raises(RunError, match="'absent'"):
        pod.prepare(setup="true", lock_files=["absent"])


def test_a_setup_that_failed_or_was_killed_leaves_no_environment(pod: Pod, tmp_path: Path) -> None:
    env = setup_environment(os.environ, {"FLAG": str(tmp_path / "flag")})
    setup = 'echo half > half; test -e "$FLAG" || exit 4'
    with pytest.raises(RunError, match="setup ended with exit code 4") as caught:
        pod.prepare(setup=setup, env=env)
    assert caught.value.code is FailureCode.USER_ERROR
    assert pod.environments == []
    [half] = (tmp_path / ENVIRONMENTS).iterdir()
    (half / "rubbish").touch()  # as a killed worker leaves it
    (tmp_path / "flag").touch()
    pod.attempt("r")
    pod.prepare(setup=setup, env=env)
    assert pod.environments == [half]
    assert not (half / "rubbish").exists()


def test_setup_installs_into_a_venv_above_the_packages_of_the_worker(pod: Pod) -> None:
    setup = "python -c 'import sys; print(sys.prefix)' > prefix; python -c 'import msgspec'"
    with pod.environment(setup=setup) as environment:
        assert Path((pod.folders.work / "prefix").read_text().strip()).is_relative_to(pod.root / ENVIRONMENTS)
        assert (
            pod.run(
                "python -c 'import msgspec, pod_worker, sys; assert sys.prefix != sys.base_prefix'", environment
            )
            == 0
        )


def test_a_venv_has_pod_worker_and_nothing_else_of_the_worker(pod: Pod) -> None:
    with pod.environment(python="venv") as environment:
        assert pod.run("python -c 'import pod_worker.report, pod_worker.integrations'", environment) == 0
        assert pod.run("python -c 'import msgspec'", environment) == 1
        assert pod.run("test $(command -v python) = $VIRTUAL_ENV/bin/python", environment) == 0


def test_a_python_of_the_system_has_the_module_to_report_with_and_nothing_else(pod: Pod) -> None:
    program = (
        "import importlib.util, os, pathlib; from pod_worker import report\n"
        "os.environ['POD_WORKER_EVENTS'] = 'events'; report.metric('loss', 0.5); report.checkpoint()\n"
        "assert pathlib.Path('events').read_text().count('\\n') == 2\n"
        "assert importlib.util.find_spec('pod_worker.core') is None"
    )
    (pod.folders.work / "train.py").write_text(program)
    with pod.environment() as environment:
        assert pod.run(f"{SYSTEM_PYTHON} train.py", environment) == 0


def test_an_installed_pod_worker_is_not_hidden(pod: Pod, tmp_path: Path) -> None:
    installed = tmp_path / "installed" / "pod_worker"
    installed.mkdir(parents=True)
    (installed / "__init__.py").touch()
    (installed / "core.py").touch()
    with pod.environment() as environment:
        command = f"PYTHONPATH=$PYTHONPATH:{installed.parent} {SYSTEM_PYTHON} -c 'import pod_worker.core'"
        assert pod.run(command, environment) == 0


def test_what_an_earlier_program_did_to_the_module_is_undone(pod: Pod) -> None:
    pod.prepare()
    module = pod.folders.modules / "pod_worker" / "report.py"
    module.write_text("broken")
    pod.prepare()
    assert "def metric" in module.read_text()


def test_without_setup_the_interpreter_is_the_workers(pod: Pod) -> None:
    with pod.environment() as environment:
        assert pod.run(f"test $(python -c 'import sys; print(sys.prefix)') = {sys.prefix}", environment) == 0
    assert not (pod.root / ENVIRONMENTS).exists()


@pytest.mark.parametrize("word", ["uv", "uv:3.12", "3.99"])
def test_an_interpreter_that_cannot_be_had_is_named_with_the_fix(pod: Pod, word: str) -> None:
    env = setup_environment({"PATH": str(pod.root)}, {})
    with pytest.raises(RunError, match="install it in the image") as caught:
        pod.prepare(python=word, env=env)
    assert caught.value.code is FailureCode.ENVIRONMENT


# ── the folders of the cache ────────────────────────────────────────────────────────────────────────────────


def test_two_attempts_at_once_build_once(tmp_path: Path) -> None:
    started, go, built, seen = threading.Event(), threading.Event(), [], []

    def build(folder: Path) -> None:
        started.set()
        built.append(folder)
        assert go.wait(60)
        (folder / "file").touch()

    def use() -> None:
        with CacheFolders(tmp_path / "c").used("k", build, StopFlag()) as (folder, _):
            seen.append((folder / "file").exists())

    threads = [threading.Thread(target=use) for _ in range(3)]
    threads[0].start()
    assert started.wait(60)
    for each in threads[1:]:
        each.start()
    go.set()
    for each in threads:
        each.join(60)
    assert len(built) == 1
    assert seen == [True] * 3


def test_who_waits_for_another_builder_obeys_a_stop(tmp_path: Path) -> None:
    stop, entered = StopFlag(), threading.Event()

    def build(_: Path) -> None:
        if entered.is_set():
            pytest.fail("built twice at once")
        entered.set()
        stop.request(CancelRequested)
        with pytest.raises(CancelRequested), cache.used("k", build, stop):
            pass

    cache = CacheFolders(tmp_path / "c")
    with cache.used("k", build, StopFlag()):
        pass


def test_the_oldest_are_evicted_and_none_that_is_used(tmp_path: Path) -> None:
    cache = CacheFolders(tmp_path / "c", kept_folders=2)
    with cache.used("a", lambda folder: None, StopFlag()) as (first, _):
        for number, name in enumerate("bcd"):
            with cache.used(name, lambda folder: None, StopFlag()) as (folder, _):
                pass
            os.utime(folder / MARKER, (number + 1, number + 1))
        os.utime(first / MARKER, (0, 0))
        with cache.used("e", lambda folder: None, StopFlag()):
            pass
        assert {path.name for path in (tmp_path / "c").iterdir()} == {"a", "d", "e"}


def test_the_size_is_bounded_too(tmp_path: Path) -> None:
    cache = CacheFolders(tmp_path / "c", kept_bytes=150_000)
    for number, name in enumerate("abc"):
        with cache.used(name, lambda folder: (folder / "x").write_bytes(b"x" * 100_000) and None, StopFlag()) as (
            folder,
            _,
        ):
            pass
        os.utime(folder / MARKER, (number + 1, number + 1))
    assert {path.name for path in (tmp_path / "c").iterdir()} == {"c"}
