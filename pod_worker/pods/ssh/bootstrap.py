"""Runs the setup steps of a pod over SSH, in order, up to the first failure.

A lock on the pod serializes two bootstraps, so that each action runs once. GPU steps can be skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from pod_worker.core.clock import Clock
from pod_worker.pods.ssh.bootstrap_scripts import ALREADY_DONE, BootstrapPlan, Step, render_step
from pod_worker.pods.ssh.client import CommandResult, OutputSink

OUTPUT_TAIL_CHARACTERS = 4000
"""Characters of a failed step's output that its report keeps."""


class Shell(Protocol):
    """What bootstrap needs of an SSH connection."""

    def run(
        self, command: str, *, timeout_seconds: float, stdin: str = "", on_output: OutputSink = ...
    ) -> CommandResult: ...


class StepStatus(Enum):
    DONE = "done"
    ALREADY = "already done"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class StepReport:
    name: str
    outcome: StepStatus
    seconds: float
    output: str = ""
    hint: str = ""

    def __str__(self) -> str:
        text = f"{self.name}: {self.outcome.value} ({self.seconds:.1f} s)"
        return f"{text}: {self.output.strip()}; {self.hint}" if self.outcome is StepStatus.FAILED else text


def run_steps(
    shell: Shell,
    plan: BootstrapPlan,
    wanted: Iterable[Step],
    *,
    clock: Clock,
    gpu: bool = True,
    on_output: OutputSink = lambda stream, text: None,
    on_report: Callable[[StepReport], None] = lambda report: None,
) -> tuple[StepReport, ...]:
    """Run in order; stops at the first failure, which is then the last report.

    Raises SshConnectionLostError.
    """
    reports: list[StepReport] = []
    for step in wanted:
        report = (
            StepReport(step.name, StepStatus.SKIPPED, 0.0)
            if step.needs_gpu and not gpu
            else _run_step(shell, plan, step, clock, on_output)
        )
        reports.append(report)
        on_report(report)
        if report.outcome is StepStatus.FAILED:
            break
    return tuple(reports)


def _run_step(shell: Shell, plan: BootstrapPlan, step: Step, clock: Clock, on_output: OutputSink) -> StepReport:
    start = clock.monotonic()
    result = shell.run(
        "bash -s", timeout_seconds=step.timeout_seconds, stdin=render_step(plan, step), on_output=on_output
    )
    seconds = clock.monotonic() - start
    if result.is_success:
        outcome = StepStatus.ALREADY if ALREADY_DONE in result.stdout else StepStatus.DONE
        return StepReport(step.name, outcome, seconds, result.stdout[-OUTPUT_TAIL_CHARACTERS:])
    output = (result.stderr or result.stdout).strip()[-OUTPUT_TAIL_CHARACTERS:]
    if result.timed_out:
        output = f"timed out after {step.timeout_seconds:.0f} s; last output: {output}"
    return StepReport(step.name, StepStatus.FAILED, seconds, output, step.hint)
