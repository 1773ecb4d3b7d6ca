"""Hypotheses, requests and a queue on a database with its indexes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pod_worker.core.clock import SystemClock
from pod_worker.store.mongo import connect
from pod_worker.store.queue.run_queue import RunQueue

IDEA: dict[str, Any] = {
    "Name": "label_noise",
    "Title": "Label smoothing under label noise",
    "Short Hypothesis": "Label smoothing helps where labels are noisy.",
    "Related Work": "Szegedy et al. 2016.",
    "Abstract": "We test it on digits.",
    "Experiments": ["train with and without"],
    "Risk Factors and Limitations": ["small data"],
}


@pytest.fixture
def database(mongodb_url: str) -> Iterator[Any]:
    made = connect(mongodb_url)
    yield made
    made.client.close()


@pytest.fixture
def queue(database: Any) -> RunQueue:
    return RunQueue(database, SystemClock())
