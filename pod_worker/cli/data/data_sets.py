"""`pod-worker data …`: data sets that are uploaded once and named by every run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec

from pod_worker.cli.composition import load_settings
from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.cli.options import json_option
from pod_worker.cli.output import print_json, print_line, say, size
from pod_worker.content.upload_client import ContentClient, ContentUploadError
from pod_worker.core.credentials.secret import revealed


@click.group()
def data() -> None:
    """Upload data sets and list them."""


@data.command("put")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--name", metavar="NAME", help="Name of the data set. [default: that of the file]")
@json_option
def put_data(file: Path, name: str | None, as_json: bool) -> None:
    """Upload a file once and print its key.

    `-p dataset=KEY` of a training accepts the key on any pod.
    """
    with _client() as client:
        try:
            found = client.put_data(file, name)
        except OSError as error:
            fix = "Check the path and its permissions."
            raise CommandError(f"{file}: {error.strerror or error}. {fix}", ExitCode.USAGE) from None
    if as_json:
        print_json(msgspec.to_builtins(found))
        return
    print_line(found.key)
    say(f"{size(found.bytes)} stored; use it: -p dataset={found.key}")


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
        print_line(f"{each.key}  {size(each.bytes)}")
    if not found:
        say("no data sets: pod-worker data put FILE")


@contextmanager
def _client() -> Iterator[ContentClient]:
    settings = load_settings()
    try:
        yield ContentClient(settings.control_plane_url, revealed(settings.control_plane_token))
    except ContentUploadError as error:
        raise CommandError(str(error)) from None
