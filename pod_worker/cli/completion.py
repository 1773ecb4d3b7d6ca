"""What the shell completes: ids, names and labels of runs, pipelines, queues.

A completion must be quick and must never print an error into the line that is being typed: without an answer
within CONNECT_SECONDS there are no proposals.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import click
from click.shell_completion import CompletionItem

from pod_worker.core.run import RunStatus

if TYPE_CHECKING:
    from pod_worker.store.views.read_models import ReadModels

T = TypeVar("T")

CONNECT_SECONDS = 0.3
PROPOSALS = 30

Command = Callable[..., object]


def run_id_argument(command: Command) -> Command:
    """RUN: an id, the beginning of one, or a name."""
    return click.argument("run_id", metavar="RUN", shell_complete=complete_run_ids)(command)


def complete_run_ids(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The newest runs whose id or name begins so.

    Shells that can show it get pipeline and status.
    """
    taken = ctx.params.get(param.name or "") or ()
    found = _read(lambda models: _run_ids(models, incomplete))
    return [CompletionItem(run_id, help=text) for run_id, text in found if run_id not in taken]


def _run_ids(models: ReadModels, incomplete: str) -> list[tuple[str, str]]:
    ids = [(each, f"{pipeline} {status}") for each, pipeline, status in models.newest_ids(incomplete, PROPOSALS)]
    return ids + [(name, "newest run of this name") for name in models.names_with_prefix(incomplete, PROPOSALS)]


def label_option(what: str) -> Callable[[Command], Command]:
    """`--label NAME=VALUE`, repeated, as `labels`."""
    return click.option(
        "--label", "labels", multiple=True, metavar="NAME=VALUE", shell_complete=complete_labels, help=what
    )


def complete_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of runs that begin so."""
    found = _read(lambda models: models.names_with_prefix(incomplete, PROPOSALS))
    return [CompletionItem(name) for name in found]


def complete_labels(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """`NAME=VALUE` of the labels that the newest runs have."""
    found = _read(lambda models: models.newest_labels(incomplete, PROPOSALS))
    return [CompletionItem(label) for label in found]


def complete_statuses(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Statuses; behind a comma, another one."""
    before, comma, part = incomplete.rpartition(",")
    names = [status.value for status in RunStatus]
    return [CompletionItem(before + comma + each) for each in names if each.startswith(part.upper())]


def _read(read: Callable[[ReadModels], list[T]]) -> list[T]:
    """What the database answers within CONNECT_SECONDS; nothing when it does not."""
    try:
        import pymongo

        from pod_worker.cli.composition import connect_store
        from pod_worker.stack_settings import load_settings
        from pod_worker.store.views.read_models import ReadModels

        store = connect_store(load_settings(), "pod_worker completion", CONNECT_SECONDS)
        # Each operation has a limit too: a server that has accepted the connection may still not answer.
        with store.database.client, pymongo.timeout(CONNECT_SECONDS):
            return read(ReadModels(store.database))
    except Exception:  # away, wrong settings, wrong password: completing is never the place to say so
        return []


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
    from pod_worker.cli.composition import connect_store
    from pod_worker.stack_settings import load_settings
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
    """Queues of the worker modes, and those that runs are in."""
    from pod_worker.pipelines import MODES

    names = {name for queues in MODES.values() for name in queues}
    names.update(_read(lambda models: models.queues()))
    return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]
