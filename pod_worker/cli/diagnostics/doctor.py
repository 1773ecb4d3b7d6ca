"""`pod-worker doctor`: checks and fixes; `doctor ingest` tests an ingest.

The ingest check works with any control plane.
"""

from __future__ import annotations

import click

from pod_worker.cli.diagnostics.diagnosis import print_diagnoses
from pod_worker.cli.options import json_option
from pod_worker.cli.output import say
from pod_worker.core.credentials.secret import revealed
from pod_worker.stack_settings import load_settings


@click.group(invoke_without_command=True)
@click.option("--deep", "is_deep", is_flag=True, help="Also train a tiny model for one step (about 15 s).")
@json_option
@click.pass_context
def doctor(ctx: click.Context, is_deep: bool, as_json: bool) -> int | None:
    """Check this machine and its connections, and print a fix for each problem.

    MongoDB, workers, control plane and key, object store, disk, GPUs, training libraries. Exit code 1 when a check
    is bad.
    """
    if ctx.invoked_subcommand:
        return None
    from pod_worker.cli.diagnostics.doctor_checks import run_checks

    return print_diagnoses(list(run_checks(is_deep)), as_json)


@doctor.command()
@click.option("--url", help="The control plane. [default: CONTROL_PLANE_URL]")
@json_option
def ingest(url: str | None, as_json: bool) -> int:
    """Send test events to a control plane.

    A single event, a batch, a duplicate and an invalid one. Stores a few log lines of a run that does not exist
    and changes nothing else.
    """
    from pod_worker.cli.diagnostics.ingest_check import IngestCheck

    settings = load_settings()
    check = IngestCheck(url or settings.control_plane_url, revealed(settings.control_plane_token))
    found = check.run()
    if any(each.status == "bad" for each in found):
        say(f"ingest at {check.url} does not follow the contract (docs/contract.md)")
    return print_diagnoses(found, as_json)
