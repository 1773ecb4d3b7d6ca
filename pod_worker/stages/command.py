"""The stage `command`: files, environment, program, checkpoints and end of a job."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pod_worker.command.execution.argv import argv_of
from pod_worker.command.execution.environment import job_environment, setup_environment
from pod_worker.command.execution.failure import failure_of, start_failure
from pod_worker.command.execution.folders import JobFolders
from pod_worker.command.execution.git_checkout import check_out
from pod_worker.command.execution.job_environment import PreparedEnvironment, prepared
from pod_worker.command.execution.process import CommandEnd, CommandProcess
from pod_worker.command.execution.sandboxed import inherited_by_sandbox, prepare_folders, run_sandboxed
from pod_worker.command.params import CommandParams, parse
from pod_worker.command.reports.events_file import EventsFileReader
from pod_worker.command.reports.tensorboard import TensorBoardReader
from pod_worker.core.execution import ProgramRunner
from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.run import Json
from pod_worker.core.stage import Context, Stage
from pod_worker.snapshots.outputs import OutputUploader
from pod_worker.snapshots.snapshot_store import SnapshotStore

STAGE = "command"


def run_command(context: Context) -> dict[str, Json]:
    params = parse(context.run.params)
    folders = JobFolders(context.work_dir, params.checkpoint_dir)
    runner = _open_sandbox(context) if params.sandbox else None
    if runner is not None:
        prepare_folders(folders, runner.remove)
    folders.clear()
    _fill_workdir(context, params, folders)
    folders.create()
    snapshots = SnapshotStore(
        context,
        folders.checkpoints,
        params.checkpoint_every,
        params.keep_checkpoints,
        keep_initial_files=bool(params.checkpoint_dir),
    )
    is_resumed = snapshots.restore()
    outputs = OutputUploader(context, folders.work, params.outputs, folders.outputs)
    with (
        prepared(
            folders,
            python=params.python,
            setup=params.setup,
            lock_files=params.lock_files,
            env=setup_environment(os.environ, params.envs),
            stop=context.stop,
            log=context.log,
        ) as environment,
        _saving(snapshots, outputs),
        EventsFileReader(folders.events, context, snapshots.request_snapshot),
        TensorBoardReader(_event_folders(params, folders), context, params.tensorboard),
    ):
        end = _execute(context, params, folders, environment, runner, is_resumed=is_resumed)
    snapshots.snapshot_now("drain" if end.was_stopped else "end")
    if end.was_stopped:
        # Also after exit code 0: a program that saved its state and left in time is not finished.
        context.stop.check()
    outputs.finish(is_failed=not end.is_ok)
    if not end.is_ok:
        raise failure_of(end)
    return {"exit_code": 0, **snapshots.state}


def _open_sandbox(context: Context) -> ProgramRunner:
    """Before any file is fetched: a machine below the floor is refused at once."""
    runner = context.open_sandbox()
    if not isinstance(runner, ProgramRunner):
        raise RunError(FailureCode.INTERNAL, "this sandbox runs no commands")
    context.log(f"sandbox: {', '.join(runner.layers)}", layers=list(runner.layers))
    return runner


def _fill_workdir(context: Context, params: CommandParams, folders: JobFolders) -> None:
    source = params.workdir
    if source is None:
        return
    if source.git is not None:
        env = setup_environment(os.environ, {})
        check_out(source.git, source.commit or "", folders.work, env, context.stop)
    elif source.manifest is not None:
        context.fetch_workdir(source.manifest, folders.work)


def _event_folders(params: CommandParams, folders: JobFolders) -> list[Path]:
    """Where TensorBoard files are looked for."""
    return [folders.outputs, *([folders.work / params.tensorboard] if params.tensorboard else [])]


@contextmanager
def _saving(snapshots: SnapshotStore, outputs: OutputUploader) -> Iterator[None]:
    """Checkpoints and outputs leave the pod while the program runs."""
    snapshots.start()
    outputs.start()
    try:
        yield
    finally:
        outputs.close()
        snapshots.close()


def _execute(
    context: Context,
    params: CommandParams,
    folders: JobFolders,
    environment: PreparedEnvironment,
    runner: ProgramRunner | None,
    *,
    is_resumed: bool,
) -> CommandEnd:
    env = job_environment(
        os.environ if runner is None else inherited_by_sandbox(os.environ, params.gpus),
        context.run,
        folders,
        envs=params.envs,
        secrets=context.job_secrets,
        gpus=params.gpus,
        is_resumed=is_resumed,
    )
    argv = argv_of(params.run)
    variables = environment.complete(env)
    context.stop.check()
    try:
        if runner is not None:
            return run_sandboxed(runner, argv, folders, variables, environment.folders, params.gpus, context.stop)
        process = CommandProcess(argv, folders.work, variables)
    except OSError as error:
        raise start_failure(error, argv[0], folders.work) from error
    return process.wait(context.stop, folders.stop_file.touch)


COMMAND = Stage(STAGE, run_command)
