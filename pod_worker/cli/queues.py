"""`pod-worker queues` and `pod-worker workers`: what waits where, who is there, pause and resume."""

from __future__ import annotations

import os

import click

from pod_worker.cli.composition import open_store
from pod_worker.cli.output import age, print_json, print_table, say, span
from pod_worker.store.queue.stats import QueueStatsReader
from pod_worker.store.worker_registry import WorkerRegistry


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
@click.pass_context
def queues(ctx: click.Context, as_json: bool) -> None:
    """What waits where; pause and resume a queue."""
    if ctx.invoked_subcommand:
        return
    store = open_store()
    depth, paused = QueueStatsReader(store.database).read(), store.queue().paused()
    names = sorted(depth.by_queue.keys() | paused)
    if as_json:
        print_json([{"queue": n, "paused": n in paused, "byStatus": depth.by_queue.get(n, {})} for n in names])
        return
    rows = []
    for name in names:
        counts = depth.by_queue.get(name, {})
        oldest = depth.oldest_queued_seconds.get(name)
        active = counts.get("SCHEDULED", 0) + counts.get("RUNNING", 0)
        rows.append(
            [
                name,
                "paused" if name in paused else "open",
                str(counts.get("QUEUED", 0)),
                str(active),
                span(oldest) if oldest else "-",
            ]
        )
    print_table(["queue", "state", "waiting", "running", "oldest waits"], rows, {"state": {"paused": "yellow"}})


@queues.command()
@click.argument("name")
def pause(name: str) -> None:
    """Nobody claims from this queue any more; runs in progress go on."""
    open_store().operations().pause(name, by=os.environ.get("USER"))
    say(f"queue {name} is paused")


@queues.command()
@click.argument("name")
def resume(name: str) -> None:
    """Let workers claim from this queue again."""
    open_store().operations().resume(name, by=os.environ.get("USER"))
    say(f"queue {name} is open")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
def workers(as_json: bool) -> None:
    """Which workers there are, the last seen first."""
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
                    "lastSeen": w.last_seen,
                    "reason": w.reason,
                }
                for w in found
            ]
        )
        return
    rows = [
        [w.worker_id, w.mode, w.state, w.run_id or "-", w.gpu or "-", age(w.last_seen), w.reason or ""]
        for w in found
    ]
    styles = {"state": {"busy": "green", "refusing": "red", "stopped": "dim", "draining": "yellow"}}
    print_table(["worker", "mode", "state", "run", "gpu", "seen", "reason"], rows, styles)
