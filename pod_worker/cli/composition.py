"""Builds the objects that commands use from the settings."""

from __future__ import annotations

import atexit
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click
from pymongo.synchronous import monitor

from pod_worker.config import Settings
from pod_worker.core.clock import SystemClock
from pod_worker.stack_settings import load_settings
from pod_worker.store.mongo import Mongo, check_reachable, connect, ensure_indexes

if TYPE_CHECKING:
    from pod_worker.store.ideation.operations import IdeationOperations
    from pod_worker.store.ideation.sweep import IdeationSweep
    from pod_worker.store.queue.operations import OperatorActions
    from pod_worker.store.queue.rescue import Rescue
    from pod_worker.store.queue.run_edits import RunEdits
    from pod_worker.store.queue.run_queue import RunQueue
    from pod_worker.submission.address import ControlPlaneAddress


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

    def control_plane(self) -> ControlPlaneAddress:
        return control_plane_address(self.settings)

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


def control_plane_address(settings: Settings) -> ControlPlaneAddress:
    from pod_worker.submission.address import ControlPlaneAddress

    return ControlPlaneAddress(settings.control_plane_url, settings.control_plane_token)


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
