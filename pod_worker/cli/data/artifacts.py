"""`pod-worker artifacts …`: what runs have produced, downloads and uploads.

A download's hash is checked.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from pod_worker.cli.completion import complete_run_ids, run_id_argument
from pod_worker.cli.composition import StoreSession, open_store
from pod_worker.cli.data.run_files import run_files
from pod_worker.cli.downloads import STDOUT, ArtifactDownloader
from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.cli.options import json_option
from pod_worker.cli.output import print_json, print_line, say, size
from pod_worker.cli.progress import ByteProgress
from pod_worker.cli.runs.detail import artifact_json, print_artifacts
from pod_worker.cli.runs.lookup import resolve_run
from pod_worker.cli.uploads import upload_artifact
from pod_worker.core.lease import UnleasedRun
from pod_worker.core.stage import ArtifactKind
from pod_worker.snapshots.output_kinds import output_kind
from pod_worker.stack_settings import load_settings
from pod_worker.store import artifact_registry
from pod_worker.store.artifact_registry import ArtifactRow
from pod_worker.store.views.read_models import ReadModels

KINDS = [each.value for each in ArtifactKind]


@click.group()
def artifacts() -> None:
    """List, download and add what runs have produced."""


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
@click.option("--kind", type=click.Choice(KINDS), help="Only artifacts of this kind.")
@click.option("--force", is_flag=True, help="Overwrite files that have other contents.")
def get(source: str, name: str | None, output: Path | None, kind: str | None, force: bool) -> None:
    """Download artifacts and check their hashes.

    KEY names one artifact. RUN and NAME name a file of the run's latest attempt that has it, or every file below
    the folder NAME; RUN alone names every file of the run. Outputs of a command get their folders back. A file
    that is here already is not downloaded again.
    """
    store = open_store(load_settings())
    with ArtifactDownloader(store) as downloader:
        files = _find(store, source, name, kind, downloader)
        if output == STDOUT and len(files) > 1:
            raise CommandError(f"{len(files)} files cannot go to stdout. Name one of them.", ExitCode.USAGE)
        is_alone = len(files) == 1 and not files[0].is_in_folder
        wanted = [(file, _target(file, output, is_alone)) for file in files]
        missing = [each for each in wanted if not _is_here(*each)]
        if not force:
            _refuse_to_overwrite([target for _, target in missing if target not in (output, STDOUT)])
        _download(downloader, missing)
    if len(missing) < len(wanted):
        say(f"{len(wanted) - len(missing)} of {len(wanted)} files were here already")


def _download(downloader: ArtifactDownloader, missing: list[tuple[_File, Path]]) -> None:
    written = []
    with ByteProgress("download", sum(file.row.bytes or 0 for file, _ in missing)) as progress:
        for file, target in missing:
            sha256 = downloader.download(file.row, target, progress.add)
            if target == STDOUT:
                continue
            if file.is_executable:
                mode = target.stat().st_mode
                target.chmod(mode | (mode & 0o444) >> 2)  # for those who may read it
            written.append(f"wrote {target} ({size(target.stat().st_size)}, sha256 {sha256[:12]}… checked)")
    for line in written:
        say(line)


@artifacts.command()
@run_id_argument
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--name", metavar="NAME", help="Name, also with folders. [default: that of the file]")
@click.option("--kind", type=click.Choice(KINDS), help="[default: by the end of the name]")
@json_option
def put(run_id: str, file: Path, name: str | None, kind: str | None, as_json: bool) -> None:
    """Add a file to a run that no worker holds."""
    settings = load_settings()
    run = resolve_run(ReadModels(open_store(settings).database), run_id)
    name = name or file.name
    writer = UnleasedRun(str(run["_id"]), int(run.get("attempt") or 0))
    with ByteProgress("upload", file.stat().st_size) as progress:
        made = upload_artifact(
            settings, writer, file, ArtifactKind(kind) if kind else output_kind(name), name, progress.add
        )
    if as_json:
        print_json(asdict(made))
        return
    print_line(made.key)
    if not made.key.endswith(f"/{name}"):
        say("the run has these bytes already, or another file of this name: the key shows the name they have")
    say(f"{size(made.bytes)} stored as {made.kind}: pod-worker artifacts get {made.key}")


@dataclass(frozen=True, slots=True)
class _File:
    row: ArtifactRow
    path: str  # relative, below the output folder
    is_in_folder: bool = False  # selected with its folder
    is_executable: bool = False


def _find(
    store: StoreSession, source: str, name: str | None, kind: str | None, downloader: ArtifactDownloader
) -> list[_File]:
    if name is None and source.startswith("runs/"):
        row = artifact_registry.at_key(store.database, source)
        if row is None or kind not in (None, row.kind):
            raise CommandError(
                f"There is no artifact {source!r}{_of_kind(kind)}. "
                "`pod-worker artifacts list RUN` shows the keys.",
                ExitCode.NOT_FOUND,
            )
        return [_File(row, source.rsplit("/", 1)[-1])]
    run_id = str(resolve_run(ReadModels(store.database), source)["_id"])
    found = {
        path: each
        for path, each in run_files(artifact_registry.of_run(store.database, run_id), downloader).items()
        if kind in (None, each.row.kind)
    }
    if name is not None and name in found:
        return [_File(found[name].row, name.rsplit("/", 1)[-1], is_executable=found[name].is_executable)]
    folder = "" if name is None else f"{name.rstrip('/')}/"
    files = [
        _File(each.row, path, True, each.is_executable)
        for path, each in sorted(found.items())
        if path.startswith(folder)
    ]
    if not files:
        shown = f"no artifact {name!r}" if name else "no artifacts"
        raise CommandError(
            f"Run {run_id} has {shown}{_of_kind(kind)}. `pod-worker artifacts list {run_id}` shows the keys.",
            ExitCode.NOT_FOUND,
        )
    return files


def _of_kind(kind: str | None) -> str:
    return f" of kind {kind}" if kind else ""


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
