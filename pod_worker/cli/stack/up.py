"""`pod-worker up` and `demo`: the whole product on one machine.

They need nothing but installed packages.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import click

from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.cli.output import is_terminal, say
from pod_worker.cli.stack.identity import StackIdentity, mongodb_port, read_identity, write_identity
from pod_worker.config import INSTANCE_VARIABLE, Settings, load
from pod_worker.core.credentials.secret import revealed
from pod_worker.local.description import without_password
from pod_worker.local.process import ChildProcess, free_port, require_free
from pod_worker.local.s3 import S3Access, parse_endpoint
from pod_worker.local.stack import Stack, stop_on_signals
from pod_worker.pipelines import MODES
from pod_worker.stack_settings import local_data_dir

DEFAULT_PORT = 8787
RESTART_SECONDS = 5.0  # a worker that ends sooner would end again


class LocalStack:
    """MongoDB, S3, the control plane and N workers, as children of this process."""

    def __init__(self, data: Path, stop: threading.Event, port: int | None = 0) -> None:
        """A stack.

        `port` is the control plane's. 0: a free one; None: DEFAULT_PORT, or a free one when that is busy.
        """
        settings = load()
        earlier = read_identity(data)
        self.data = data
        self.token = revealed(settings.control_plane_token) or earlier.token
        self.port = (earlier.control_port or DEFAULT_PORT) if port is None else port or free_port()
        self._may_move = not port
        # Without a key on this machine only while no person chose one: a chosen key may be meant for a proxy.
        self._access = [] if settings.control_plane_token else ["--open-on-loopback"]
        self._instance = secrets.token_hex(8)
        given = _s3_from_settings(settings)
        self.stack = Stack(
            data,
            mongodb_url=revealed(settings.mongodb_url),
            s3=given,
            mongodb_port=earlier.free_mongodb_port(),
            stop=stop,
        )

    @property
    def url(self) -> str:
        return _url(self.port)

    def start(self) -> None:
        """Raises LocalStackError before anything starts when the port is busy.

        The port that was asked for.
        """
        if not self._may_move:
            require_free(self.port)
        self.stack.start()
        self.port = self.stack.start_server(
            "control",
            lambda port: _argv("control", "--port", str(port), *self._access),
            self.env(**{INSTANCE_VARIABLE: self._instance}),
            ready=lambda port: is_ready(_url(port), self._instance),
            port=self.port,
            may_move=self._may_move,
        )
        self.stack.publish(control_plane_url=self.url, token=self.token)
        write_identity(self.data, StackIdentity(self.token, self.port, mongodb_port(self.stack.mongodb_url)))

    def start_worker(self, name: str, *words: str, **env: str) -> ChildProcess:
        return self.stack.start_process(
            name, _argv("worker", *words), self.worker_env(**env), role="worker", grace_seconds=60
        )

    def env(self, **more: str) -> dict[str, str]:
        s3 = self.stack.s3
        return {
            **os.environ,
            "MONGODB_URL": self.stack.mongodb_url,
            "CONTROL_PLANE_URL": self.url,
            "CONTROL_PLANE_TOKEN": self.token,
            "MINIO_ENDPOINT": s3.url,
            "MINIO_ACCESS_KEY": s3.access_key,
            "MINIO_SECRET_KEY": s3.secret_key,
            "MINIO_BUCKET": s3.bucket,
            **more,
        }

    def worker_env(self, **more: str) -> dict[str, str]:
        """The environment of a worker, without the keys of the control plane.

        Pods never hold those.
        """
        withheld = ("MINIO_", "ENCRYPTION_KEY")
        kept = {name: value for name, value in self.env().items() if not name.startswith(withheld)}
        folders = {
            "POD_WORKER_SPOOL_DIR": str(self.data / "spool"),
            "POD_WORKER_WORK_DIR": str(self.data / "work"),
        }
        return {**folders, **kept, **more}


def is_ready(url: str, instance: str) -> bool:
    """Whether the control plane at `url` is ready and has this instance id."""
    import http.client
    import urllib.request

    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=2) as answer:
            found = json.load(answer)
    except (OSError, ValueError, http.client.HTTPException):
        return False
    return isinstance(found, dict) and found.get("instance") == instance


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def _s3_from_settings(settings: Settings) -> S3Access | None:
    access, secret = settings.minio_access_key, settings.minio_secret_key
    if not settings.minio_endpoint:
        return None
    if access is None or secret is None:
        raise CommandError("MINIO_ENDPOINT needs MINIO_ACCESS_KEY and MINIO_SECRET_KEY beside it", ExitCode.USAGE)
    host, secure = parse_endpoint(settings.minio_endpoint)
    return S3Access(host, access.reveal(), secret.reveal(), settings.minio_bucket, secure)


def _argv(*words: str) -> list[str]:
    return [sys.executable, "-m", "pod_worker", *words]


@click.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder for all files. [default: POD_WORKER_DATA or ~/.pod_worker/local]",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help=f"Port of the control plane; 0: a free one. [default: {DEFAULT_PORT}, or a free one when that is busy]",
)
@click.option("--workers", type=click.IntRange(0, 64), default=1, show_default=True, help="Number of workers.")
@click.option(
    "--mode", type=click.Choice(list(MODES)), default="all", show_default=True, help="Mode of the workers."
)
def up(data: Path | None, port: int | None, workers: int, mode: str) -> int:
    """Run the local stack until Ctrl-C: MongoDB, S3, control plane, workers.

    Other commands of this user find the stack in the default folder; for another one, export POD_WORKER_DATA=DIR.
    In a pipe the command prints one JSON line with the addresses (also in DIR/stack.json).
    """
    stop = threading.Event()
    local = LocalStack(local_data_dir(data), stop, port)
    with stop_on_signals(stop):
        return _run(local, stop, workers, mode)


def _run(local: LocalStack, stop: threading.Event, workers: int, mode: str) -> int:
    say(f"starting MongoDB, S3 and the control plane in {local.data} …")
    try:
        wanted = local.port
        local.start()
        if local.port != wanted:
            say(f"port {wanted} is busy: the control plane listens on {local.port} instead")
        starts = {f"worker-{number}": time.monotonic() for number in range(1, workers + 1)}
        for name in starts:
            local.start_worker(name, "--mode", mode)
        if not is_terminal():
            described = local.stack.describe()
            shown = replace(described, mongodb_url=without_password(described.mongodb_url))
            click.echo(shown.to_json())
        say(f"ready: open {local.url}/   (logs in {local.data / 'logs'}; Ctrl-C stops everything)")
        while not stop.is_set():
            exited = local.stack.watch()
            if exited is None:
                break
            say(f"{exited.name} ended with code {exited.code}:\n{exited.log_tail}")
            if exited.name not in starts:
                return ExitCode.FAILED
            local.stack.remove(exited.name)
            if time.monotonic() - starts[exited.name] < RESTART_SECONDS:
                say(f"{exited.name} ended too soon after its start and is not restarted; see its log above")
                continue
            say(f"restarting {exited.name}")
            local.start_worker(exited.name, "--mode", mode)
            starts[exited.name] = time.monotonic()
        return ExitCode.OK
    finally:
        say("stopping …")
        local.stack.stop()
