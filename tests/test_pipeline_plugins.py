"""Pipelines of other packages: what is loaded, and that a bad one harms no other."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.pipeline import Pipeline
from pod_worker.pipeline_plugins import GROUP, PluginFault, load_plugins
from pod_worker.pipelines import PIPELINES, PLUGIN_FAULTS, find_pipeline
from pod_worker.stages import synthetic


def made(name: str) -> Pipeline:
    return Pipeline(
        name, "For a test.", synthetic.parse_params, synthetic.stages_of, synthetic.SyntheticParams, modes=("all",)
    )


@pytest.fixture
def module() -> Iterator[ModuleType]:
    module = ModuleType("installed_pipelines")
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


def entry(name: str, attribute: str, module: str = "installed_pipelines") -> EntryPoint:
    return EntryPoint(name, f"{module}:{attribute}", GROUP)


def faults_of(*entries: EntryPoint) -> dict[str, str]:
    return {fault.name: fault.message for fault in load_plugins({"training"}, entries)[1]}


def test_an_entry_point_adds_its_pipeline(module: ModuleType) -> None:
    module.PIPELINE = made("render")  # type: ignore[attr-defined]
    assert load_plugins({"training"}, [entry("render", "PIPELINE")]) == ({"render": module.PIPELINE}, [])


def test_a_package_that_cannot_be_imported_harms_no_other(module: ModuleType) -> None:
    module.PIPELINE = made("render")  # type: ignore[attr-defined]
    plugins, faults = load_plugins((), [entry("broken", "X", "no_such_module"), entry("render", "PIPELINE")])
    assert list(plugins) == ["render"]
    assert [fault.name for fault in faults] == ["broken"]
    assert "ModuleNotFoundError" in faults[0].message
    assert "uninstall" in faults[0].message


def test_a_name_of_ours_is_not_taken_over(module: ModuleType) -> None:
    module.PIPELINE = made("training")  # type: ignore[attr-defined]
    assert "the name is taken" in faults_of(entry("training", "PIPELINE"))["training"]


def test_of_two_packages_with_one_name_the_first_counts(module: ModuleType) -> None:
    module.A, module.B = made("render"), made("render")  # type: ignore[attr-defined]
    plugins, faults = load_plugins((), [entry("render", "B"), entry("render", "A")])
    assert plugins == {"render": module.A}
    assert [fault.name for fault in faults] == ["render"]


@pytest.mark.parametrize("name", ["Render", "a b", "../up", ""])
def test_odd_names_are_refused(module: ModuleType, name: str) -> None:
    module.PIPELINE = made(name)  # type: ignore[attr-defined]
    assert "lower-case letters" in faults_of(entry(name, "PIPELINE"))[name]


def test_what_is_no_pipeline_is_named(module: ModuleType) -> None:
    module.WRONG, module.OTHER = 3, made("other")  # type: ignore[attr-defined]
    assert "is a int" in faults_of(entry("wrong", "WRONG"))["wrong"]
    assert "calls itself 'other'" in faults_of(entry("render", "OTHER"))["render"]


def test_a_run_of_a_broken_package_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pod_worker.pipelines.PLUGIN_FAULTS", [PluginFault("render", "cannot be imported: why")])
    with pytest.raises(RunError, match="cannot be imported: why") as refused:
        find_pipeline("render")
    assert refused.value.code is FailureCode.ENVIRONMENT


def test_nothing_is_left_out_here() -> None:
    assert PLUGIN_FAULTS == []
    assert "command" in PIPELINES
