"""All indexes of all collections, gathered from the modules that need them."""

from __future__ import annotations

from types import ModuleType

from pymongo import IndexModel

from pod_worker.store import (
    artifact_keys,
    artifact_registry,
    content_index,
    pod_intents,
    superseded_artifacts,
    worker_registry,
)
from pod_worker.store.events import event_log
from pod_worker.store.ideation import hypotheses, requests
from pod_worker.store.queue import run_queue, stats
from pod_worker.store.views import metric_series, pending_projections, read_models, writer

MODULES: tuple[ModuleType, ...] = (
    run_queue,
    worker_registry,
    event_log,
    metric_series,
    writer,
    stats,
    read_models,
    artifact_registry,
    artifact_keys,
    superseded_artifacts,
    content_index,
    pod_intents,
    pending_projections,
    hypotheses,
    requests,
)


def all_indexes() -> dict[str, list[IndexModel]]:
    gathered: dict[str, list[IndexModel]] = {}
    for module in MODULES:
        for collection, indexes in module.INDEXES.items():
            gathered.setdefault(collection, []).extend(indexes)
    return gathered
