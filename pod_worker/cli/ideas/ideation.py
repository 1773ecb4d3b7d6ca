"""`pod-worker ideation …`: submit, list and show requests."""

from __future__ import annotations

import click

from pod_worker.cli.completion import complete_hypotheses, complete_requests
from pod_worker.cli.composition import StoreSession, open_store
from pod_worker.cli.document_values import as_datetime, as_text
from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.cli.ideas.hypotheses import (
    SCRIPTED,
    generations_option,
    hypothesis_argument,
    print_ideas,
    reflections_option,
    request_row,
    resolve_hypothesis,
)
from pod_worker.cli.options import json_option, limit_option
from pod_worker.cli.output import STATUS_STYLE, age, print_fields, print_json, print_table, say
from pod_worker.cli.runs.lookup import current_user
from pod_worker.cli.runs.parameters import param_options, read_given_params
from pod_worker.core.research.ideation import PIPELINE
from pod_worker.store.ideation.requests import IdeationRequest, IdeationRequests
from pod_worker.store.mongo import Document


@click.group()
def ideation() -> None:
    """Let a model write ideas about a hypothesis."""


@ideation.command()
@hypothesis_argument
@reflections_option
@generations_option
@param_options
@click.option("--watch", "then_watch", is_flag=True, help="Follow the request's run until it has ended.")
@json_option
def submit(
    hypothesis_id: str,
    reflections: int,
    generations: int,
    pairs: tuple[str, ...],
    params_file: str | None,
    then_watch: bool,
    as_json: bool,
) -> int:
    """Queue a request and print its id.

    Its run has the same id.

    -p and --params are parameters of the run: pod-worker pipelines show ideation.
    """
    from ulid import ULID

    from pod_worker.cli.runs.submit import print_queued

    params = read_given_params(PIPELINE, pairs, params_file)
    store = open_store(with_indexes=True)
    request = IdeationRequest(
        id=str(ULID()),
        hypothesis_id=str(resolve_hypothesis(store, hypothesis_id)["_id"]),
        reflections=reflections,
        max_num_generations=generations,
        params=params,
        created_by=current_user(),
    )
    store.ideation_operations().submit(request)
    run = store.queue().get(request.id)
    assert run is not None  # submit has queued it
    return print_queued(store, run, then_watch=then_watch, as_json=as_json)


@ideation.command("list")
@click.option(
    "--hypothesis", "hypothesis_id", shell_complete=complete_hypotheses, help="Only requests of this hypothesis."
)
@limit_option("At most N requests.")
@json_option
def list_requests(hypothesis_id: str | None, limit: int, as_json: bool) -> None:
    """List ideation requests, newest first."""
    store = open_store()
    name = str(resolve_hypothesis(store, hypothesis_id)["_id"]) if hypothesis_id else None
    found = IdeationRequests(store.database).newest(limit, name)
    if as_json:
        print_json(found)
        return
    rows = [[*request_row(each)[:1], str(each.get("hypothesisId", "-")), *request_row(each)[1:]] for each in found]
    columns = ["id", "hypothesis", "status", "ideas", "created", "error"]
    print_table(columns, rows, {"status": STATUS_STYLE})
    if not found:
        say("no ideation requests. Submit one: pod-worker ideation submit HYPOTHESIS")


@ideation.command()
@click.argument("request_id", metavar="REQUEST", shell_complete=complete_requests)
@json_option
def show(request_id: str, as_json: bool) -> None:
    """Show an ideation request with its ideas."""
    document = _resolve_request(open_store(), request_id)
    if as_json:
        print_json(document)
        return
    status, created = str(document.get("status", "-")), as_datetime(document.get("createdAt"))
    fields = [
        ("request", str(document["_id"])),
        ("hypothesis", str(document.get("hypothesisId", "-"))),
        ("status", status),
        ("reflections", str(document.get("reflections", "-"))),
        ("generations", str(document.get("maxNumGenerations", "-"))),
        ("attempt", str(document.get("attempt", "-"))),
        ("created", f"{age(created)} ago" if created else "-"),
        ("written by", SCRIPTED if document.get("isScripted") is True else ""),
        ("error", as_text(document.get("error")) or ""),
    ]
    shown = [(name, value) for name, value in fields if value]
    print_fields(shown, {"status": STATUS_STYLE.get(status, ""), "error": "red"})
    print_ideas(document.get("ideas"), {})
    if document.get("runId"):
        say(f"its run: pod-worker runs show {document['runId']}")


def _resolve_request(store: StoreSession, request_id: str) -> Document:
    """The request with this id, or the only one whose id begins with it.

    Raises CommandError.
    """
    requests = IdeationRequests(store.database)
    if (document := requests.get(request_id)) is not None:
        return document
    near = [name for name, _ in requests.ids_with_prefix(request_id, 3)] if request_id else []
    if len(near) == 1 and (document := requests.get(near[0])) is not None:
        return document
    if near:
        raise CommandError(
            f"{request_id!r} is the beginning of several ids: {', '.join(near)}", ExitCode.NOT_FOUND
        )
    raise CommandError(
        f"there is no ideation request {request_id!r}. See `pod-worker ideation list`.", ExitCode.NOT_FOUND
    )
