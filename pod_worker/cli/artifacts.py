"""`pod-worker artifacts …`: what runs have produced, and downloads.

A download's hash is checked.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

import click
import requests

from pod_worker.artifacts.keys import ArtifactKey, InvalidNameError
from pod_worker.cli.completion import complete_run_ids, run_id_argument
from pod_worker.cli.composition import StoreSession, load_settings, open_store
from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.cli.options import json_option
from pod_worker.cli.output import print_json, say, size
from pod_worker.cli.runs.detail import artifact_json, print_artifacts
from pod_worker.cli.runs.lookup import resolve_run
from pod_worker.core.bearer import BearerAuth
from pod_worker.core.secret import revealed
from pod_worker.store import artifact_registry
from pod_worker.store.artifact_registry import ArtifactRow
from pod_worker.store.views.read_models import ReadModels

_TIMEOUT_SECONDS = (10.0, 60.0)
_BLOCK_BYTES = 1024 * 1024
STDOUT = Path("-")


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
    with _Downloader(store) as downloader:
        for file, target in missing:
            downloader.download(file, target)
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
    latest = _latest(artifact_registry.of_run(store.database, run_id))
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


def _latest(rows: list[ArtifactRow]) -> dict[str, ArtifactRow]:
    """By filename, the registered artifact of the latest attempt."""
    found: dict[str, tuple[int, ArtifactRow]] = {}
    for row in rows:
        try:
            key = ArtifactKey.read(row.key)
        except InvalidNameError:
            continue
        if row.verified_at is not None and key.attempt >= found.get(key.filename, (0, row))[0]:
            found[key.filename] = key.attempt, row
    return {filename: row for filename, (_, row) in found.items()}


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


class _Downloader:
    def __init__(self, store: StoreSession) -> None:
        self._url = store.settings.control_plane_url.rstrip("/")
        self._auth = BearerAuth(revealed(store.settings.control_plane_token))
        self._session = requests.Session()
        self._session.auth = BearerAuth(None)

    def __enter__(self) -> _Downloader:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def download(self, file: _File, target: Path) -> None:
        """Raises CommandError; writes nothing under the target's name then."""
        digest, received = hashlib.sha256(), 0
        with self._opened(file.row.key) as response, _written(target) as out:
            for block in response.iter_content(_BLOCK_BYTES):
                received += len(block)
                if file.row.bytes is not None and received > file.row.bytes:
                    raise CommandError(
                        f"{file.row.key} is longer than the {file.row.bytes} bytes that were registered. The "
                        "stored object is damaged: publish it again."
                    )
                digest.update(block)
                out.write(block)
            if file.row.sha256 and digest.hexdigest() != file.row.sha256:
                raise CommandError(
                    f"{file.row.key} arrived with another hash than was registered. The stored object is damaged: "
                    "publish it again."
                )
        if target != STDOUT:
            say(f"wrote {target} ({size(target.stat().st_size)}, sha256 {digest.hexdigest()[:12]}… checked)")

    @contextmanager
    def _opened(self, key: str) -> Iterator[requests.Response]:
        """The object's bytes.

        The control plane's key goes to the control plane only, not to the object store.
        """
        try:
            link = self._session.get(
                f"{self._url}/api/artifacts/{quote(key)}",
                auth=self._auth,
                timeout=_TIMEOUT_SECONDS,
                allow_redirects=False,
            )
            if link.status_code != 307:
                raise _failed(link)
            with self._session.get(link.headers["Location"], stream=True, timeout=_TIMEOUT_SECONDS) as response:
                if not response.ok:
                    raise _failed(response)
                yield response
        except requests.RequestException as error:
            raise CommandError(
                f"The download of {key} failed ({type(error).__name__}). Check that {self._url} and the object "
                "store can be reached.",
                ExitCode.TEMPORARY,
            ) from None


def _failed(response: requests.Response) -> CommandError:
    codes = {401: ExitCode.AUTH, 403: ExitCode.AUTH, 404: ExitCode.NOT_FOUND, 503: ExitCode.TEMPORARY}
    return CommandError(
        f"The download failed: {response.status_code} {response.text[:200]}",
        codes.get(response.status_code, ExitCode.FAILED),
    )


@contextmanager
def _written(target: Path) -> Iterator[BinaryIO]:
    """stdout, or a file that gets its name only when the block ends without an error."""
    if target == STDOUT:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.part")
    try:
        with open(partial, "wb") as file:
            yield file
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
