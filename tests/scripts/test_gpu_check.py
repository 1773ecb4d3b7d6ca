"""The GPU check on a machine without one: its rows, its exit codes, its deadline."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.gpu_check import __main__ as program
from benchmarks.gpu_check import runner
from benchmarks.gpu_check.checks import CHECKS, CheckContext, MachineCheck, SkippedCheckError, WrongFigureError
from benchmarks.gpu_check.runner import CheckResult, Status

ROOT = Path(__file__).resolve().parents[2]
CRASHING = MachineCheck("crashing", "none", 5, lambda _context: "")  # the child does not know it, and ends
SKIPPED = next(each for each in CHECKS if each.name == "NVML figures")


def by_name(*names: str) -> list[MachineCheck]:
    return [each for each in CHECKS if each.name in names]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", "scripts/gpu_check.sh", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_rows_run_on_a_cpu_and_are_printed_as_json() -> None:
    done = run("--cpu", "--only", "bf16", "--only", "NVML", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [(row["name"], row["status"]) for row in rows][1] == ("NVML figures", "skipped")
    assert rows[0]["status"] in ("ok", "skipped"), rows  # skipped: no bf16 units
    assert rows[1]["figure"] == "needs a GPU"


@pytest.mark.skipif(program.has_gpu(Path("/dev")), reason="this machine has a GPU")
def test_a_machine_without_a_gpu_is_named_in_one_line() -> None:
    done = run()
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "no NVIDIA GPU" in done.stderr
    assert "--cpu" in done.stderr


def test_the_help_names_every_row_and_every_exit_code() -> None:
    done = run("--help")
    assert all(check.name in done.stdout for check in CHECKS)
    assert "1 a row failed" in done.stdout


def test_devices_of_other_kinds_are_no_gpu(tmp_path: Path) -> None:
    (tmp_path / "nvidiactl").touch()
    assert not program.has_gpu(tmp_path)
    (tmp_path / "nvidia0").touch()
    assert program.has_gpu(tmp_path)


@pytest.mark.skipif(program.has_gpu(Path("/dev")), reason="this machine has a GPU")
def test_a_row_that_finds_something_wrong_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "has_gpu", lambda _devices: True)
    assert program.main(["--only", "NVML"]) == 1
    assert "NVML figures" in (shown := capsys.readouterr().out)
    assert "failed" in shown
    assert "check nvidia-smi" in shown


@pytest.mark.skipif(program.has_gpu(Path("/dev")), reason="this machine has a GPU")
def test_no_row_is_ok_on_the_cpu_when_a_gpu_was_meant(tmp_path: Path) -> None:
    with pytest.raises(WrongFigureError, match="torch cannot use the GPU"):
        CheckContext("cuda", tmp_path).confirm_device()
    for check in CHECKS:
        if check.group != "machine":
            with pytest.raises((WrongFigureError, SkippedCheckError)):
                check.run(CheckContext("cuda", tmp_path))


def test_a_row_that_ends_its_process_costs_only_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--cpu", "--json"], [CRASHING, CRASHING, replace(SKIPPED, group="none")]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert [row["status"] for row in rows] == ["failed", "failed", "skipped"]
    assert "ended with code 1: KeyError: 'crashing'" in rows[0]["figure"]


def test_a_row_over_its_budget_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "START_SECONDS", 0.0)
    began = time.monotonic()
    slow = [replace(each, seconds=0.2) for each in by_name("4-bit training")]
    (result,) = runner.run_checks(slow, began + 60, is_cpu=True, on_result=lambda _result: None)
    assert (result.status, result.figure) == (Status.FAILED, "took longer than 0.2 s")
    assert time.monotonic() - began < 10


def test_the_deadline_ends_the_row_that_runs_and_names_those_that_do_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    began = time.monotonic()
    assert program.main(["--cpu", "--deadline", "0.5", "--json"]) == program.INCOMPLETE
    assert time.monotonic() - began < 10
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == [check.name for check in CHECKS]
    assert {(row["status"], row["figure"]) for row in rows} == {("not run", "out of time")}


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        ([Status.OK, Status.SKIPPED], 0),
        ([Status.OK, Status.NOT_RUN], 3),
        ([Status.NOT_RUN, Status.FAILED, Status.OK], 1),
    ],
)
def test_the_exit_code_is_the_worst_row(statuses: list[Status], code: int) -> None:
    assert program.exit_code([CheckResult("row", status, "") for status in statuses]) == code
