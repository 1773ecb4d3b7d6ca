"""`pod-worker hypotheses …`: create, list, show and launch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import click

from pod_worker.cli.completion import complete_hypotheses
from pod_worker.cli.composition import StoreSession, open_store
from pod_worker.cli.document_values import as_datetime, as_mapping, as_text
from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.cli.options import json_option, limit_option
from pod_worker.cli.output import STATUS_STYLE, age, print_fields, print_json, print_line, print_table, say
from pod_worker.cli.runs.lookup import current_user, listed_json
from pod_worker.cli.runs.parameters import param_options, read_given_params
from pod_worker.core.research.ideation import (
    DEFAULT_GENERATIONS,
    DEFAULT_REFLECTIONS,
    EXPERIMENT_PIPELINE,
    GENERATIONS_LIMIT,
    REFLECTIONS_LIMIT,
)
from pod_worker.core.run import Json
from pod_worker.store.ideation.hypotheses import Hypotheses, HypothesisRequest
from pod_worker.store.ideation.operations import ExperimentLaunch, HypothesisNotFoundError
from pod_worker.store.ideation.requests import IdeationRequest, IdeationRequests
from pod_worker.store.mongo import Document
from pod_worker.store.views.read_models import ReadModels, RunFilter

RUNS_SHOWN = 10
TEXT_SHOWN = 1_000
SCRIPTED = "the scripted model, no language model"

hypothesis_argument = click.argument("hypothesis_id", metavar="HYPOTHESIS", shell_complete=complete_hypotheses)
reflections_option = click.option(
    "--reflections",
    type=click.IntRange(1, REFLECTIONS_LIMIT),
    default=DEFAULT_REFLECTIONS,
    show_default=True,
    metavar="N",
    help=f"Rounds of criticism of each idea, 1 to {REFLECTIONS_LIMIT}.",
)
generations_option = click.option(
    "--generations",
    type=click.IntRange(1, GENERATIONS_LIMIT),
    default=DEFAULT_GENERATIONS,
    show_default=True,
    metavar="N",
    help=f"Ideas to write, 1 to {GENERATIONS_LIMIT}.",
)


@click.group()
def hypotheses() -> None:
    """Create hypotheses, choose ideas, launch experiments."""


@hypotheses.command()
@click.option("--title", required=True, help="What the hypothesis is about, in a few words.")
@click.option("--idea", "text", required=True, metavar="TEXT", help="The hypothesis in words.")
@click.option(
    "--context",
    "context_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="A text file with what a model should know besides.",
)
@click.option(
    "--idea-json",
    "idea_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="A complete idea as a JSON object; then no ideation is needed.",
)
@click.option("--ideate", is_flag=True, help="Also queue an ideation request.")
@reflections_option
@generations_option
@click.option("--launch", is_flag=True, help="Queue the experiment as soon as an idea is there.")
@param_options
@json_option
def create(
    title: str,
    text: str,
    context_file: Path | None,
    idea_file: Path | None,
    ideate: bool,
    reflections: int,
    generations: int,
    launch: bool,
    pairs: tuple[str, ...],
    params_file: str | None,
    as_json: bool,
) -> None:
    """Store a hypothesis and print its id.

    -p and --params are parameters of the experiment that --launch queues.
    """
    from ulid import ULID

    if launch and not (ideate or idea_file):
        raise CommandError(
            "--launch needs an idea. Add --ideate, or give one with --idea-json FILE.", ExitCode.USAGE
        )
    idea = _read_idea_file(idea_file) if idea_file else None
    params = read_given_params(EXPERIMENT_PIPELINE, pairs, params_file) if launch else {}
    by, name = current_user(), str(ULID())
    context = _read_text(context_file) if context_file else None
    hypothesis = HypothesisRequest(id=name, title=title, text=text, context=context, idea=idea, created_by=by)
    request = IdeationRequest(
        id=str(ULID()), hypothesis_id=name, reflections=reflections, max_num_generations=generations, created_by=by
    )
    asked = ExperimentLaunch(hypothesis_id=name, run_id=str(ULID()), params=params, by=by)
    store = open_store(with_indexes=True)
    store.ideation_operations().create(hypothesis, request if ideate else None, asked if launch else None)
    shown = {"id": name, "ideationId": request.id if ideate else None, "runId": asked.run_id if launch else None}
    _print_created(shown, as_json, has_idea=idea is not None)


def _print_created(shown: Mapping[str, Json], as_json: bool, *, has_idea: bool) -> None:
    if as_json:
        print_json(shown)
        return
    print_line(str(shown["id"]))
    if request_id := shown["ideationId"]:
        say(f"ideation is queued. Follow it: pod-worker runs watch {request_id}")
    if run_id := shown["runId"]:
        when = "is queued" if has_idea else "is queued as soon as an idea is there"
        say(f"experiment {run_id} {when}")
    if not (request_id or run_id):
        say(f"stored. Let a model write ideas: pod-worker ideation submit {shown['id']}")


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except (OSError, ValueError) as error:
        raise CommandError(f"--context {path}: {error}. Give a text file in UTF-8.", ExitCode.USAGE) from None


def _read_idea_file(path: Path) -> dict[str, Json]:
    from pod_worker.core.research.idea import read_idea

    try:
        value = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise CommandError(f"--idea-json {path}: {error}. Give a JSON object.", ExitCode.USAGE) from None
    return read_idea(value).to_json()


@hypotheses.command("list")
@limit_option("At most N hypotheses.")
@click.option("--all", "with_hidden", is_flag=True, help="Hidden hypotheses too.")
@json_option
def list_hypotheses(limit: int, with_hidden: bool, as_json: bool) -> None:
    """List hypotheses, newest first."""
    found = Hypotheses(open_store().database).newest(limit, with_hidden)
    if as_json:
        print_json(found)
        return
    rows = [_row(each) for each in found]
    print_table(["id", "title", "ideation", "ideas", "created"], rows, {"ideation": STATUS_STYLE})
    if not found:
        say("no hypotheses yet. Create one: pod-worker hypotheses create --title T --idea TEXT")


def _row(document: Document) -> list[str]:
    ideation, created = as_mapping(document.get("ideation")), as_datetime(document.get("createdAt"))
    return [
        str(document["_id"]),
        as_text(document.get("title")) or "-",
        as_text(ideation.get("status")) or "-",
        str(ideation.get("ideaCount") or (1 if as_mapping(document.get("ideaJson")) else 0)),
        f"{age(created)} ago" if created else "-",
    ]


@hypotheses.command()
@hypothesis_argument
@json_option
def show(hypothesis_id: str, as_json: bool) -> None:
    """Show a hypothesis, its ideas and its runs."""
    store = open_store()
    document = resolve_hypothesis(store, hypothesis_id)
    name = str(document["_id"])
    requests = IdeationRequests(store.database).newest(RUNS_SHOWN, name)
    runs = ReadModels(store.database).runs(RunFilter(hypothesis_id=name), RUNS_SHOWN).items
    if as_json:
        print_json({"hypothesis": document, "requests": requests, "runs": [listed_json(run) for run in runs]})
        return
    print_fields(_fields(document))
    print_ideas(as_mapping(document.get("ideation")).get("ideas"), as_mapping(document.get("ideaJson")))
    if requests:
        rows = [request_row(each) for each in requests]
        print_table(["request", "status", "ideas", "created", "error"], rows, {"status": STATUS_STYLE})
    if runs:
        cells = [[str(run["_id"]), str(run.get("pipeline", "-")), str(run.get("status", "-"))] for run in runs]
        print_table(["run", "pipeline", "status"], cells, {"status": STATUS_STYLE})


def _fields(document: Document) -> list[tuple[str, str]]:
    created, chosen = as_datetime(document.get("createdAt")), as_mapping(document.get("ideaSource"))
    fields = [
        ("hypothesis", str(document["_id"])),
        ("title", as_text(document.get("title")) or "-"),
        ("idea", (as_text(document.get("idea")) or "-")[:TEXT_SHOWN]),
        ("context", (as_text(document.get("additionalContext")) or "")[:TEXT_SHOWN]),
        ("created", f"{age(created)} ago by {document.get('createdBy') or '-'}" if created else "-"),
        ("ideation", _ideation_text(as_mapping(document.get("ideation")))),
        ("written by", SCRIPTED if as_mapping(document.get("ideation")).get("isScripted") is True else ""),
        ("selected", as_text(as_mapping(document.get("ideaJson")).get("Title")) or "-"),
        ("selected by", as_text(chosen.get("by")) or ""),
    ]
    if document.get("launchWhenReady") is True:
        fields.append(("launch", f"experiment {document.get('launchRunId')} waits for an idea"))
    if error := as_text(document.get("launchError")):
        fields.append(("launch", f"refused: {error}"))
    return [(name, value) for name, value in fields if value]


def _ideation_text(ideation: Mapping[str, Json]) -> str:
    status = as_text(ideation.get("status"))
    if status is None:
        return "-"
    error = as_text(ideation.get("error"))
    return f"{status}: {error}" if error else status


def print_ideas(ideas: Json, selected: Mapping[str, Json]) -> None:
    """The ideas of a request, with the index that `hypotheses launch` takes."""
    rows = [
        [str(index), "*" if idea == selected else "", str(idea.get("Title", "-")), str(idea.get("Task") or "-")]
        for index, idea in enumerate(ideas if isinstance(ideas, list) else [])
        if isinstance(idea, dict)
    ]
    if rows:
        print_table(["index", "selected", "title", "task"], rows)


def request_row(request: Document) -> list[str]:
    created = as_datetime(request.get("createdAt"))
    return [
        str(request["_id"]),
        str(request.get("status", "-")),
        str(request.get("ideaCount") or 0),
        f"{age(created)} ago" if created else "-",
        as_text(request.get("error")) or "-",
    ]


@hypotheses.command()
@hypothesis_argument
@click.option(
    "--idea-index",
    type=click.IntRange(0, GENERATIONS_LIMIT - 1),
    metavar="N",
    help="Select this idea of the current ideation request first. [default: the selected idea]",
)
@param_options
@click.option("--watch", "then_watch", is_flag=True, help="Follow the run until it has ended.")
@json_option
def launch(
    hypothesis_id: str,
    idea_index: int | None,
    pairs: tuple[str, ...],
    params_file: str | None,
    then_watch: bool,
    as_json: bool,
) -> int:
    """Queue an experiment and print its id.

    It is about the selected idea, or about the one of --idea-index.

    -p and --params are parameters of the experiment: pod-worker pipelines show experiment.
    """
    from ulid import ULID

    from pod_worker.cli.runs.submit import print_queued

    params = read_given_params(EXPERIMENT_PIPELINE, pairs, params_file)
    store = open_store(with_indexes=True)
    asked = ExperimentLaunch(
        hypothesis_id=str(resolve_hypothesis(store, hypothesis_id)["_id"]),
        run_id=str(ULID()),
        index=idea_index,
        params=params,
        by=current_user(),
    )
    run = store.ideation_operations().launch(asked)
    return print_queued(store, run, then_watch=then_watch, as_json=as_json)


def resolve_hypothesis(store: StoreSession, hypothesis_id: str) -> Document:
    """The hypothesis with this id, or the only one whose id begins with it.

    Raises HypothesisNotFoundError.
    """
    found = Hypotheses(store.database)
    document = found.document(hypothesis_id)
    if document is not None:
        return document
    near = [name for name, _ in found.ids_with_prefix(hypothesis_id, 3)] if hypothesis_id else []
    if len(near) == 1 and (document := found.document(near[0])) is not None:
        return document
    if near:
        raise HypothesisNotFoundError(f"{hypothesis_id!r} is the beginning of several ids: {', '.join(near)}")
    raise HypothesisNotFoundError(
        f"there is no hypothesis {hypothesis_id[:200]!r}. See `pod-worker hypotheses list`."
    )
