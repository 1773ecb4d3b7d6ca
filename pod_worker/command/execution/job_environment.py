"""The prepared environment of a job: interpreter and setup, cached on the pod."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pod_worker.command.execution import changed_files, interpreter
from pod_worker.command.execution.argv import argv_of
from pod_worker.command.execution.cache_folder import CacheFolders
from pod_worker.command.execution.environment import with_programs
from pod_worker.command.execution.failure import failure_of
from pod_worker.command.execution.folders import JobFolders
from pod_worker.command.execution.process import CommandProcess
from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.stop_signal import TimedStopSignal

LAYOUT = 1  # of a cached environment; a change makes all earlier ones unused
ENVIRONMENTS = ".environments"  # below the work root; no run's folder begins with a dot


class PreparedEnvironment:
    """What the command's variables are completed with."""

    def __init__(self, programs: list[Path], variables: Mapping[str, str], folders: list[Path]) -> None:
        """`folders`: with the programs of this job alone, and what they load."""
        self._programs, self._variables = programs, variables
        self.folders = folders

    def complete(self, env: Mapping[str, str]) -> dict[str, str]:
        modules = {
            name: os.pathsep.join([value, *filter(None, [env.get(name)])]) if name == "PYTHONPATH" else value
            for name, value in self._variables.items()
        }
        return with_programs({**env, **modules}, *self._programs)


@contextmanager
def prepared(
    folders: JobFolders,
    *,
    python: str,
    setup: str,
    lock_files: list[str],
    env: Mapping[str, str],
    stop: TimedStopSignal,
    log: Callable[[str], None],
) -> Iterator[PreparedEnvironment]:
    """The environment, built or from the cache; it stays until the context ends.

    `env` has the variables of setup. Raises RunError: ENVIRONMENT for an interpreter that cannot be had, and the
    failure of setup.
    """
    modules = interpreter.provide_modules(folders.modules)
    if not interpreter.needs_venv(python, setup):
        programs = interpreter.provide_programs(folders.programs)
        yield PreparedEnvironment(programs, {"PYTHONPATH": modules}, [folders.programs])
        return
    key = environment_key(folders.work, python, setup, lock_files)
    began = time.monotonic()

    def build(folder: Path) -> None:
        log(f"environment {key[:12]}: not in the cache, preparing it")
        interpreter.create_venv(python, folder, env)
        before = changed_files.state_of(folders.work)
        if setup.strip():
            _run_setup(setup, folders.work, _environment(folder, modules).complete(env), stop)
        changed_files.save(folders.work, before, folder)

    with CacheFolders(folders.root.parent / ENVIRONMENTS).used(key, build, stop) as (folder, was_there):
        if was_there:
            changed_files.apply(folder, folders.work)
        how = "from the cache" if was_there else "prepared"
        log(f"environment {key[:12]}: {how} in {time.monotonic() - began:.1f} s")
        yield _environment(folder, modules)


def _environment(folder: Path, modules: str) -> PreparedEnvironment:
    variables = {**interpreter.venv_variables(folder), "PYTHONPATH": modules}
    return PreparedEnvironment([folder / interpreter.VENV / "bin"], variables, interpreter.folders_of(folder))


def environment_key(work: Path, python: str, setup: str, lock_files: list[str]) -> str:
    """SHA-256 of all that decides an environment.

    Raises RunError for a lock file that is not there.
    """
    parts = [str(LAYOUT), interpreter.identity(python), setup]
    for name in sorted(lock_files):
        try:
            parts += [name, hashlib.sha256((work / name).read_bytes()).hexdigest()]
        except OSError as error:
            raise RunError(
                FailureCode.INVALID_INPUT,
                f"lock_files names {name!r}, which the workdir lacks ({error.strerror}); correct the name",
            ) from None
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _run_setup(setup: str, work: Path, env: Mapping[str, str], stop: TimedStopSignal) -> None:
    end = CommandProcess(argv_of(setup), work, env).wait(stop)
    if end.was_stopped:
        stop.check()
    if not end.is_ok:
        raise failure_of(end, "setup")
