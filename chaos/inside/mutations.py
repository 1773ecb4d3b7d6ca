"""Guards of the product taken out, one at a time, inside the processes of a chaos run.

A checker that has only ever seen green proves nothing: with CHAOS_SABOTAGE set, `python -m chaos` must end red.
Loaded by `sitecustomize` beside it, before the product runs; what must then be missed is in `chaos.sabotage`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any


def _replace(owner: object, name: str, new: object) -> None:
    setattr(owner, name, new)


def token() -> None:
    """Writes of an attempt are filtered by the run's id alone."""
    from pod_worker.store import artifact_registry
    from pod_worker.store.queue import run_queue

    for module in (run_queue, artifact_registry):
        _replace(module, "fence_filter", lambda fence: {"_id": fence.run_id})


def self_fence() -> None:
    """The guard trusts every lease for ever, and the supervisor lets a lost child live."""
    from pod_worker.worker.isolation.guarded_child import GuardedChild

    begin = GuardedChild.__init__
    _replace(GuardedChild, "__init__", lambda self, command, lease, spec: begin(self, command, 9999.0, spec))
    _replace(GuardedChild, "set_lease_deadline", lambda self, seconds: None)
    _replace(GuardedChild, "kill", lambda self: None)


def checkpoints() -> None:
    """No attempt skips a finished stage."""
    from pod_worker.core.run import Run

    _replace(Run, "is_done", lambda self, stage: False)


def append() -> None:
    """One event in two hundred is lost between `emit` and the disk."""
    from pod_worker.outbox.spool import Spool

    write = Spool.append

    def lossy(self: Spool, *line: Any) -> Any:
        return [] if random.random() < 0.005 else write(self, *line)

    _replace(Spool, "append", lossy)


def acknowledge() -> None:
    """A request that failed counts as taken."""
    from pod_worker.outbox import ingest_client

    send = ingest_client.IngestClient.send

    def hopeful(self: ingest_client.IngestClient, lines: Any, token: str | None) -> ingest_client.SendResult:
        answer = send(self, lines, token)
        return ingest_client.BatchAccepted() if isinstance(answer, ingest_client.Unavailable) else answer

    _replace(ingest_client.IngestClient, "send", hopeful)


def rescue() -> None:
    """A lease is over four and a half seconds before its end."""
    from pod_worker.store.queue import rescue as rescues

    expired = rescues.expired_lease_filter

    def early() -> dict[str, Any]:
        return expired() | {"$expr": {"$lt": [{"$subtract": ["$leaseExpiresAt", 4500]}, "$$NOW"]}}

    _replace(rescues, "expired_lease_filter", early)


def versions() -> None:
    """Whatever arrives last wins."""
    from pod_worker.store.views import versioned, writer

    for module in (versioned, writer):
        _replace(module, "is_newer", lambda mark, version: {"$literal": True})


SABOTAGES: dict[str, Callable[[], None]] = {
    "token": token,
    "self_fence": self_fence,
    "checkpoints": checkpoints,
    "append": append,
    "acknowledge": acknowledge,
    "rescue": rescue,
    "versions": versions,
}
