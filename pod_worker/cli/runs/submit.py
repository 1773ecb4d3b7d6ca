"""`pod-worker runs submit`: queue runs.

Parameters are checked here, before anything is written.
"""

from __future__ import annotations

import click

from pod_worker.cli.completion import complete_pipelines, complete_queues, label_option
from pod_worker.cli.composition import StoreSession, open_store
from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.cli.options import DurationText, Int64, Number, json_option, parse_pair
from pod_worker.cli.output import print_json, print_json_line, print_line, say
from pod_worker.cli.runs.parameters import param_options, read_params
from pod_worker.core.run import DEFAULT_MAX_ATTEMPTS, Requirements, Run
from pod_worker.store.queue.run_queue import RunRequest

ENQUEUE_BATCH = 1000


@click.command()
@click.argument("pipeline", shell_complete=complete_pipelines)
@param_options
@click.option("--queue", shell_complete=complete_queues, help="Another queue than the pipeline's own.")
@click.option(
    "--priority",
    type=Int64(),
    default=0,
    show_default=True,
    metavar="N",
    help="Runs with a higher number are claimed first.",
)
@click.option(
    "--max-attempts",
    type=Int64(1),
    default=DEFAULT_MAX_ATTEMPTS,
    show_default=True,
    metavar="N",
    help="Give up after N failed attempts, whatever ended them. Crashes count since the last checkpoint.",
)
@click.option(
    "--max-duration", type=DurationText(), metavar="TIME", help="End an attempt after this time, e.g. 90m or 24h."
)
@click.option(
    "--unique-key", metavar="KEY", help="Queue at most one run with this key; return that run if it exists."
)
@click.option("--gpu", help="Only on a pod with this GPU, e.g. 'RTX 4090'.")
@click.option("--min-vram-gb", type=Number(0, 1e6), metavar="GB", help="Only on a pod with this much GPU memory.")
@click.option("--region", help="Only on a pod in this region.")
@label_option("A label; repeat it for several.")
@click.option("--count", type=Int64(1, 1_000_000), default=1, metavar="N", help="Queue N runs alike.")
@click.option("--watch", "then_watch", is_flag=True, help="Follow the runs until they have ended.")
@json_option
def submit(
    pipeline: str,
    pairs: tuple[str, ...],
    params_file: str | None,
    queue: str | None,
    priority: int,
    max_attempts: int,
    max_duration: float | None,
    unique_key: str | None,
    gpu: str | None,
    min_vram_gb: float | None,
    region: str | None,
    labels: tuple[str, ...],
    count: int,
    then_watch: bool,
    as_json: bool,
) -> int:
    """Queue a run of PIPELINE and print its id.

    `pod-worker pipelines list` lists the pipelines; `pod-worker pipelines show PIPELINE` explains the parameters.
    """
    from ulid import ULID

    params = read_params(pipeline, {}, pairs, params_file)
    if unique_key is not None and not unique_key.strip():
        raise CommandError("--unique-key is empty. Give a key or leave the option out.", ExitCode.USAGE)
    if unique_key and count > 1:
        raise CommandError("--unique-key allows one run and --count asks for several. Drop one.", ExitCode.USAGE)
    warn_of_unserved_queue(queue)
    requests = [
        RunRequest(
            id=str(ULID()),
            pipeline=pipeline,
            params=params,
            queue=queue,
            priority=priority,
            max_attempts=max_attempts,
            max_duration_seconds=max_duration,
            unique_key=unique_key,
            requirements=Requirements(gpu, min_vram_gb, region),
            labels=dict(map(parse_pair, labels)),
        )
        for _ in range(count)
    ]
    return enqueue(open_store(with_indexes=True), requests, then_watch=then_watch, as_json=as_json)


def warn_of_unserved_queue(queue: str | None) -> None:
    from pod_worker.pipelines import MODES

    served = {name for queues in MODES.values() for name in queues}
    if queue is not None and queue not in served:
        say(
            f"warning: no worker mode serves queue {queue!r}; there are: {', '.join(sorted(served))}. "
            f"Start a worker for it: pod-worker worker --queue {queue}"
        )


def enqueue(store: StoreSession, requests: list[RunRequest], *, then_watch: bool, as_json: bool) -> int:
    """Queue them, print their ids, and follow them on request."""
    if len(requests) == 1:
        ids = [_enqueue_one(store, requests[0], then_watch, as_json)]
    else:
        ids = _enqueue_many(store, requests, then_watch, as_json)
    return _follow(store, ids, then_watch, as_json)


def print_queued(store: StoreSession, run: Run, *, then_watch: bool, as_json: bool) -> int:
    """Print the id of a queued run, and follow it on request."""
    _print_one(run, True, None, then_watch, as_json)
    return _follow(store, [run.id], then_watch, as_json)


def _follow(store: StoreSession, ids: list[str], then_watch: bool, as_json: bool) -> int:
    if not then_watch:
        return ExitCode.OK
    from pod_worker.cli.runs.watch import watch_runs

    return watch_runs(store, ids, as_json=as_json)


def _enqueue_one(store: StoreSession, request: RunRequest, then_watch: bool, as_json: bool) -> str:
    run, is_new = store.queue().enqueue(request)
    return _print_one(run, is_new, request.unique_key, then_watch, as_json)


def _print_one(run: Run, is_new: bool, unique_key: str | None, then_watch: bool, as_json: bool) -> str:
    if as_json:
        shown = {"id": run.id, "ids": [run.id], "status": run.status.value, "new": is_new}
        (print_json_line if then_watch else print_json)(shown)
        return run.id
    print_line(run.id)
    if not is_new:
        say(f"not queued: the run with the key {unique_key!r} exists already ({run.status})")
    elif not then_watch:
        say(f"queued. Follow it: pod-worker runs watch {run.id}")
    return run.id


def _enqueue_many(store: StoreSession, requests: list[RunRequest], then_watch: bool, as_json: bool) -> list[str]:
    queue = store.queue()
    for start in range(0, len(requests), ENQUEUE_BATCH):
        queue.enqueue_many(requests[start : start + ENQUEUE_BATCH])
    ids = [request.id for request in requests]
    if as_json:
        shown = {"id": None, "ids": ids, "status": "QUEUED", "new": True}
        (print_json_line if then_watch else print_json)(shown)
    else:
        print_line("\n".join(ids))
    say(f"queued {len(ids)} runs")
    return ids
