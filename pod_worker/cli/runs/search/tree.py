"""`runs tree`: the search tree of a run, while it runs and afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click

from pod_worker.cli.completion import run_id_argument
from pod_worker.cli.composition import StoreSession, open_store
from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.cli.options import json_option
from pod_worker.cli.output import print_json, print_line, say
from pod_worker.cli.runs.lookup import resolve_run
from pod_worker.cli.runs.search.search_tree import NODE_TYPES, tree_lines, tree_of
from pod_worker.stack_settings import load_settings
from pod_worker.store.events.reader import EventFilter, EventReader
from pod_worker.store.mongo import Document
from pod_worker.store.views.read_models import ReadModels

PICTURE = "reproduction/tree.svg"
_PAGE = 1_000


@click.command()
@run_id_argument
@click.option(
    "--svg",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Also download the picture of the tree, which a run publishes after its last search stage.",
)
@json_option
def tree(run_id: str, svg: Path | None, as_json: bool) -> None:
    """Print the search tree of a run, one line a node.

    Scores are those of the search split. ● scored, ✗ without a score, ▸ running, … waiting, ★ selected.
    """
    store = open_store(load_settings())
    run = resolve_run(ReadModels(store.database), run_id)
    nodes = tree_of(_node_events(store, str(run["_id"])))
    if as_json:
        print_json([asdict(node) for node in nodes])
    elif nodes:
        for line in tree_lines(nodes):
            print_line(line)
    else:
        say(_explain_empty(run))
    if svg:
        _save_picture(store, str(run["_id"]), svg)


def _node_events(store: StoreSession, run_id: str) -> Iterator[Document]:
    reader, cursor = EventReader(store.database), None
    while True:
        page = reader.read_page(run_id, EventFilter(NODE_TYPES), _PAGE, cursor, newest_first=False)
        yield from page.items
        if page.next_cursor is None:
            return
        cursor = page.next_cursor


def _explain_empty(run: Document) -> str:
    if run.get("pipeline") != "experiment":
        return f"a run of the pipeline {run.get('pipeline')} has no search tree; runs of `experiment` have one"
    return f"this run has no nodes yet (status {run.get('status')}). Follow it: pod-worker runs watch {run['_id']}"


def _save_picture(store: StoreSession, run_id: str, target: Path) -> None:
    from pod_worker.cli.downloads import ArtifactDownloader, latest_artifacts
    from pod_worker.store import artifact_registry

    row = latest_artifacts(artifact_registry.of_run(store.database, run_id)).get(PICTURE)
    if row is None:
        raise CommandError(
            f"Run {run_id} has no artifact {PICTURE} yet: a run publishes it after Stage_4. Wait for that stage "
            f"(pod-worker runs watch {run_id}), then run this again.",
            ExitCode.NOT_FOUND,
        )
    with ArtifactDownloader(store) as downloader:
        downloader.download(row, target)
    say(f"wrote {target}")
