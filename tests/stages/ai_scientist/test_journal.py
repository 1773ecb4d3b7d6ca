"""Files of the original's search, whole and half written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pod_worker.core.run import Json
from pod_worker.stages.ai_scientist.journal import (
    is_search_finished,
    mean_metric,
    read_nodes,
    read_tokens,
    stage_folders,
)

RUN = "logs/0-run"


@pytest.mark.parametrize(
    ("metric", "mean"),
    [
        ({"value": 0.5}, 0.5),
        ({"value": {"a": 1, "b": 2, "c": None}}, 1.5),
        (
            {"value": {"metric_names": [{"data": [{"final_value": 1.0}, {"final_value": 3.0}]}, {"data": None}]}},
            2.0,
        ),
        ({"value": None}, None),
        ({"value": float("nan")}, None),
        ({"value": True}, None),
        (None, None),
        ({"value": {"metric_names": [None]}}, None),
    ],
)
def test_a_metric_is_one_finite_number(metric: Json, mean: float | None) -> None:
    assert mean_metric(metric) == mean


@pytest.mark.parametrize("content", ['{"nodes": [{"id"', "[]", "", "null"])
def test_a_journal_that_is_half_written_is_not_read(tmp_path: Path, content: str) -> None:
    path = tmp_path / "journal.json"
    path.write_text(content)
    assert read_nodes(path) is None


def test_entries_that_are_no_nodes_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "journal.json"
    path.write_text(json.dumps({"nodes": [3, {}, {"id": "a", "is_buggy": None}], "node2parent": None}))
    (node,) = read_nodes(path) or []
    assert (node.id, node.parent, node.is_buggy, node.is_good) == ("a", None, None, False)


def test_sub_stages_are_in_their_order(tmp_path: Path) -> None:
    for name in ("stage_2_baseline_tuning_10_x", "stage_2_baseline_tuning_2_y", "stage_1_initial_1_z", "other"):
        (tmp_path / RUN / name).mkdir(parents=True)
    assert [(each.stage, each.number) for each in stage_folders(tmp_path)] == [(1, 1), (2, 2), (2, 10)]


def test_a_search_is_finished_with_its_last_summary(tmp_path: Path) -> None:
    (tmp_path / RUN).mkdir(parents=True)
    for kind in ("draft", "baseline", "research"):
        (tmp_path / RUN / f"{kind}_summary.json").write_text("{}")
    (tmp_path / RUN / "ablation_summary.json").write_text('{"half')
    assert not is_search_finished(tmp_path)
    (tmp_path / RUN / "ablation_summary.json").write_text("{}")
    assert is_search_finished(tmp_path)


def test_token_counts_of_an_unknown_form_count_nothing(tmp_path: Path) -> None:
    (tmp_path / "token_tracker.json").write_text('{"m": {"tokens": {"prompt": 3, "completion": "x"}}, "n": 4}')
    (count,) = read_tokens(tmp_path)
    assert (count.prompt, count.completion, count.usd) == (3, 0, 0.0)
