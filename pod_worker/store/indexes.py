"""All indexes of all collections, gathered from the modules that need them."""

from __future__ import annotations

from types import ModuleType

from pymongo import IndexModel

from pod_worker.store import (
    artifacts,
    event_log,
    metric_series,
    pod_intents,
    queue_depth,
    read_models,
    run_queue,
    view_debts,
    views,
    workers,
)

MODULES: tuple[ModuleType, ...] = (
    run_queue,
    workers,
    event_log,
    metric_series,
    views,
    queue_depth,
    read_models,
    artifacts,
    pod_intents,
    view_debts,
)


def all_indexes() -> dict[str, list[IndexModel]]:
    gathered: dict[str, list[IndexModel]] = {}
    for module in MODULES:
        for collection, indexes in module.INDEXES.items():
            gathered.setdefault(collection, []).extend(indexes)
    return gathered
