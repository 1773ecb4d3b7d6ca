"""The result of a check, and how checks are printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pod_worker.cli.exit_codes import ExitCode
from pod_worker.cli.output import print_json, print_table


@dataclass(frozen=True, slots=True)
class Diagnosis:
    what: str
    status: str  # ok | warn | bad
    text: str  # what was found, and the fix where something is wrong


def print_diagnoses(found: Sequence[Diagnosis], as_json: bool) -> ExitCode:
    """Print them all; FAILED when one is bad."""
    if as_json:
        # `verdict` is the earlier name of `status`.
        print_json([{"check": d.what, "status": d.status, "verdict": d.status, "text": d.text} for d in found])
    else:
        styles = {"status": {"ok": "green", "warn": "yellow", "bad": "bold red"}}
        print_table(["check", "status", "finding"], [[d.what, d.status, d.text] for d in found], styles)
    return ExitCode.FAILED if any(d.status == "bad" for d in found) else ExitCode.OK
