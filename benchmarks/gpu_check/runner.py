"""Runs checks in child processes: a budget for each row, a deadline for all, and a result for every row.

Checks of one group share a process, so that libraries are imported once. A child that crashes or exceeds a row's
budget costs that row; the rows after it go on in a new process.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import groupby
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.gpu_check.checks import MachineCheck

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60.0  # a cold import of torch and transformers, beside the first row's own budget
OUT_OF_TIME = "out of time"


class Status(StrEnum):
    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"
    NOT_RUN = "not run"


@dataclass(frozen=True, slots=True)
class CheckResult:
    name: str
    status: Status
    figure: str  # what was found, or the reason
    seconds: float = 0.0

    def as_json(self) -> dict[str, str | float]:
        return {**asdict(self), "status": self.status.value, "seconds": round(self.seconds, 1)}


def run_checks(
    checks: Sequence[MachineCheck],
    deadline: float,
    *,
    is_cpu: bool,
    on_result: Callable[[CheckResult], None],
) -> list[CheckResult]:
    """One result for each check, in order. `deadline` is on the monotonic clock."""
    results: list[CheckResult] = []
    for _, members in groupby(checks, key=lambda each: each.group):
        pending = list(members)
        while pending:
            for result in _run_child(tuple(pending), deadline, is_cpu):
                on_result(result)
                results.append(result)
                pending.pop(0)
    return results


def _run_child(checks: Sequence[MachineCheck], deadline: float, is_cpu: bool) -> Iterator[CheckResult]:
    """Results of the first checks: all of them, or up to the one that its process did not survive."""
    if time.monotonic() >= deadline:
        yield from (CheckResult(each.name, Status.NOT_RUN, OUT_OF_TIME) for each in checks)
        return
    names = [each.name for each in checks]
    with (
        tempfile.TemporaryDirectory(prefix="gpu-check-", ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryFile() as output,
        _started(names, is_cpu, output, folder) as lines,
    ):
        grace = START_SECONDS
        for check in checks:
            began = time.monotonic()
            limit = min(began + check.seconds + grace, deadline)
            line = lines.read(limit)
            took = time.monotonic() - began
            if line is not None:
                fields = json.loads(line)
                yield CheckResult(check.name, Status(fields["status"]), fields["figure"], took)
                grace = 0.0
                continue
            if time.monotonic() >= deadline:
                yield CheckResult(check.name, Status.NOT_RUN, OUT_OF_TIME, took)
            elif not lines.has_ended:
                yield CheckResult(check.name, Status.FAILED, f"took longer than {check.seconds:g} s", took)
            else:
                yield CheckResult(check.name, Status.FAILED, _last_words(lines, output), took)
            return


class _Lines:
    """The lines that a child writes to its result pipe."""

    def __init__(self, process: subprocess.Popen[bytes], handle: int) -> None:
        self.process = process
        self.has_ended = False
        self._handle = handle
        self._rest = b""

    def read(self, until: float) -> bytes | None:
        """The next line; None at that moment of the monotonic clock, or when the child has ended."""
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self._handle], [], [], max(until - time.monotonic(), 0))
            if not ready:
                return None
            block = os.read(self._handle, 65536)
            if not block:
                self.has_ended = True
                return None
            self._rest += block
        line, _, self._rest = self._rest.partition(b"\n")
        return line


@contextlib.contextmanager
def _started(names: Sequence[str], is_cpu: bool, output: IO[bytes], folder: str) -> Iterator[_Lines]:
    """A child for these rows, with the folder for its files. It and what it started are killed at the end."""
    reading, writing = os.pipe()
    device = "cpu" if is_cpu else "cuda"
    command = [sys.executable, "-m", "benchmarks.gpu_check.child", folder, str(writing), device, *names]
    # One GPU: Trainer would spread its batches over several.
    visible = "" if is_cpu else os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    env = os.environ | {"CUDA_VISIBLE_DEVICES": visible, "HF_HUB_OFFLINE": "1", "TMPDIR": folder}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=[writing],
        start_new_session=True,
    )
    os.close(writing)
    try:
        yield _Lines(process, reading)
    finally:
        os.close(reading)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _last_words(lines: _Lines, output: IO[bytes]) -> str:
    code = lines.process.wait()
    output.seek(0)
    text = output.read().decode(errors="replace").strip().splitlines()
    return f"the process ended with code {code}: {text[-1][:300] if text else 'no message'}"
