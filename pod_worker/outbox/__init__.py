"""The outbox: events go to this machine's disk first, then to ingest.

A training process needs only what is exported here; `outbox.shipper` (and with it the HTTP client) is
imported by the supervisor alone.
"""

from pod_worker.outbox.emitter import PodEmitter, RunEmitter
from pod_worker.outbox.ids import UlidGenerator
from pod_worker.outbox.spool import Spool, SpoolInUseError, adopt_orphans

__all__ = ["PodEmitter", "RunEmitter", "Spool", "SpoolInUseError", "UlidGenerator", "adopt_orphans"]
