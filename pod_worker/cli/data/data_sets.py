"""`pod-worker data …`: data sets that are uploaded once and named by every run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec

from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.cli.options import json_option
from pod_worker.cli.output import print_json, print_line, say, size
from pod_worker.cli.progress import ByteProgress
from pod_worker.content.hash_cache import hash_cache_folder
from pod_worker.content.manifest import FILE_LIMIT
from pod_worker.content.tree import TreeError, TreeLimits, scan
from pod_worker.content.upload_client import ContentClient, ContentUploadError, Report
from pod_worker.content.wire import DataSetView
from pod_worker.core.credentials.secret import revealed
from pod_worker.stack_settings import load_settings

LIMITS = TreeLimits(bytes=1 << 42, files=FILE_LIMIT)


@click.group()
def data() -> None:
    """Upload data sets and list them."""


@data.command("put")
@click.argument("path", metavar="FILE|FOLDER", type=click.Path(path_type=Path, exists=True))
@click.option("--name", metavar="NAME", help="Name of the data set. [default: that of the file or folder]")
@json_option
def put_data(path: Path, name: str | None, as_json: bool) -> None:
    """Upload a file or a folder once and print its key.

    `-p dataset=KEY` of a training accepts the key of a file, and KEY/PATH for a file in a folder, on any pod;
    `-p task=KEY` of an experiment accepts a folder. Of a folder, what .gitignore and .podignore name stays here.
    """
    name = name or Path(os.path.abspath(path)).name  # of a link: its own
    with _client() as client, ByteProgress("upload") as progress:
        found = _put(client, path, name, lambda sent: progress.update(sent.sent, sent.total))
    if as_json:
        print_json(msgspec.to_builtins(found))
        return
    print_line(found.key)
    say(f"{_content(found)} stored; use it: " + _usage(found))


def _put(client: ContentClient, path: Path, name: str, progress: Report) -> DataSetView:
    """Raises CommandError, ContentUploadError."""
    try:
        if path.is_dir():
            return client.put_data_folder(scan(path, LIMITS, hash_cache_folder()), name, progress)
        return client.put_data(path, name, progress)
    except TreeError as error:
        raise CommandError(str(error), ExitCode.USAGE) from None
    except OSError as error:
        fix = "Check the path and its permissions."
        raise CommandError(f"{path}: {error.strerror or error}. {fix}", ExitCode.USAGE) from None


def _content(found: DataSetView) -> str:
    files = f"{found.files} files, " if found.files is not None else ""
    return files + size(found.bytes)


def _usage(found: DataSetView) -> str:
    if found.files is None:
        return f"-p dataset={found.key}"
    return f"-p dataset={found.key}FILE, or -p task={found.key}"


@data.command("list")
@json_option
def list_data(as_json: bool) -> None:
    """The data sets, the newest first."""
    with _client() as client:
        found = client.data_sets()
    if as_json:
        print_json([msgspec.to_builtins(each) for each in found])
        return
    for each in found:
        print_line(f"{each.key}  {_content(each)}")
    if not found:
        say("no data sets: pod-worker data put FILE")


@contextmanager
def _client() -> Iterator[ContentClient]:
    settings = load_settings()
    try:
        yield ContentClient(settings.control_plane_url, revealed(settings.control_plane_token))
    except ContentUploadError as error:
        raise CommandError(str(error)) from None
