"""The ledger: every number of a paper, its text, and where it comes from."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pod_worker.core.research.measure import Metric
from pod_worker.paper.evidence.numbers import KEY, build_numbers, by_key, format_estimate, format_value
from pod_worker.paper.evidence.results import RecordedResults, compare, identical_rows
from tests.paper.conftest import make_node, without_spread


def test_every_number_names_its_source(results: RecordedResults) -> None:
    numbers = build_numbers(results)
    nodes = {node.node_id: node for node in results.nodes}
    assert len({number.key for number in numbers}) == len(numbers)
    for number in numbers:
        assert KEY.fullmatch(number.key)
        assert number.meaning
        assert number.artifact
        assert not number.node_id or nodes[number.node_id].artifact == number.artifact


def test_the_best_of_a_stage_is_its_recorded_estimate(results: RecordedResults) -> None:
    number = by_key(build_numbers(results))["stage3.best"]
    best = next(node for node in results.nodes if node.node_id == "n4")
    assert number.value == best.estimate.mean
    assert number.text == format_estimate(best.estimate.mean, best.estimate.half_width)
    assert "3 seeds" in number.meaning


def test_a_gain_is_the_difference_from_the_baseline(results: RecordedResults) -> None:
    numbers = by_key(build_numbers(results))
    gain = numbers["stage3.gain"]
    assert gain.value == pytest.approx(numbers["stage3.best"].value - numbers["baseline"].value)
    assert gain.formula == "stage3.best - baseline"
    assert gain.text.startswith("+")
    assert "stage1.gain" not in numbers


def test_self_reported_scores_enter_only_after_a_repetition(results: RecordedResults) -> None:
    claimed = make_node("n9", "Stage_3", "claimed", 0.999, is_best=True, is_self_reported=True, is_confirmed=False)
    with_claim = replace(results, nodes=(*results.nodes, claimed))
    numbers = build_numbers(with_claim)
    assert not any(number.node_id == "n9" for number in numbers)
    assert by_key(numbers)["stage3.best"].node_id == "n4"
    assert [node.node_id for node in with_claim.excluded] == ["n9"]
    confirmed = replace(with_claim, nodes=(*results.nodes, replace(claimed, is_confirmed=True)))
    number = by_key(build_numbers(confirmed))["stage3.best"]
    assert number.node_id == "n9"
    assert "self-reported" in number.meaning


def test_one_seed_has_no_interval(results: RecordedResults) -> None:
    single = replace(results, nodes=tuple(without_spread(node) for node in results.nodes))
    numbers = by_key(build_numbers(single))
    assert "±" not in numbers["stage3.best"].text + numbers["stage3.gain"].text
    assert "one seed, no interval" in numbers["stage3.best"].meaning
    assert not single.is_beyond_noise(single.nodes[3], single.nodes[0])


def test_better_is_beyond_the_noise(results: RecordedResults) -> None:
    nodes = {node.node_id: node for node in results.nodes}
    assert results.is_beyond_noise(nodes["n4"], nodes["n1"])
    assert not results.is_beyond_noise(nodes["n1"], nodes["n4"])
    lower = replace(results, metric=Metric("error", "lower"))
    assert lower.is_beyond_noise(nodes["n1"], nodes["n4"])
    wide = replace(results, noise_band=0.5)
    assert not wide.is_beyond_noise(nodes["n4"], nodes["n1"])


@pytest.mark.parametrize(
    ("mean", "half_width", "text"),
    [
        (0.91342, 0.00431, "0.9134 ± 0.0043"),
        (0.5, 0.0, "0.5000 ± 0.0000"),
        (123.42, 2.3, "123.4 ± 2.3"),
        (-0.2, 0.05, "−0.200 ± 0.050"),
        (1e-8, 2e-9, "1.00×10^-8±2.00×10^-9"),
        (0.91342, math.inf, "0.9134"),
        (1234.5, 120.0, "1234 ± 120"),
    ],
)
def test_the_interval_decides_the_precision(mean: float, half_width: float, text: str) -> None:
    assert format_estimate(mean, half_width) == text


def test_a_difference_of_nothing_has_no_sign() -> None:
    assert format_value(-0.00001, 0.1, is_signed=True) == "0.00"


@given(st.floats(-1e5, 1e5), st.floats(1e-4, 1e3))
def test_the_text_is_within_a_tenth_of_the_interval(mean: float, half_width: float) -> None:
    text = format_estimate(mean, half_width)
    shown = float(text.split(" ± ")[0].replace("−", "-"))
    assert abs(shown - mean) <= half_width / 10 + 0.5 * (half_width > 5) + 1e-9


def test_units_are_outside_the_formula() -> None:
    number = by_key(build_numbers(_with_unit("% ms")))["stage1.best"]
    assert number.text.endswith("\u202f% ms")
    assert number.latex.endswith(r"\,\text{\% ms}")


def _with_unit(unit: str) -> RecordedResults:
    node = make_node("n1", "Stage_1", "plain", 0.9, is_best=True)
    return RecordedResults(
        run_id="r", task="t", metric=Metric("time", "lower", unit), nodes=(node,), outcomes={"scored": 1}
    )


def test_the_difference_adds_the_intervals_in_quadrature(results: RecordedResults) -> None:
    left, right = results.nodes[3], results.nodes[0]
    difference, half_width = compare(left, right)
    assert difference == pytest.approx(left.estimate.mean - right.estimate.mean)
    assert half_width == pytest.approx(math.hypot(left.estimate.half_width, right.estimate.half_width))


def test_equal_programs_and_equal_scores_are_identical_rows(results: RecordedResults) -> None:
    nodes = results.nodes
    same_program = replace(nodes[0], node_id="copy", scores=(0.1, 0.2))
    same_scores = replace(nodes[1], node_id="twin", program_sha256="other")
    assert identical_rows(nodes) == ()
    assert identical_rows([*nodes, same_program, same_scores]) == (("n1", "copy"), ("n2", "twin"))
    other_seeds = replace(same_scores, seeds=(1, 2, 3))
    assert identical_rows([nodes[1], other_seeds]) == ()
