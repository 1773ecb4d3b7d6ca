"""The documentation of parameters is complete: each has a type, a default and a meaning, and is what is checked."""

from __future__ import annotations

from typing import Any

import pytest

from pod_worker.pipelines import PIPELINES
from tests.cli.conftest import Cli

# Values of required parameters that are no texts.
IDEA = {
    "Title": "t",
    "Short Hypothesis": "h",
    "Abstract": "a",
    "Experiments": ["e"],
    "Risk Factors and Limitations": ["r"],
}
REQUIRED: dict[str, dict[str, Any]] = {"experiment": {"idea": IDEA}, "ai_scientist": {"idea": IDEA}}


@pytest.mark.parametrize("name", PIPELINES)
def test_every_parameter_is_documented(cli: Cli, name: str) -> None:
    shown = cli("pipelines", "show", name, "--json").json
    assert shown["description"].endswith(".")
    for each in shown["parameters"]:
        assert each["type"], each
        assert each["meaning"], each
        assert each["required"] or each["default"] is not None or "null" in each["type"], each
    text = cli("pipelines", "show", name).out
    assert all(each["name"] in text and each["meaning"] in text for each in shown["parameters"])


@pytest.mark.parametrize("name", PIPELINES)
def test_the_documented_parameters_are_those_that_are_accepted(cli: Cli, name: str) -> None:
    shown = cli("pipelines", "show", name, "--json").json["parameters"]
    required = {each["name"]: REQUIRED.get(name, {}).get(each["name"], "x") for each in shown if each["required"]}
    defaults = {each["name"]: each["default"] for each in shown if not each["required"]}
    assert PIPELINES[name].check_params(required) == required | defaults


@pytest.mark.parametrize("name", PIPELINES)
def test_units_and_paths_belong_to_parameters(name: str) -> None:
    fields = set(PIPELINES[name].params.__struct_fields__)
    assert set(PIPELINES[name].units) <= fields
    assert set(PIPELINES[name].paths) <= fields


def test_the_list_names_every_pipeline(cli: Cli) -> None:
    assert [each["id"] for each in cli("pipelines", "list", "--json").json] == list(PIPELINES)
    assert cli("pipelines", "show", "experimnt").code == 2
