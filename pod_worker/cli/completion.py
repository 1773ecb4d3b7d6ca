"""What the shell completes: ids of runs, pipelines, parameters and queues.

A completion must be quick and must never print an error into the line that is being typed: without an answer
within CONNECT_SECONDS there are no proposals.
"""

from __future__ import annotations

from collections.abc import Callable

import click
from click.shell_completion import CompletionItem

CONNECT_SECONDS = 0.2
PROPOSALS = 30

Command = Callable[..., object]


def run_id_argument(command: Command) -> Command:
    return click.argument("run_id", shell_complete=complete_run_ids)(command)


def complete_run_ids(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The newest runs whose id begins so.

    Shells that can show it get pipeline and status.
    """
    taken = ctx.params.get(param.name or "") or ()
    try:
        found = _run_ids(incomplete)
    except Exception:  # away, wrong settings, wrong password: completing is never the place to say so
        return []
    return [CompletionItem(run_id, help=text) for run_id, text in found if run_id not in taken]


def _run_ids(incomplete: str) -> list[tuple[str, str]]:
    from pod_worker.cli.composition import connect_store, load_settings
    from pod_worker.store.views.read_models import ReadModels

    store = connect_store(load_settings(), "pod_worker completion", CONNECT_SECONDS)
    with store.database.client:
        found = ReadModels(store.database).newest_ids(incomplete, PROPOSALS)
    return [(run_id, f"{pipeline} {status}") for run_id, pipeline, status in found]


def complete_hypotheses(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The ids of hypotheses that begin so, with their titles."""
    return _proposals("hypotheses", incomplete)


def complete_requests(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The ids of ideation requests that begin so, with their states."""
    return _proposals("requests", incomplete)


def _proposals(kind: str, incomplete: str) -> list[CompletionItem]:
    try:
        found = _research_ids(kind, incomplete)
    except Exception:  # as for runs
        return []
    return [CompletionItem(name, help=text) for name, text in found]


def _research_ids(kind: str, incomplete: str) -> list[tuple[str, str]]:
    from pod_worker.cli.composition import connect_store, load_settings
    from pod_worker.store.ideation.hypotheses import Hypotheses
    from pod_worker.store.ideation.requests import IdeationRequests

    store = connect_store(load_settings(), "pod_worker completion", CONNECT_SECONDS)
    with store.database.client:
        rows = Hypotheses(store.database) if kind == "hypotheses" else IdeationRequests(store.database)
        return rows.ids_with_prefix(incomplete, PROPOSALS)


def complete_pipelines(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from pod_worker.pipelines import PIPELINES

    found = [pipeline for pipeline in PIPELINES.values() if pipeline.name.startswith(incomplete)]
    return [CompletionItem(pipeline.name, help=pipeline.summary) for pipeline in found]


def complete_params(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """`NAME=` of the pipeline's parameters.

    They are those of all pipelines where the line names a run.
    """
    import msgspec

    from pod_worker.pipelines import PIPELINES

    # Click leaves positional words in `args` when the option before them has no value yet.
    words = [ctx.params.get("pipeline"), *ctx.args]
    pipelines = [PIPELINES[word] for word in words if word in PIPELINES] or list(PIPELINES.values())
    names = [each.name for pipeline in pipelines for each in msgspec.structs.fields(pipeline.params)]
    return [CompletionItem(f"{name}=") for name in dict.fromkeys(names) if name.startswith(incomplete)]


def complete_queues(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from pod_worker.pipelines import MODES

    names = {name for queues in MODES.values() for name in queues}
    return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]
