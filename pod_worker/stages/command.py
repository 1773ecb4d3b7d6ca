"""The stage `command`: files, environment, program and end of a job."""

from __future__ import annotations

import os
from pathlib import Path

from pod_worker.command.execution.argv import argv_of
from pod_worker.command.execution.failure import failure_of
from pod_worker.command.execution.process import CommandProcess
from pod_worker.command.params import CommandParams, parse
from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.run import Json
from pod_worker.core.stage import Context, Stage

STAGE = "command"
WORK_FOLDER = "work"  # the workdir, below the run's folder


def run_command(context: Context) -> dict[str, Json]:
    params = parse(context.run.params)
    work = context.work_dir / WORK_FOLDER
    work.mkdir(exist_ok=True)
    end = _start(params, work).wait(context.stop, lambda: None)
    if end.is_ok:
        return {"exit_code": 0}
    context.stop.check()  # what a job reports while it is stopped is no failure of its own
    raise failure_of(end)


def _start(params: CommandParams, work: Path) -> CommandProcess:
    argv = argv_of(params.run)
    try:
        return CommandProcess(argv, work, dict(os.environ))
    except OSError as error:
        raise RunError(
            FailureCode.USER_ERROR, f"the command {argv[0]!r} cannot be started: {error.strerror}"
        ) from error


COMMAND = Stage(STAGE, run_command)
