"""`pod-worker artifacts …`: what runs have produced, and downloads.

A download's hash is checked.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import click

from pod_worker.cli.completion import complete_run_ids, run_id_argument
from pod_worker.cli.composition import StoreSession, load_settings, open_store
from pod_worker.cli.downloads import STDOUT, ArtifactDownloader, latest_artifacts
from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.cli.options import json_option
from pod_worker.cli.output import print_json, say, size
from pod_worker.cli.runs.detail import artifact_json, print_artifacts
from pod_worker.cli.runs.lookup import resolve_run
from pod_worker.store import artifact_registry
from pod_worker.store.artifact_registry import ArtifactRow
from pod_worker.store.views.read_models import ReadModels


@click.group()
def artifacts() -> None:
    """List and download what runs have produced."""


@artifacts.command("list")
@run_id_argument
@json_option
def list_artifacts(run_id: str, as_json: bool) -> None:
    """The artifacts of a run."""
    database = open_store().database
    found = artifact_registry.of_run(database, run_id)
    if not found:
        run_id = str(resolve_run(ReadModels(database), run_id)["_id"])
        found = artifact_registry.of_run(database, run_id)
    if as_json:
        print_json([artifact_json(row) for row in found])
        return
    print_artifacts(found)
    say(f"download: pod-worker artifacts get {run_id} NAME" if found else "no artifacts")


@artifacts.command()
@click.argument("source", metavar="KEY|RUN", shell_complete=complete_run_ids)
@click.argument("name", required=False, metavar="[NAME]")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="File to write, `-` for stdout; a folder where there are several files. [default: the current folder]",
)
@click.option("--force", is_flag=True, help="Overwrite files that have other contents.")
def get(source: str, name: str | None, output: Path | None, force: bool) -> None:
    """Download artifacts and check their hashes.

    KEY names one artifact. RUN and NAME name a file of the run's latest attempt that has it, or every file below
    the folder NAME; RUN alone names every file of the run. A file that is here already is not downloaded again.
    """
    store = open_store(load_settings())
    files = _find(store, source, name)
    if output == STDOUT and len(files) > 1:
        raise CommandError(f"{len(files)} files cannot go to stdout. Name one of them.", ExitCode.USAGE)
    is_alone = len(files) == 1 and not files[0].is_in_folder
    wanted = [(file, _target(file, output, is_alone)) for file in files]
    missing = [each for each in wanted if not _is_here(*each)]
    if not force:
        _refuse_to_overwrite([target for _, target in missing if target not in (output, STDOUT)])
    with ArtifactDownloader(store) as downloader:
        for file, target in missing:
            sha256 = downloader.download(file.row, target)
            if target != STDOUT:
                say(f"wrote {target} ({size(target.stat().st_size)}, sha256 {sha256[:12]}… checked)")
    if len(missing) < len(wanted):
        say(f"{len(wanted) - len(missing)} of {len(wanted)} files were here already")


@dataclass(frozen=True, slots=True)
class _File:
    row: ArtifactRow
    path: str  # relative, below the output folder
    is_in_folder: bool = False  # selected with its folder


def _find(store: StoreSession, source: str, name: str | None) -> list[_File]:
    if name is None and source.startswith("runs/"):
        row = artifact_registry.at_key(store.database, source)
        if row is None:
            raise CommandError(
                f"There is no artifact {source!r}. `pod-worker artifacts list RUN` shows the keys.",
                ExitCode.NOT_FOUND,
            )
        return [_File(row, source.rsplit("/", 1)[-1])]
    run_id = str(resolve_run(ReadModels(store.database), source)["_id"])
    latest = latest_artifacts(artifact_registry.of_run(store.database, run_id))
    if name in latest:
        return [_File(latest[name], name.rsplit("/", 1)[-1])]
    folder = "" if name is None else f"{name.rstrip('/')}/"
    files = [_File(row, path, True) for path, row in sorted(latest.items()) if path.startswith(folder)]
    if not files:
        shown = f"no artifact {name!r}" if name else "no artifacts"
        raise CommandError(
            f"Run {run_id} has {shown}. `pod-worker artifacts list {run_id}` shows the keys.", ExitCode.NOT_FOUND
        )
    return files


def _target(file: _File, output: Path | None, is_alone: bool) -> Path:
    if output == STDOUT or (output is not None and is_alone and not output.is_dir()):
        return output
    return (output or Path()) / file.path


def _is_here(file: _File, target: Path) -> bool:
    """Whether the target has the artifact's bytes."""
    if target == STDOUT or not target.is_file() or target.stat().st_size != file.row.bytes:
        return False
    with target.open("rb") as existing:
        return hashlib.file_digest(existing, "sha256").hexdigest() == file.row.sha256


def _refuse_to_overwrite(targets: list[Path]) -> None:
    """A run chooses the names of its artifacts, maybe one that a file here has."""
    if taken := [str(target) for target in targets if os.path.lexists(target)]:
        more = f" and {len(taken) - 3} more" if len(taken) > 3 else ""
        raise CommandError(
            f"{', '.join(taken[:3])}{more}: already here, with other contents. Nothing was downloaded. Name "
            "another place with -o, or pass --force to overwrite.",
            ExitCode.USAGE,
        )
