"""The pipelines `ideation` and `experiment` with their real parameters and no stages."""

from __future__ import annotations

import pytest

from pod_worker.pipeline import Pipeline
from pod_worker.pipelines import PIPELINES
from pod_worker.stages.ideation import params as ideation_params
from pod_worker.stages.research import params as experiment_params


def register(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module, kind in (
        ("ideation", ideation_params, ideation_params.IdeationParams),
        ("experiment", experiment_params, experiment_params.ExperimentParams),
    ):
        made = Pipeline(name, "For tests.", module.complete, lambda _params: (), kind)
        monkeypatch.setitem(PIPELINES, name, made)
