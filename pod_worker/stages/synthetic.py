"""The synthetic stage: work of any size with any fault, for load and tests.

Parameters are the contract's (section 7): how many stages, how long, how many events, how large an artifact,
where and how to fail. The faults are real: a segfault, a held GIL, orphans. Where the environment names a file in
SYNTHETIC_EVIDENCE, each step is recorded there too, outside the system under test.
"""

from __future__ import annotations

import ctypes
import faulthandler
import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import Meta

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.payload import StageMetric, StageProgress
from pod_worker.core.run import Json
from pod_worker.core.stage import ArtifactKind, Context, Stage

MAX_STAGES = 50
MAX_NUMBER = 2**53  # exact as a float, and within the 64 bits of MongoDB
EVIDENCE_FILE_VARIABLE = "SYNTHETIC_EVIDENCE"


class SyntheticParams(msgspec.Struct, frozen=True, kw_only=True):
    """Every field may be left out."""

    stages: Annotated[int, Meta(ge=1, le=MAX_STAGES, description="number of stages")] = 3
    seconds: Annotated[float, Meta(ge=0, le=MAX_NUMBER, description="duration of all stages together")] = 3.0
    events: Annotated[
        int,
        Meta(ge=0, le=MAX_NUMBER, description="steps of all stages together; each emits a metric and a progress"),
    ] = 30
    artifact_bytes: Annotated[
        int, Meta(ge=0, le=MAX_NUMBER, description="size of the artifact that each stage publishes; 0 for none")
    ] = 0
    fail_at: Annotated[
        float,
        Meta(ge=0, le=MAX_NUMBER, description="where to fail: 2.5 is the middle of the second stage; 0 for never"),
    ] = 0.0
    fail_kind: Annotated[
        str,
        Meta(
            description="how to fail: user_error, cuda_oom, timeout, segfault, sigkill, ignore_sigterm, hold_gil, "
            "hang or fork_bomb_small"
        ),
    ] = "user_error"
    fail_attempts: Annotated[
        int, Meta(ge=0, le=MAX_NUMBER, description="only the first N attempts fail; 0 for all of them")
    ] = 0
    checkpoint_every: Annotated[
        int, Meta(ge=0, le=MAX_NUMBER, description="steps between two checkpoints of a stage; 0 for none")
    ] = 0
    stdout_bytes: Annotated[
        int, Meta(ge=0, le=MAX_NUMBER, description="printed by each stage, to test the log limits")
    ] = 0


UNITS = {"seconds": "seconds", "artifact_bytes": "bytes", "stdout_bytes": "bytes"}


def parse_params(params: dict[str, Json]) -> dict[str, Json]:
    """The same parameters, checked and complete.

    Raises RunError(INVALID_INPUT) that lists every problem.
    """
    known = {each.name: each for each in msgspec.structs.fields(SyntheticParams)}
    problems = [f"unknown parameter {name!r}; known: {', '.join(known)}" for name in params if name not in known]
    values: dict[str, Json] = {}
    for name, each in known.items():
        value = params.get(name, each.default)
        problem = _problem(name, value, each.default)
        problems += [problem] if problem else []
        values[name] = value
    if problems:
        raise RunError(FailureCode.INVALID_INPUT, "synthetic: " + "; ".join(problems))
    return values


def _problem(name: str, value: Json, default: object) -> str | None:
    if name == "fail_kind":
        return None if value in FAULTS else f"fail_kind {value!r} is not one of {', '.join(FAULTS)}"
    kinds = int | float if isinstance(default, float) else int
    if isinstance(value, bool) or not isinstance(value, kinds) or not 0 <= value <= MAX_NUMBER:  # false for NaN
        kind = "number" if isinstance(default, float) else "whole number"
        return f"{name} must be a {kind} from 0 to 2^53, got {value!r:.40}"
    if name == "stages" and not 1 <= value <= MAX_STAGES:
        return f"stages must be 1..{MAX_STAGES}, got {value}"
    return None


def stages_of(params: dict[str, Json]) -> tuple[Stage, ...]:
    count = SyntheticParams(**parse_params(params)).stages
    return tuple(Stage(_name(number), _runner(number)) for number in range(1, count + 1))


def _name(number: int) -> str:
    return f"Stage_{number}" if number <= 4 else f"synthetic_{number}"


def _runner(number: int) -> Callable[[Context], dict[str, Json]]:
    return lambda context: run_synthetic(context, number)


def run_synthetic(context: Context, number: int) -> dict[str, Json]:
    params = SyntheticParams(**parse_params(context.run.params))
    steps = max(params.events // params.stages, 1)
    pause = params.seconds / params.stages / steps
    first = int(context.saved_state.get("step", 0))
    context.log(f"synthetic stage {number}: steps {first} to {steps}", pause_s=round(pause, 4))
    _record_evidence(context, "began", first)
    _print_noise(params.stdout_bytes)
    for step in range(first, steps):
        context.stop.check()
        _maybe_fail(params, context.run.attempt, number, step / steps)
        _wait(context, pause)
        _record_evidence(context, "step", step, *_report(context, step, steps))
        if params.checkpoint_every and (step + 1) % params.checkpoint_every == 0:
            context.checkpoint({"step": step + 1})
    context.stop.check()
    summary = {"steps": steps, "resumed_from": first, **_artifact(context, params.artifact_bytes, number)}
    _record_evidence(context, "ended", steps)
    return summary


def _report(context: Context, step: int, steps: int) -> tuple[str, str]:
    """The ids of the two events."""
    value = math.exp(-3 * (step + 1) / steps)
    metric = StageMetric(stage=context.stage, name="loss", value=value, step=step + 1)
    progress = (step + 1) / steps
    shown = StageProgress(stage=context.stage, progress=progress, iteration=step + 1, max_iterations=steps)
    return context.emit(metric), context.emit(shown)


def _record_evidence(context: Context, what: str, step: int, *event_ids: str) -> None:
    """One short line per step, whole or not at all (O_APPEND).

    A record that a checker can rely on.
    """
    path = os.environ.get(EVIDENCE_FILE_VARIABLE)
    if not path:
        return
    line = {
        "boot": time.clock_gettime(time.CLOCK_BOOTTIME),
        "pid": os.getpid(),
        "run": context.run.id,
        "attempt": context.run.attempt,
        "stage": context.stage,
        "what": what,
        "step": step,
        "events": event_ids,
    }
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, json.dumps(line).encode() + b"\n")
    finally:
        os.close(fd)


def _wait(context: Context, seconds: float) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        context.stop.check()
        time.sleep(min(left, 0.05))


def _artifact(context: Context, size: int, number: int) -> dict[str, Json]:
    if size == 0:
        return {}
    path = context.work_dir / f"synthetic_{number}.bin"
    path.write_bytes(_bytes(f"{context.run.id}:{number}", size))
    artifact = context.artifacts.publish(path, ArtifactKind.DATA, name=path.name)
    return {"artifact": artifact.key, "sha256": artifact.sha256}


def _bytes(seed: str, size: int) -> bytes:
    """The same bytes for the same run and stage, whichever attempt makes them."""
    return hashlib.shake_128(seed.encode()).digest(size)


def _print_noise(size: int) -> None:
    line = b"x" * 99 + b"\n"
    for _ in range(size // len(line)):
        os.write(1, line)


# ── faults ──────────────────────────────────────────────────────────────────────────────────────────────────


def _maybe_fail(params: SyntheticParams, attempt: int, number: int, fraction: float) -> None:
    if params.fail_at <= 0 or (params.fail_attempts and attempt > params.fail_attempts):
        return
    stage, part = int(params.fail_at), params.fail_at - int(params.fail_at)
    if number == stage and fraction >= part:
        FAULTS[params.fail_kind]()


def _user_error() -> None:
    raise ValueError("synthetic user error: this run was asked to fail")


def _cuda_oom() -> None:
    raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB (synthetic)")


def _timeout() -> None:
    raise TimeoutError("synthetic time limit")


def _segfault() -> None:
    faulthandler.disable()
    ctypes.string_at(0)


def _sigkill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _ignore_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(3600)


def _hold_gil() -> None:
    # PyDLL keeps the GIL during the call, as a badly written native extension would.
    ctypes.PyDLL(None).sleep(3600)


def _hang() -> None:
    lock = threading.Lock()
    with lock:
        lock.acquire()


def _fork_bomb_small() -> None:
    program = "import time; time.sleep(3600)"
    for _ in range(8):
        subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
    _ignore_sigterm()


FAULTS: dict[str, Callable[[], None]] = {
    "user_error": _user_error,
    "cuda_oom": _cuda_oom,
    "timeout": _timeout,
    "segfault": _segfault,
    "sigkill": _sigkill,
    "ignore_sigterm": _ignore_sigterm,
    "hold_gil": _hold_gil,
    "hang": _hang,
    "fork_bomb_small": _fork_bomb_small,
}
