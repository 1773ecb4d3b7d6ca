"""`pod-worker queues` and `workers`: what waits where, which workers exist.

It also has pause and resume.
"""

from __future__ import annotations

import click

from pod_worker.cli.completion import complete_queues
from pod_worker.cli.composition import StoreSession, open_store
from pod_worker.cli.options import json_option
from pod_worker.cli.output import age, is_terminal, print_json, print_line, print_table, say, span
from pod_worker.cli.runs.lookup import current_user
from pod_worker.pipelines import MODES
from pod_worker.store.queue.stats import QueueStatsReader
from pod_worker.store.worker_registry import WorkerRecord, WorkerRegistry, offer_document
from pod_worker.worker.machine import names_of_gpu


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def queues(ctx: click.Context, as_json: bool) -> None:
    """Show queues; pause and resume them."""
    if ctx.invoked_subcommand:
        return
    store = open_store()
    stats, paused = QueueStatsReader(store.database).read(), store.queue().paused()
    names = sorted(stats.by_queue.keys() | paused | served_queues())
    if as_json:
        print_json(
            [
                {
                    "queue": name,
                    "paused": name in paused,
                    "served": name in served_queues(),
                    "byStatus": stats.by_queue.get(name, {}),
                }
                for name in names
            ]
        )
        return
    rows = []
    for name in names:
        counts = stats.by_queue.get(name, {})
        oldest = stats.oldest_queued_seconds.get(name)
        running = counts.get("SCHEDULED", 0) + counts.get("RUNNING", 0)
        state = "paused" if name in paused else "open" if name in served_queues() else "no worker mode"
        rows.append(
            [name, state, str(counts.get("QUEUED", 0)), str(running), "-" if oldest is None else span(oldest)]
        )
    styles = {"state": {"paused": "yellow", "no worker mode": "red"}}
    print_table(["queue", "state", "waiting", "running", "longest wait"], rows, styles)


def served_queues() -> set[str]:
    return {name for queues in MODES.values() for name in queues}


@queues.command()
@click.argument("name", shell_complete=complete_queues)
def pause(name: str) -> None:
    """Stop workers from claiming runs of a queue. Running runs continue."""
    store = open_store()
    _warn_of_unknown(store, name)
    store.operations().pause(name, by=current_user())
    say(f"queue {name} is paused")


@queues.command()
@click.argument("name", shell_complete=complete_queues)
def resume(name: str) -> None:
    """Let workers claim runs of a queue again."""
    store = open_store()
    _warn_of_unknown(store, name)
    store.operations().resume(name, by=current_user())
    say(f"queue {name} is open")


def _warn_of_unknown(store: StoreSession, name: str) -> None:
    known = served_queues() | QueueStatsReader(store.database).read().by_queue.keys()
    if name not in known:
        say(f"warning: no run and no worker mode uses queue {name!r}; there are: {', '.join(sorted(known))}")


@click.command()
@json_option
def workers(as_json: bool) -> None:
    """List workers, the last seen first.

    "gone": the worker has not reported for minutes and did not say that it stops.
    """
    found = WorkerRegistry(open_store().database).list()
    if as_json:
        print_json(
            [
                {
                    "id": w.worker_id,
                    "pod": w.pod_id,
                    "mode": w.mode,
                    "state": w.state,
                    "runId": w.run_id,
                    "gpu": w.gpu,
                    "gpuCount": w.offer.gpu_count if w.offer else None,
                    "offer": offer_document(w.offer) if w.offer else None,
                    "lastSeen": w.last_seen,
                    "lastState": w.last_state,
                    "reason": w.reason,
                }
                for w in found
            ]
        )
        return
    rows = [[w.worker_id, w.mode, w.state, w.run_id or "-", _gpus(w), f"{age(w.last_seen)} ago"] for w in found]
    styles = {"state": {"busy": "green", "refusing": "red", "gone": "red", "stopped": "dim", "draining": "yellow"}}
    columns = ["worker", "mode", "state", "run", "gpu", "seen"]
    if is_terminal():
        print_table(columns, rows, styles, cut=("gpu",))
        for each in found:  # a sentence, too long for a column
            if each.reason:
                print_line(f"{each.worker_id}: {each.reason}")
    else:
        reasons = [[*row, each.reason or "-"] for row, each in zip(rows, found, strict=True)]
        print_table([*columns, "reason"], reasons)
    if not rows:
        say("no workers yet. Start one: pod-worker worker --mode all")


def _gpus(worker: WorkerRecord) -> str:
    """`2 × RTX 4090`: the shortest name, and how many where there are several."""
    if worker.gpu is None:
        return "-"
    name = min(names_of_gpu(worker.gpu), key=len)
    count = worker.offer.gpu_count if worker.offer else 1
    return f"{count} × {name}" if count > 1 else name
