"""Builds the objects that commands use from the settings."""

from __future__ import annotations

import atexit
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from pymongo.synchronous import monitor

from pod_worker.config import SettingOrigin, Settings, load_with_origins
from pod_worker.core.clock import SystemClock
from pod_worker.local.description import StackDescription, read_description, read_keys
from pod_worker.store.mongo import Mongo, check_reachable, connect, ensure_indexes

if TYPE_CHECKING:
    from pod_worker.store.ideation.operations import IdeationOperations
    from pod_worker.store.ideation.sweep import IdeationSweep
    from pod_worker.store.queue.operations import OperatorActions
    from pod_worker.store.queue.rescue import Rescue
    from pod_worker.store.queue.run_edits import RunEdits
    from pod_worker.store.queue.run_queue import RunQueue

LOCAL_DATA = "~/.pod_worker/local"


@dataclass(frozen=True, slots=True)
class StoreSession:
    """A checked connection and what commands do with it."""

    database: Mongo
    url: str
    settings: Settings

    # Imported when they are needed: most commands only read.

    def queue(self) -> RunQueue:
        from pod_worker.store.queue.run_queue import RunQueue

        return RunQueue(
            self.database,
            SystemClock(),
            lease_seconds=self.settings.pod_worker_lease_seconds,
            margin_seconds=self.settings.margin_seconds,
        )

    def operations(self) -> OperatorActions:
        from pod_worker.store.queue.operations import OperatorActions

        return OperatorActions(self.database)

    def edits(self) -> RunEdits:
        from pod_worker.store.queue.run_edits import RunEdits

        return RunEdits(self.database)

    def ideation_operations(self) -> IdeationOperations:
        from pod_worker.pipelines import find_pipeline
        from pod_worker.store.ideation.operations import IdeationOperations

        return IdeationOperations(
            self.database, self.queue(), lambda name, params: find_pipeline(name).check_params(params)
        )

    def ideation(self) -> IdeationSweep:
        from pod_worker.store.ideation.sweep import IdeationSweep

        return IdeationSweep(self.database, self.queue())

    def rescue(self) -> Rescue:
        from pod_worker.store.queue.rescue import Rescue

        return Rescue(self.database)


def local_data_dir(given: Path | None = None) -> Path:
    """The folder of the local stack: given, POD_WORKER_DATA, or in the home folder."""
    return (given or Path(os.environ.get("POD_WORKER_DATA") or LOCAL_DATA)).expanduser().resolve()


def hash_cache_folder() -> Path | None:
    """For the hashes of unchanged files; None without a home folder."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pod_worker"
    except RuntimeError:
        return None


def load_settings() -> Settings:
    """Settings of the environment.

    Without MONGODB_URL they are those of the running local stack.
    """
    return load_settings_with_origins()[0]


def load_settings_with_origins() -> tuple[Settings, list[SettingOrigin]]:
    settings, origins = load_with_origins()
    if settings.mongodb_url:
        return settings, origins
    folder = local_data_dir()
    stack = read_description(folder)
    if stack is None:
        return settings, origins
    filled_in = {name: value for name, value in _stack_variables(stack).items() if not os.environ.get(name)}
    settings, origins = load_with_origins({**os.environ, **filled_in})
    source = f"local stack {folder}"
    return settings, [replace(each, source=source) if each.name in filled_in else each for each in origins]


def _stack_variables(stack: StackDescription) -> dict[str, str]:
    """The settings with which commands reach a local stack."""
    values = {
        "MONGODB_URL": stack.mongodb_url,
        "CONTROL_PLANE_URL": stack.control_plane_url,
        "CONTROL_PLANE_TOKEN": stack.token,
    }
    if keys := read_keys(stack.s3_keys_file):
        access, secret = keys
        values |= {"MINIO_ENDPOINT": stack.s3_url, "MINIO_BUCKET": stack.s3_bucket}
        values |= {"MINIO_ACCESS_KEY": access, "MINIO_SECRET_KEY": secret}
    return {name: value for name, value in values.items() if value}


def open_store(
    settings: Settings | None = None, *, with_indexes: bool = False, app_name: str = "pod_worker cli"
) -> StoreSession:
    """Raises ConfigurationError, MongoUrlError or StoreUnreachableError.

    Each has its fix.
    """
    store = connect_store(settings or load_settings(), app_name)
    check_reachable(store.database, store.url)
    if with_indexes:
        create_indexes(store.database)
    return store


def connect_store(settings: Settings, app_name: str, timeout_seconds: float = 5.0) -> StoreSession:
    """Connects lazily; the client is closed when the command ends, also by an error."""
    url = settings.require_mongodb_url()
    database = connect(url, app_name=app_name, timeout_seconds=timeout_seconds)
    _skip_monitor_shutdown()
    if command := click.get_current_context(silent=True):
        command.find_root().call_on_close(database.client.close)
    return StoreSession(database, url, settings)


def _skip_monitor_shutdown() -> None:
    """End without waiting for pymongo's monitors.

    They look up twice a second only: that would be most of a short command's time. They are daemon threads
    and may end with the process.
    """
    wait = getattr(monitor, "_shutdown_resources", None)  # not a public name: without it, commands end later
    if wait is not None:
        atexit.unregister(wait)


def create_indexes(database: Mongo) -> None:
    """Every index of every collection.

    What is there already costs one round trip each.
    """
    from pod_worker.store import indexes

    ensure_indexes(database, indexes.all_indexes())
