"""Following runs to their end: a live table, a line per change, or JSON lines.

The table on a terminal, lines in a pipe, JSON on request.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from pod_worker.cli.composition import StoreSession
from pod_worker.cli.connection import until_reconnected
from pod_worker.cli.document_values import as_mapping, as_number, as_text
from pod_worker.cli.exit_codes import ExitCode
from pod_worker.cli.output import (
    STATUS_STYLE,
    bar,
    cell,
    console,
    is_terminal,
    make_table,
    number,
    percent,
    print_json_line,
    print_line,
    say,
    span,
)
from pod_worker.cli.runs.lookup import ENDED_STATUSES
from pod_worker.core.run import ACTIVE, Json
from pod_worker.core.stage import stage_title
from pod_worker.core.terminal_text import one_line
from pod_worker.store.mongo import Document
from pod_worker.store.views.read_models import ReadModels
from pod_worker.submission.run_end import DELETED, WELL

if TYPE_CHECKING:
    from rich.table import Table

POLL_SECONDS = 0.5
STAGES_SHOWN = 4
FULL_ROWS = 6  # more runs than this get one line each
LINES_BESIDE_ROWS = 8
METRICS_SHOWN = ("loss", "eval_loss", "learning_rate", "tokens_per_second")
ENDED = {*ENDED_STATUSES, DELETED}


def watch_runs(
    store: StoreSession, run_ids: Sequence[str], seconds: float | None = None, *, as_json: bool = False
) -> int:
    """Blocks until all have ended; 0 when all completed, 1 when not.

    Or until the time is over. 130 after Ctrl-C.
    """
    models = ReadModels(store.database)
    follow = _watch_live if is_terminal() and not as_json else _watch_lines
    try:
        found = follow(models, run_ids, seconds, _json if as_json else None)
    except KeyboardInterrupt:
        again = f"pod-worker runs watch {' '.join(run_ids)}" if len(run_ids) < 4 else "pod-worker runs list"
        _say_unwatched(len(run_ids), again)
        return ExitCode.INTERRUPTED
    return ExitCode.OK if all(run.get("status") in WELL for run in found) else ExitCode.FAILED


def _say_unwatched(count: int, again: str) -> None:
    say(f"stopped watching; {'the run goes' if count == 1 else f'the {count} runs go'} on. Look again: {again}")


def fetch_runs(models: ReadModels, run_ids: Sequence[str]) -> list[Document]:
    def read() -> list[Document]:
        # A run that was deleted meanwhile has ended.
        found = models.runs_by_id(run_ids)
        gone = {"status": DELETED}
        return [found.get(each) or models.run(each) or {"_id": each, **gone} for each in run_ids]

    return until_reconnected(read)


def _is_over(runs: list[Document], end: float | None) -> bool:
    return all(run.get("status") in ENDED for run in runs) or (end is not None and time.monotonic() > end)


def _watch_lines(
    models: ReadModels,
    run_ids: Sequence[str],
    seconds: float | None,
    as_json: Callable[[Document], Document] | None,
) -> list[Document]:
    end = None if seconds is None else time.monotonic() + seconds
    shown: dict[str, Json] = {}
    while True:
        runs = fetch_runs(models, run_ids)
        for run in runs:
            news = as_json(run) if as_json else _line(run)
            if shown.get(run["_id"]) == news:
                continue
            shown[run["_id"]] = news
            if as_json:
                print_json_line(news)
            else:
                print_line(str(news))
        sys.stdout.flush()
        if _is_over(runs, end):
            return runs
        time.sleep(POLL_SECONDS)


def _tenths(run: Document) -> float | None:
    """Progress in tenths, or a long training would print a line at every step."""
    progress = as_number(as_mapping(run.get("currentStage")).get("progress"))
    return None if progress is None else int(progress * 10) / 10


def _json(run: Document) -> Document:
    stage = as_mapping(run.get("currentStage"))
    names = ("pipeline", "status", "attempt", "errorCode", "errorMessage")
    return {
        "id": run["_id"],
        **{name: run.get(name) for name in names},
        "stage": stage.get("name"),
        "progress": _tenths(run),
    }


def _line(run: Document) -> str:
    stage, progress = as_mapping(run.get("currentStage")), _tenths(run)
    title = stage_title(as_text(stage.get("name")) or "-")
    share = "-" if progress is None else f"{progress:.0%}"
    error = f"  {run['errorCode']}: {run.get('errorMessage')}" if run.get("errorCode") else ""
    search = "".join(f"  {line}" for line in search_lines(run))
    text = f"{run['_id']}  {run.get('pipeline', '-')}  {run.get('status')}  {title}  {share}{search}{error}"
    return one_line(text)


def _watch_live(
    models: ReadModels, run_ids: Sequence[str], seconds: float | None, _as_json: object
) -> list[Document]:
    from rich.live import Live

    end = None if seconds is None else time.monotonic() + seconds
    runs = fetch_runs(models, run_ids)
    with Live(_live_table(models, runs), console=console(), refresh_per_second=4) as live:
        while not _is_over(runs, end):
            time.sleep(POLL_SECONDS)
            runs = fetch_runs(models, run_ids)
            live.update(until_reconnected(partial(_live_table, models, runs)))
    return runs


def _live_table(models: ReadModels, runs: list[Document]) -> Table:
    return _stage_table(models, runs) if len(runs) <= FULL_ROWS else _short_table(runs)


def _short_table(runs: list[Document]) -> Table:
    """A line for each run, running ones first; below it the counts of all.

    There are as many as the terminal shows.
    """
    from rich.text import Text

    table = make_table(["run", "status", "stage", "progress", "attempt"])
    space = max(console().height - LINES_BESIDE_ROWS, 1)
    for run in sorted(runs, key=_liveliness)[:space]:
        stage = as_mapping(run.get("currentStage"))
        status = one_line(str(run.get("status")))
        table.add_row(
            cell("run", one_line(str(run["_id"]))),
            cell("status", status, STATUS_STYLE.get(status, "")),
            cell("stage", one_line(stage_title(as_text(stage.get("name")) or "-"))),
            cell("progress", percent(as_number(stage.get("progress")) or 0.0), "green"),
            cell("attempt", number(run.get("attempt", 0))),
        )
    counts = Counter(one_line(str(run.get("status"))) for run in runs)
    table.caption = Text(f"{len(runs)} runs: " + ", ".join(f"{n} {status}" for status, n in counts.most_common()))
    table.caption_justify = "left"
    return table


def _liveliness(run: Document) -> int:
    status = run.get("status")
    return 0 if status in ACTIVE else 2 if status in ENDED_STATUSES else 1


def _stage_table(models: ReadModels, runs: list[Document]) -> Table:
    from rich.text import Text

    table = make_table(["run", "status", "stage", "progress", "metrics"])
    for run in runs:
        status = one_line(str(run.get("status")))
        for index, (label, stage, progress, metric) in enumerate(_rows(models, run)):
            table.add_row(
                cell("run", label, "dim" if index else ""),
                cell("status", "" if index else status, STATUS_STYLE.get(status, "")),
                cell("stage", stage),
                cell("progress", progress, "green"),
                cell("metrics", metric),
            )
    errors = [one_line(f"{run['errorCode']}: {run.get('errorMessage')}") for run in runs if run.get("errorCode")]
    if errors:
        table.caption = Text("\n".join(errors), style="red")
        table.caption_justify = "left"
    return table


def _rows(models: ReadModels, run: Document) -> list[tuple[str, str, str, str]]:
    """A run's lines in the table: id, pipeline, last stages, telling metrics."""
    labels = [one_line(str(run["_id"])), one_line(str(run.get("pipeline", "")))]
    stages = models.stages(run["_id"])[-STAGES_SHOWN:]
    bars = [_stage_bar(stage, run) for stage in stages]
    names = [one_line(str(stage.get("title") or stage.get("name"))) for stage in stages]
    metrics = _metrics(run)
    height = max(len(labels), len(stages), len(metrics))

    def padded(column: list[str]) -> list[str]:
        return column + [""] * (height - len(column))

    return list(zip(padded(labels), padded(names), padded(bars), padded(metrics), strict=True))


def _stage_bar(stage: Document, run: Document) -> str:
    fraction = as_number(stage.get("progress")) or 0.0
    took = as_number(stage.get("durationS"))
    shown = f"{bar(fraction, 8)} {min(max(fraction, 0), 1):4.0%}"
    if took is not None:
        return f"{shown} {span(took)}"
    current = as_mapping(run.get("currentStage"))
    left = as_number(current.get("etaS")) if current.get("name") == stage.get("name") else None
    is_live = left is not None and run.get("status") not in ENDED_STATUSES
    return f"{shown} {span(left)} left" if is_live and left is not None else shown


def search_lines(run: Document) -> list[str]:
    """Progress of a tree search: iterations, nodes, best value, spending, slots."""
    stage, metrics = as_mapping(run.get("currentStage")), as_mapping(run.get("metrics"))
    lines = []
    if (total := as_number(stage.get("totalNodes"))) is not None:
        good, buggy = (as_number(stage.get(name)) or 0 for name in ("goodNodes", "buggyNodes"))
        lines.append(f"{total:.0f} nodes: {good:.0f} good, {buggy:.0f} buggy")
        if iteration := as_number(stage.get("iteration")):
            lines.append(f"iteration {iteration:.0f} of {as_number(stage.get('maxIterations')) or 0:.0f}")
        if stage.get("bestMetric") is not None:
            lines.append(one_line(f"best {number(stage['bestMetric'])}"))
    if (calls := as_number(metrics.get("llm_calls"))) is not None:
        tokens, dollars = (as_number(metrics.get(name)) or 0.0 for name in ("llm_tokens", "llm_usd"))
        lines.append(f"{calls:.0f} calls, {tokens:,.0f} tokens, ${dollars:.2f}")
    if (busy := as_number(metrics.get("slots_busy"))) is not None and run.get("status") in ACTIVE:
        lines.append(f"{busy:.0f} slots busy")
    return lines


def _metrics(run: Document) -> list[str]:
    if search := search_lines(run):
        return search
    metrics = as_mapping(run.get("metrics"))
    names = [name for name in METRICS_SHOWN if name in metrics] or sorted(metrics)[:STAGES_SHOWN]
    return [one_line(f"{name} {number(metrics[name])}") for name in names if as_number(metrics[name]) is not None]
