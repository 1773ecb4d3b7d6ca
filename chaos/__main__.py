"""`python -m chaos`: one seeded chaos run and its table. Exits 1 if any target is missed."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

import click

from chaos import checks, plan, report
from chaos.arena import ChaosCluster, Timing
from chaos.drill import ChaosRun
from chaos.journal import Journal
from chaos.sabotage import SABOTAGES, verdict
from chaos.workload import Training, orders
from pod_worker.cli.startup import prepare_process
from pod_worker.local.errors import LocalStackError

DRAIN_SECONDS = 180.0


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seed", type=int, default=1, show_default=True, help="Of the plan and of the work.")
@click.option("--minutes", type=click.FloatRange(0.1), default=5.0, show_default=True, help="Of faults.")
@click.option("--workers", type=click.IntRange(1, 64), default=8, show_default=True, help="Pods, one worker each.")
@click.option("--controls", type=click.IntRange(1, 4), default=2, show_default=True, help="Control planes.")
@click.option("--every", type=click.FloatRange(0.2), help="Seconds between faults. [default: 16 / workers]")
@click.option("--lease", type=click.FloatRange(3.0), default=6.0, show_default=True, help="Lease in seconds.")
@click.option("--training/--no-training", default=True, help="A few tiny real trainings among the runs.")
@click.option("--faults", help="Only these kinds, separated by commas.")
@click.option("--replay", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A plan to repeat.")
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), help="Keep everything in this folder.")
@click.option("--mongodb-url", help="A replica set you have (no TLS), with a database of its own as the path.")
@click.option("--sabotage", type=click.Choice(list(SABOTAGES)), help="Take out one guard; succeed if caught.")
@click.option("--plan-only", is_flag=True, help="Print the plan and exit.")
@click.option("--json", "as_json", is_flag=True, help="The table as JSON on stdout.")
def main(
    seed: int,
    minutes: float,
    workers: int,
    controls: int,
    every: float | None,
    lease: float,
    training: bool,
    faults: str | None,
    replay: Path | None,
    data: Path | None,
    mongodb_url: str | None,
    sabotage: str | None,
    plan_only: bool,
    as_json: bool,
) -> None:
    """Break a real cluster on this machine for some minutes, then check every promise against what is left."""
    if sabotage and not faults:
        faults = ",".join(SABOTAGES[sabotage].faults)
    kinds = [plan.find_kind(name.strip()) for name in faults.split(",")] if faults else list(plan.KINDS)
    planned = (
        plan.decode(replay.read_text())
        if replay
        else plan.make_plan(
            seed,
            minutes * 60,
            pods=workers,
            controls=controls,
            every_seconds=every or 16 / workers,
            lease_seconds=lease,
            kinds=kinds,
        )
    )
    if plan_only:
        click.echo(plan.encode(planned), nl=False)
        return
    folder = data or Path(tempfile.mkdtemp(prefix="chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.ndjson").write_text(plan.encode(planned))
    _say(f"seed {seed}: {len(planned)} faults in {minutes:g} min on {workers} workers; everything is in {folder}")
    try:
        rows = run(
            folder,
            planned,
            seed=seed,
            seconds=minutes * 60,
            workers=workers,
            controls=controls,
            lease=lease,
            trains=training,
            mongodb_url=mongodb_url,
            sabotage=sabotage,
        )
    except (ValueError, LocalStackError) as error:
        raise click.ClickException(str(error)) from error
    _say("")
    click.echo(
        report.as_json(rows, seed=seed, minutes=minutes, workers=workers) if as_json else report.table(rows)
    )
    if sabotage:
        is_caught, text = verdict(SABOTAGES[sabotage], rows)
        _say(text)
        sys.exit(0 if is_caught else 1)
    missed = report.missed(rows)
    if missed:
        _say(f"MISSED: {', '.join(row.name for row in missed)}. Repeat it: --replay {folder}/plan.ndjson")
        sys.exit(1)
    if data is None:
        shutil.rmtree(folder, ignore_errors=True)


def run(
    folder: Path,
    planned: list[plan.Planned],
    *,
    seed: int,
    seconds: float,
    workers: int,
    controls: int,
    lease: float,
    trains: bool,
    pace: float = 1.0,
    mongodb_url: str | None = None,
    sabotage: str | None = None,
    drain_seconds: float = DRAIN_SECONDS,
) -> list[report.Row]:
    """A whole chaos run in `folder`; the rows of its table."""
    began = time.monotonic()
    timing = Timing(lease=lease, renew=lease / 4)
    journal = Journal(folder / "journal.ndjson", _say)
    with ChaosCluster(folder, workers, controls, timing, _say, mongodb_url, sabotage) as arena:
        work = orders(seed, _material(folder) if trains else None, pace=pace)
        drill = ChaosRun(arena, planned, work, journal, seed=seed, seconds=seconds, drain_seconds=drain_seconds)
        record = drill.run()
        _say("checking …")
        rows = list(checks.check(record, drill.database, arena.s3.access))
        drill.database.client.close()
    journal.close()
    took = time.monotonic() - began
    return [
        *rows,
        report.info_row("took", f"{took:.0f} s", f"with start-up, drain and checks; {seconds:.0f} s of faults"),
    ]


def _material(folder: Path) -> Training:
    from pod_worker.training.data.demo_data import build

    material = build(folder / "material", rows=200)
    return Training(material.dataset, material.model)


def _say(text: str) -> None:
    click.echo(text, err=True)


if __name__ == "__main__":
    prepare_process()
    main()
