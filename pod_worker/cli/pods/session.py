"""The RunPod account of `pod-worker pods`.

Settings, provider, intent log and client are created on demand. Commands import it when they run, not for
`--help`, because it imports requests and paramiko.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import sleep

from pod_worker.cli.composition import open_store
from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.config import read_dotenv
from pod_worker.core.clock import Clock, SystemClock
from pod_worker.core.credentials.secret import revealed
from pod_worker.core.pod_intent import IntentLog
from pod_worker.pods.launch.launcher import Launcher
from pod_worker.pods.launch.sqlite_intents import IntentFile
from pod_worker.pods.pod import Pod
from pod_worker.pods.provider import Absent, Known, PodProvider, Unknown
from pod_worker.pods.runpod_client import RunpodClient, make_client, make_launcher, open_provider
from pod_worker.pods.runpod_settings import RunpodSettings, from_env
from pod_worker.pods.ssh.host_keys import PinFolder
from pod_worker.stack_settings import load_settings


@dataclass
class PodAccount:
    settings: RunpodSettings
    provider: PodProvider
    clock: Clock = field(default_factory=SystemClock)
    sleep: Callable[[float], None] = sleep
    _log: IntentLog | None = None

    @property
    def log(self) -> IntentLog:
        """In MongoDB if it is set, shared by all machines; else in a local file."""
        if self._log is None:
            self._log = _open_log(self.settings)
        return self._log

    @property
    def pins(self) -> PinFolder:
        return PinFolder(self.settings.state_dir.expanduser() / "host_keys")

    def launcher(self) -> Launcher:
        return make_launcher(self.provider, self.log, self.clock, self.sleep)

    def client(self) -> RunpodClient:
        return make_client(self.settings, log=self.log, clock=self.clock)

    def pod(self, pod_id: str) -> Pod:
        read = self.provider.get(pod_id)
        if isinstance(read, Known):
            return read.value
        if isinstance(read, Absent):
            raise CommandError(f"no pod {pod_id}; `pod-worker pods list` shows the ids", ExitCode.NOT_FOUND)
        raise read.error

    def pods(self) -> tuple[Pod, ...]:
        listing = self.provider.list()
        if isinstance(listing, Unknown):
            raise listing.error
        return listing.value

    def close(self) -> None:
        self.provider.close()


@contextmanager
def open_account() -> Iterator[PodAccount]:
    settings = from_env(_environment())
    account = PodAccount(settings, open_provider(settings, SystemClock(), sleep), sleep=sleep)
    try:
        yield account
    finally:
        account.close()


def _environment() -> dict[str, str]:
    """The environment over `.env`, and over both the checked settings.

    The queue's settings come from the local stack if neither has them.
    """
    env = {**read_dotenv(Path(".env")), **{name: value for name, value in os.environ.items() if value}}
    settings = load_settings()
    ours = {
        "RUNPOD_API_KEY": revealed(settings.runpod_api_key),
        "MONGODB_URL": revealed(settings.mongodb_url),
        "CONTROL_PLANE_TOKEN": revealed(settings.control_plane_token),
        "CONTROL_PLANE_URL": settings.control_plane_url if settings.mongodb_url else None,
    }
    return {**env, **{name: value for name, value in ours.items() if value}}


def _open_log(settings: RunpodSettings) -> IntentLog:
    if load_settings().mongodb_url is None:
        return IntentFile(settings.state_dir.expanduser() / "intents.db")
    from pod_worker.store.pod_intents import PodIntents

    intents = PodIntents(open_store().database)
    intents.ensure_indexes()
    return intents
