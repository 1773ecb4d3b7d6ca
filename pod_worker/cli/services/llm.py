"""`pod-worker llm replay`: recorded answers of a language model over HTTP.

For tests and demos without a key.
"""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.cli.output import say

if TYPE_CHECKING:
    from pod_worker.llm.cassettes.faults import ModelFault
    from pod_worker.llm.cassettes.recording import RecordingUpstream


@click.group()
def llm() -> None:
    """Serve recorded answers of language models; record them."""


@llm.command()
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@click.option("--port", type=click.IntRange(0, 65535), default=0, show_default=True, help="0 takes a free one.")
@click.option(
    "--latency", type=click.FloatRange(0, 3600), default=0.0, show_default=True, help="Seconds before each answer."
)
@click.option(
    "--fault",
    "fault_texts",
    multiple=True,
    metavar="KIND[:OPERATION][@FIRST[xCOUNT]][=SECONDS]",
    help="A fault by schedule, e.g. rate_limit@2 or truncated_json:node.draft@1x3. Repeatable.",
)
@click.option(
    "--record",
    "record_url",
    metavar="BASE_URL",
    help="Ask this provider for what has no cassette, and write one (costs money).",
)
def replay(folder: Path, port: int, latency: float, fault_texts: tuple[str, ...], record_url: str | None) -> None:
    """Serve the cassettes in DIR in the forms of OpenAI and Anthropic.

    Prints its address as one JSON line: set `openai_base_url` as OPENAI_BASE_URL or `anthropic_base_url` as
    ANTHROPIC_BASE_URL. GET /counts shows what was asked. It listens on this machine only, until Ctrl-C.
    """
    from pod_worker.config import known_secrets
    from pod_worker.core.credentials.secret import Redactor
    from pod_worker.llm.cassettes.cassette import CassetteError, Cassettes
    from pod_worker.llm.cassettes.replay import Replay
    from pod_worker.llm.cassettes.replay_server import ReplayServer

    faults = _read_faults(fault_texts)
    upstream = None if record_url is None else _open_upstream(record_url, folder)
    try:
        cassettes = Cassettes(folder, Redactor(known_secrets()))
    except CassetteError as error:
        raise CommandError(str(error), ExitCode.USAGE) from None
    if not len(cassettes) and upstream is None:
        raise CommandError(f"{folder} holds no cassettes. Record some with --record BASE_URL.", ExitCode.USAGE)
    try:
        server = ReplayServer(Replay(cassettes, latency_seconds=latency, faults=faults, upstream=upstream), port)
    except OSError as error:
        raise CommandError(f"port {port} cannot be used: {error.strerror}. Take another --port.") from None
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    with server:
        addresses = {"openai_base_url": server.openai_url, "anthropic_base_url": server.url, "url": server.url}
        click.echo(json.dumps(addresses))
        say(f"{len(cassettes)} cassettes from {folder}; Ctrl-C ends the server")
        stopped.wait()


def _read_faults(texts: tuple[str, ...]) -> list[ModelFault]:
    from pod_worker.llm.cassettes.faults import ModelFaultError, read_fault

    try:
        return [read_fault(text) for text in texts]
    except ModelFaultError as error:
        raise CommandError(str(error), ExitCode.USAGE) from None


def _open_upstream(url: str, folder: Path) -> RecordingUpstream:
    """The key is the setting's; without one, what clients send is passed on."""
    from pod_worker.core.credentials.secret import has_credentials
    from pod_worker.llm.cassettes.recording import RecordingUpstream
    from pod_worker.stack_settings import load_settings

    if not url.startswith(("http://", "https://")) or has_credentials(url):
        raise CommandError("--record needs an http:// or https:// address without a password", ExitCode.USAGE)
    folder.mkdir(parents=True, exist_ok=True)
    settings = load_settings()
    is_anthropic = "anthropic" in url
    return RecordingUpstream(url, settings.anthropic_api_key if is_anthropic else settings.openai_api_key)
