"""`runs replay`: executes the best programs again and compares their scores."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pod_worker.cli.completion import run_id_argument
from pod_worker.cli.composition import StoreSession, open_store
from pod_worker.cli.document_values import as_mapping
from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.cli.options import json_option
from pod_worker.cli.output import print_json, print_table, say
from pod_worker.cli.runs.lookup import resolve_run
from pod_worker.stack_settings import load_settings
from pod_worker.store import artifact_registry
from pod_worker.store.artifact_registry import ArtifactRow
from pod_worker.store.mongo import Document
from pod_worker.store.views.read_models import ReadModels

if TYPE_CHECKING:
    from pod_worker.cli.downloads import ArtifactDownloader
    from pod_worker.sandbox.client import SandboxClient
    from pod_worker.stages.research.replay import ReplayedScore, SearchReplay

RESULTS = "reproduction/results.json"
PROGRAM = "{stage}/best_solution.py"
COLUMNS = ["stage", "node", "score", "recorded", "again", "equal"]


@click.command()
@run_id_argument
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0.0),
    default=1e-9,
    show_default=True,
    metavar="DIFFERENCE",
    help="Scores that differ by no more are equal. Programs on a GPU may need more than the default.",
)
@json_option
def replay(run_id: str, tolerance: float, as_json: bool) -> None:
    """Execute the best programs again and compare scores.

    One program a stage. The data is prepared again on this machine, and must have the recorded digest. The
    programs run in the sandbox with their recorded seeds. The exit code is 1 when a score differs. No model is
    asked.
    """
    store = open_store(load_settings())
    run = resolve_run(ReadModels(store.database), run_id)
    with tempfile.TemporaryDirectory(prefix="replay-", ignore_cleanup_errors=True) as made:
        folder = Path(made)
        folder.chmod(0o711)  # the sandbox's user goes through it
        scores = _replayed(store, run, folder, tolerance)
    _print(scores, as_json)
    different = sorted({each.stage for each in scores if not each.is_equal})
    if different:
        raise CommandError(
            f"{', '.join(different)}: not the recorded scores. Compare this machine's packages with "
            f"reproduction/environment.txt (pod-worker artifacts get {run['_id']} reproduction/environment.txt)."
        )
    say(f"all scores are equal within {tolerance:g}")


def _replayed(store: StoreSession, run: Document, folder: Path, tolerance: float) -> list[ReplayedScore]:
    from pod_worker.cli.downloads import ArtifactDownloader, latest_artifacts

    rows = latest_artifacts(artifact_registry.of_run(store.database, str(run["_id"])))
    with ArtifactDownloader(store) as downloader:
        search = _open_search(run, downloader, rows, folder)

        def program_of(stage: str) -> bytes:
            return _fetched(run, downloader, rows, PROGRAM.format(stage=stage), folder)

        with _sandbox(store) as runner:
            return list(search.run(runner, _NeverStop(), program_of, tolerance))


def _open_search(
    run: Document, downloader: ArtifactDownloader, rows: dict[str, ArtifactRow], folder: Path
) -> SearchReplay:
    from pod_worker.stages.research import params
    from pod_worker.stages.research.replay import SearchReplay, read_recorded

    if run.get("pipeline") != "experiment":
        raise CommandError(
            f"a run of the pipeline {run.get('pipeline')} cannot be replayed; runs of `experiment` can.",
            ExitCode.USAGE,
        )
    recorded = read_recorded(_fetched(run, downloader, rows, RESULTS, folder))
    return SearchReplay(params.parse(as_mapping(run.get("params"))), recorded, folder)


def _fetched(
    run: Document, downloader: ArtifactDownloader, rows: dict[str, ArtifactRow], name: str, folder: Path
) -> bytes:
    if name not in rows:
        raise CommandError(
            f"Run {run['_id']} has no artifact {name}: a run publishes it at the end of its search "
            f"(status {run.get('status')}). Wait for that: pod-worker runs watch {run['_id']}",
            ExitCode.NOT_FOUND,
        )
    target = folder / "fetched" / name
    downloader.download(rows[name], target)
    return target.read_bytes()


@contextmanager
def _sandbox(store: StoreSession) -> Iterator[SandboxClient]:
    from pod_worker.sandbox.client import start_local
    from pod_worker.sandbox.floor import local_floor
    from pod_worker.sandbox.layers import read_floor

    floor = read_floor(store.settings.pod_worker_sandbox_floor)
    lower, note = local_floor()
    if floor is None and lower is not None:
        raise CommandError(
            f"This machine does not reach the sandbox's default floor: {note} To accept that for this run, set "
            f"POD_WORKER_SANDBOX_FLOOR={lower}."
        )
    with start_local(floor=floor) as runner:
        yield runner


class _NeverStop:
    """Ctrl-C ends the command and the sandbox with it."""

    def check(self) -> None:
        pass

    def is_set(self) -> bool:
        return False


def _print(scores: list[ReplayedScore], as_json: bool) -> None:
    if as_json:
        print_json([asdict(each) for each in scores])
        return
    print_table(COLUMNS, [_row(each) for each in scores])
    if not scores:
        say("no stage of this run has a program with a score")


def _row(score: ReplayedScore) -> list[str]:
    again = score.problem if score.again is None else f"{score.again:.9g}"
    is_equal = "yes" if score.is_equal else "no"
    return [score.stage, score.node_id, score.split, f"{score.recorded:.9g}", again, is_equal]
