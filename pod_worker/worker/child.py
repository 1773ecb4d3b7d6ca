"""The child program: runs the stages of one attempt and reports the outcome.

It holds no MongoDB credentials and decides nothing about the run's future. It emits events to the spool that it
shares with the supervisor, and reports checkpoints. The one broad catch is here.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import BinaryIO

import msgspec

from pod_worker.core.clock import SystemClock
from pod_worker.core.credentials.secret import Redactor, secret_values
from pod_worker.core.failure import (
    CancelRequested,
    DrainRequested,
    Failure,
    Interruption,
    classify,
)
from pod_worker.core.outcome import Canceled, Failed, Lost, Outcome, Released, Succeeded
from pod_worker.core.run import Json
from pod_worker.core.stage import EventEmitter, Stage
from pod_worker.pipelines import find_pipeline
from pod_worker.process.sandbox_server import SERVER_FD_VARIABLE
from pod_worker.process.tree import deny_inspection
from pod_worker.stages.context import StageContext, StopFlag
from pod_worker.worker import child_io, protocol, uncaught_errors


class SupervisorPipe:
    """The child's pipe to its supervisor; whole lines only, from any thread."""

    def __init__(self, fd: int) -> None:
        os.set_inheritable(fd, False)
        self._file = os.fdopen(fd, "wb", buffering=0)
        self._lock = threading.Lock()

    def send(self, message: msgspec.Struct) -> None:
        data = memoryview(protocol.encode_line(message))
        with self._lock:
            while data:  # a raw pipe may take less than everything
                data = data[self._file.write(data) or 0 :]


class AttemptExecutor:
    def __init__(
        self,
        spec: protocol.AttemptSpec,
        uplink: SupervisorPipe,
        emitter: EventEmitter,
        stop: StopFlag,
        sandbox: child_io.LazySandbox | None = None,
    ) -> None:
        self._spec = spec
        self._run = spec.run
        self._uplink = uplink
        self._emitter = emitter
        self._stop = stop
        self._clock = SystemClock()
        self._sandbox = sandbox
        self._artifacts = child_io.LazyArtifacts(spec, emitter, stop)
        self._stage: str | None = None

    def execute(self) -> Outcome:
        try:
            summary: dict[str, Json] = {}
            for stage in find_pipeline(self._run.pipeline).stages(self._run.params):
                if not self._run.is_done(stage.name):
                    summary[stage.name] = self._execute_stage(stage)
            return Succeeded(summary, find_pipeline(self._run.pipeline).ends_in_review)
        except CancelRequested:
            return Canceled()
        except DrainRequested:
            return Released("the worker is stopping")
        except Interruption as interruption:  # the control plane reports that the attempt is over
            return Lost(str(interruption))
        except BaseException as error:
            return Failed(self._classify(error))

    def _execute_stage(self, stage: Stage) -> dict[str, Json]:
        self._stage = stage.name
        self._stop.check()
        work_dir = Path(self._spec.work_dir)
        work_dir.mkdir(parents=True, exist_ok=True)
        with StageContext(
            self._run,
            stage.name,
            work_dir=work_dir,
            emitter=self._emitter,
            artifacts=self._artifacts,
            stop=self._stop,
            save=lambda name, state: self._save(name, state, done=False),
            clock=self._clock,
            model_access=self._spec.model_access,
            job_secrets=self._spec.job_secrets,
            open_sandbox=self._sandbox.open if self._sandbox else None,
            folders=child_io.ContentFolders(self._spec, self._stop),
        ) as context:
            context.summary = stage.run(context)
        self._save(stage.name, context.summary, done=True)
        return context.summary

    def _save(self, stage: str, state: dict[str, Json], *, done: bool) -> None:
        protocol.check_checkpoint(stage, state)  # here the stage that made it can still be named
        self._uplink.send(protocol.CheckpointSaved(stage, done, state))

    def _classify(self, error: BaseException) -> Failure:
        return classify(error, self._stage)


def _sandbox_of(spec: protocol.AttemptSpec, fd: int) -> child_io.LazySandbox:
    return child_io.LazySandbox(fd, spec.sandbox_floor, find_pipeline(spec.run.pipeline).sandbox_modules)


def read_stop_commands(commands: BinaryIO, stop: StopFlag) -> None:
    """Obey the supervisor's commands; exit when it is gone.

    The guard would kill us too.
    """
    for received in commands:
        command = protocol.read_stop(received)
        stop.request(CancelRequested if command.reason == "cancel" else DrainRequested, command.seconds)
    os._exit(3)


def open_private(fd: int) -> BinaryIO:
    """A pipe that the run's own subprocesses do not inherit."""
    os.set_inheritable(fd, False)
    return os.fdopen(fd, "rb")


def main() -> int:
    uplink = SupervisorPipe(int(os.environ.pop(protocol.UPLINK_FD_VARIABLE)))
    # Not standard input, which is /dev/null: code of the run may read that, or ask questions there.
    commands = open_private(int(os.environ.pop(protocol.COMMAND_FD_VARIABLE)))
    sandbox_fd = os.environ.pop(SERVER_FD_VARIABLE, None)
    spec = protocol.read_spec(commands.readline())
    if spec.model_access or find_pipeline(spec.run.pipeline).executes_user_code:
        deny_inspection()  # programs of the run must not read keys and tokens in our memory
    redactor = Redactor([*secret_values(os.environ), *spec.secrets()])
    emitter = child_io.open_run_emitter(spec, redactor)
    uncaught_errors.install(emitter.emit, "child", redactor)
    stop = StopFlag()
    threading.Thread(target=read_stop_commands, args=(commands, stop), name="commands", daemon=True).start()
    uplink.send(protocol.ChildReady())
    sandbox = _sandbox_of(spec, int(sandbox_fd)) if sandbox_fd else None
    outcome = AttemptExecutor(spec, uplink, emitter, stop, sandbox).execute()
    uplink.send(protocol.OutcomeReported.of(outcome))
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: a stage's stray non-daemon thread or atexit hook must not keep the GPU.
    os._exit(0 if isinstance(outcome, Succeeded) else 1)


if __name__ == "__main__":
    main()
