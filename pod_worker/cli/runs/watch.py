"""Following runs to their end: a live picture on a terminal, a line per change in a pipe."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from pod_worker.cli.composition import StoreSession
from pod_worker.cli.exit_codes import ExitCode
from pod_worker.cli.output import NO_WRAP_COLUMNS, STATUS_STYLE, bar, console, is_terminal, span
from pod_worker.core.run import TERMINAL, Json
from pod_worker.store.mongo import Document
from pod_worker.store.views.read_models import ReadModels

if TYPE_CHECKING:
    from rich.table import Table

ENDED = {status.value for status in TERMINAL}
POLL_SECONDS = 0.5


def watch_runs(store: StoreSession, run_ids: Sequence[str], seconds: float | None = None) -> int:
    """Blocks until all have ended (or the time is over). 0 when all completed, else 1."""
    models = ReadModels(store.database)
    found = _watch_live(models, run_ids, seconds) if is_terminal() else _watch_lines(models, run_ids, seconds)
    return ExitCode.OK if all(run.get("status") == "COMPLETED" for run in found) else ExitCode.FAILED


def _fetch_runs(models: ReadModels, run_ids: Sequence[str]) -> list[Document]:
    return [models.run(run_id) or {"_id": run_id, "status": "?"} for run_id in run_ids]


def _is_over(runs: list[Document], end: float | None) -> bool:
    return all(run.get("status") in ENDED for run in runs) or (end is not None and time.monotonic() > end)


def _watch_lines(models: ReadModels, run_ids: Sequence[str], seconds: float | None) -> list[Document]:
    end = None if seconds is None else time.monotonic() + seconds
    said: dict[str, str] = {}
    while True:
        runs = _fetch_runs(models, run_ids)
        for run in runs:
            line = _line(run)
            if said.get(run["_id"]) != line:
                said[run["_id"]] = line
                click.echo(line)
        if _is_over(runs, end):
            return runs
        time.sleep(POLL_SECONDS)


def _line(run: Document) -> str:
    stage = _dict(run.get("currentStage"))
    progress = stage.get("progress")
    # Tenths, or a long training would print a line at every step.
    shown = f"{int(progress * 10) * 10}%" if isinstance(progress, int | float) else "-"
    error = f"  {run['errorCode']}: {run.get('errorMessage')}" if run.get("errorCode") else ""
    return (
        f"{run['_id']}  {run.get('pipeline', '-')}  {run.get('status')}  {stage.get('name', '-')}  {shown}{error}"
    )


def _watch_live(models: ReadModels, run_ids: Sequence[str], seconds: float | None) -> list[Document]:
    from rich.live import Live

    end = None if seconds is None else time.monotonic() + seconds
    runs = _fetch_runs(models, run_ids)
    with Live(_live_table(models, runs), console=console(), refresh_per_second=4) as live:
        while not _is_over(runs, end):
            time.sleep(POLL_SECONDS)
            runs = _fetch_runs(models, run_ids)
            live.update(_live_table(models, runs))
    return runs


def _live_table(models: ReadModels, runs: list[Document]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("run", "status", "stage", "progress", "eta", "metrics"):
        table.add_column(column, overflow="fold", no_wrap=column in NO_WRAP_COLUMNS)
    for run in runs:
        status = str(run.get("status"))
        name = Text(f"{run.get('pipeline', '')}\n{run['_id']}")
        name.stylize("dim", name.plain.find("\n"))
        stages = models.stages(run["_id"])[-4:]
        table.add_row(
            name,
            Text(status, style=STATUS_STYLE.get(status, "")),
            Text("\n".join(_stage_name(s) for s in stages) or "-"),
            Text("\n".join(_stage_bar(s) for s in stages) or "-", style="green"),
            Text(_eta(run)),
            Text(_metrics(run)),
        )
        if run.get("errorCode"):
            table.add_row(
                Text(f"{run['errorCode']}", style="red"), "", Text(str(run.get("errorMessage")), style="red")
            )
    return table


def _stage_name(stage: Document) -> str:
    return str(stage.get("title") or stage.get("name"))


def _stage_bar(stage: Document) -> str:
    progress = stage.get("progress")
    fraction = float(progress) if isinstance(progress, int | float) else 0.0
    took = stage.get("durationS")
    return f"{bar(fraction, 12)} {fraction:4.0%}" + (f" {span(took)}" if isinstance(took, int | float) else "")


def _eta(run: Document) -> str:
    eta = _dict(run.get("currentStage")).get("etaS")
    if run.get("status") in ENDED or not isinstance(eta, int | float):
        return "-"
    return span(eta)


def _metrics(run: Document) -> str:
    wanted = ("loss", "eval_loss", "learning_rate", "tokens_per_second")
    metrics = _dict(run.get("metrics"))
    shown = [name for name in wanted if name in metrics] or sorted(metrics)[:4]
    return (
        "\n".join(f"{name} {metrics[name]:.4g}" for name in shown if isinstance(metrics[name], int | float)) or "-"
    )


def _dict(value: Json) -> dict[str, Json]:
    return value if isinstance(value, dict) else {}
