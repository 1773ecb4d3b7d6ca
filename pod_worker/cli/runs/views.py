"""Looking at runs: list, show, logs, watch, why, stats. Reads only."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import click

from pod_worker.cli.composition import StoreSession, open_store
from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.cli.output import (
    STATUS_STYLE,
    age,
    bar,
    clock_time,
    console,
    print_json,
    print_table,
    say,
    size,
    span,
)
from pod_worker.core.run import TERMINAL, Json, RunStatus
from pod_worker.store.events.reader import LOG_TYPE, EventFilter, EventReader
from pod_worker.store.mongo import Document
from pod_worker.store.queue.stats import QueueStatsReader
from pod_worker.store.views.read_models import ReadModels, RunFilter

json_option = click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
TERMINAL_STATUSES = {status.value for status in TERMINAL}


@click.command("list")
@click.option("--status", multiple=True, type=click.Choice([s.value for s in RunStatus], case_sensitive=False))
@click.option("--pipeline", help="Only this pipeline.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@click.option("--all", "with_hidden", is_flag=True, help="Hidden ones too.")
@json_option
def list_runs(status: tuple[str, ...], pipeline: str | None, limit: int, with_hidden: bool, as_json: bool) -> None:
    """The newest runs."""
    store = open_store()
    page = ReadModels(store.database).runs(RunFilter(status, pipeline, None, with_hidden), limit)
    if as_json:
        print_json(page.items)
        return
    print_table(
        ["id", "pipeline", "status", "stage", "progress", "age", "worker"],
        [_row(each) for each in page.items],
        {"status": STATUS_STYLE},
    )
    if not page.items:
        say("no runs; queue one with `pod-worker runs submit synthetic`")
    elif page.next_cursor:
        shown = f"{page.total}" if page.total < 10_000 else "more than 10000"
        say(f"{len(page.items)} of {shown}; --limit shows more")


def _row(run: Document) -> list[str]:
    stage = _dict(run.get("currentStage"))
    progress = stage.get("progress")
    shown = f"{bar(progress, 8)} {progress:4.0%}" if isinstance(progress, int | float) else "-"
    return [
        str(run["_id"]),
        str(run.get("pipeline", "-")),
        str(run.get("status", "-")),
        str(stage.get("name", "-")),
        shown,
        age(_date(run.get("createdAt"))),
        str(run.get("claimedBy") or "-"),
    ]


@click.command()
@click.argument("run_id")
@json_option
def show(run_id: str, as_json: bool) -> None:
    """Everything about one run."""
    store = open_store()
    models = ReadModels(store.database)
    run = resolve_run(models, run_id)
    stages = models.stages(run["_id"])
    artifacts = list(store.database.artifacts.find({"runId": run["_id"]}, {"v": 0}).sort("createdAt", 1))
    events = EventReader(store.database).read_page(run["_id"], EventFilter(), 10).items[::-1]
    if as_json:
        print_json({"run": run, "stages": stages, "artifacts": artifacts, "events": events})
        return
    _show_header(run)
    if stages:
        rows = [
            [
                str(s.get("name")),
                str(s.get("title")),
                str(s.get("status", "-")),
                _percent(s),
                _seconds(s.get("durationS")),
            ]
            for s in stages
        ]
        print_table(["stage", "what", "status", "progress", "took"], rows, {"status": STATUS_STYLE})
    if artifacts:
        rows = [
            [str(a["key"]), str(a.get("kind", "-")), size(a.get("bytes") or 0), str(a.get("sha256", "-"))[:12]]
            for a in artifacts
        ]
        print_table(["artifact", "kind", "size", "sha256"], rows)
    if events:
        rows = [[clock_time(_date(e.get("time"))), str(e.get("type")), _summary(e)] for e in events]
        print_table(["time", "event", ""], rows)


def _show_header(run: Document) -> None:
    from rich.text import Text

    out = console()
    lines: list[tuple[str, str]] = [
        ("run", str(run["_id"])),
        ("pipeline", f"{run.get('pipeline')}   queue {run.get('queue')}   priority {run.get('priority', 0)}"),
        ("status", str(run.get("status"))),
        (
            "attempt",
            f"{run.get('attempt', 0)}   retries {run.get('retryCount', 0)} of {run.get('maxAttempts', 3)}   "
            f"crashes {run.get('crashCount', 0)}",
        ),
        ("worker", str(run.get("claimedBy") or "-")),
        ("created", clock_time(_date(run.get("createdAt")))),
        ("started", clock_time(_date(run.get("startedAt")))),
        ("ended", clock_time(_date(run.get("completedAt") or run.get("failedAt") or run.get("canceledAt")))),
    ]
    metrics = _dict(run.get("metrics"))
    if metrics:
        lines.append(
            ("metrics", "   ".join(f"{name} {_number(value)}" for name, value in sorted(metrics.items())))
        )
    if run.get("errorCode"):
        lines.append(("error", f"{run['errorCode']}: {run.get('errorMessage')}"))
    for name, value in lines:
        style = STATUS_STYLE.get(value, "") if name == "status" else "red" if name == "error" else ""
        out.print(Text.assemble((f"{name:>9}  ", "dim"), (value, style)))


@click.command()
@click.argument("run_id")
@click.option("--follow", "-f", is_flag=True, help="Wait for more, until the run has ended.")
@click.option("--since", metavar="TIME", help="Only from then on: 10m, 2h, or an RFC 3339 time.")
@click.option("--tail", type=click.IntRange(1, 1000), default=100, show_default=True)
@click.option("--level", type=click.Choice(["debug", "info", "warn", "error"]), help="This level and above.")
@json_option
def logs(run_id: str, follow: bool, since: str | None, tail: int, level: str | None, as_json: bool) -> None:
    """What the run said."""
    store = open_store()
    run = resolve_run(ReadModels(store.database), run_id)
    pages = EventReader(store.database)
    wanted = EventFilter((LOG_TYPE,), level, _since(since))
    items = pages.read_page(run["_id"], wanted, tail).items[::-1]
    _print_logs(items, as_json)
    position = items[-1]["position"] if items else 0
    while follow:
        ended = (
            status_of(store, run["_id"]) in TERMINAL_STATUSES
        )  # before the look: what came before the end is still shown
        page = pages.read_page(run["_id"], wanted, 500, position, newest_first=False)
        _print_logs(page.items, as_json)
        position = page.items[-1]["position"] if page.items else position
        if ended and not page.items:
            return
        time.sleep(0.0 if page.items else 0.5)


def _print_logs(items: list[Document], as_json: bool) -> None:
    for event in items:
        data = _dict(event.get("data"))
        if as_json:
            print_json({"time": event.get("time"), "attempt": event.get("attempt"), **data})
            continue
        level = str(data.get("level", "info"))
        stamp = _date(event.get("time"))
        at = stamp.astimezone().strftime("%H:%M:%S") if stamp else "-"
        text = f"{at} {level[:5]:5} {data.get('message', '')}"
        click.secho(text, fg={"error": "red", "warn": "yellow", "warning": "yellow"}.get(level))


@click.command()
@click.argument("run_id")
def watch(run_id: str) -> int:
    """Follow a run live. Exit code 0 when it completes, 1 when it fails or is canceled."""
    store = open_store()
    return follow_run(store, str(resolve_run(ReadModels(store.database), run_id)["_id"]))


def follow_run(store: StoreSession, run_id: str) -> int:
    from pod_worker.cli.runs.watch import watch_runs

    return watch_runs(store, [run_id])


@click.command()
@click.argument("run_id")
@json_option
def why(run_id: str, as_json: bool) -> None:
    """Why the run is where it is, and what to do."""
    from pod_worker.cli.runs.why import explain

    store = open_store()
    run = resolve_run(ReadModels(store.database), run_id)
    lines = explain(store, run)
    if as_json:
        print_json({"id": run["_id"], "status": run.get("status"), "why": lines})
    else:
        click.echo("\n".join(lines))


@click.command()
@json_option
def stats(as_json: bool) -> None:
    """How many runs are in which state, by queue."""
    depth = QueueStatsReader(open_store().database).read()
    if as_json:
        print_json(
            {
                "byStatus": depth.by_status,
                "byQueue": depth.by_queue,
                "oldestQueuedSeconds": depth.oldest_queued_seconds,
                "leasesLive": depth.leases_live,
            }
        )
        return
    print_table(
        ["status", "runs"], [[s, str(n)] for s, n in sorted(depth.by_status.items())], {"status": STATUS_STYLE}
    )
    for queue, seconds in sorted(depth.oldest_queued_seconds.items()):
        say(f"oldest waiting run in {queue}: {span(seconds)}")


def resolve_run(models: ReadModels, run_id: str) -> Document:
    """The run of this id, or the only one whose id begins or ends like this."""
    run = models.run(run_id)
    if run is not None:
        return run
    near = models.ids_with_prefix(run_id, 3)
    if len(near) == 1:
        found = models.run(near[0])
        if found is not None:
            return found
    if near:
        raise CommandError(f"{run_id!r} fits several runs: {', '.join(near)}", ExitCode.NOT_FOUND)
    raise CommandError(
        f"there is no run {run_id!r}; `pod-worker runs list` shows what there is", ExitCode.NOT_FOUND
    )


def status_of(store: StoreSession, run_id: str) -> str | None:
    found = store.database.runs.find_one({"_id": run_id}, {"status": 1})
    return str(found["status"]) if found else None


def _dict(value: Json) -> dict[str, Json]:
    return value if isinstance(value, dict) else {}


def _date(value: Json) -> datetime | None:
    return value if isinstance(value, datetime) else None


def _percent(stage: Document) -> str:
    progress = stage.get("progress")
    return f"{bar(progress, 10)} {progress:4.0%}" if isinstance(progress, int | float) else "-"


def _seconds(value: Json) -> str:
    return span(value) if isinstance(value, int | float) else "-"


def _number(value: Json) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)


def _summary(event: Document) -> str:
    data = {k: v for k, v in _dict(event.get("data")).items() if k not in ("run_id", "traceback", "kv")}
    return " ".join(f"{name}={_number(value)}" for name, value in data.items())[:120]


def parse_age(text: str) -> timedelta:
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(text[-1:], 0)
    try:
        if not unit:
            raise ValueError
        return timedelta(seconds=float(text[:-1]) * unit)
    except ValueError:
        raise CommandError(f"{text!r} is no age; write 30s, 10m, 12h or 30d", ExitCode.USAGE) from None


def _since(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return datetime.now(UTC) - parse_age(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
