"""The whole stand-in program: what becomes of its files, its output, its end and its interruption."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest
import yaml

from pod_worker.core.failure import CancelRequested, DrainRequested, FailureCode, Interruption
from pod_worker.core.payload import (
    NodeCompleted,
    PaperGenerated,
    StageCompleted,
    StageFailed,
    StageMetric,
    StageProgress,
    StageStarted,
    ValidationCompleted,
)
from tests.stages.ai_scientist.original_run import CHECKOUT, KEY, OriginalRun

PHASES = ["Stage_1", "Stage_2", "Stage_3", "Stage_4", "plots", "paper", "validation"]


def test_its_stages_are_stages_of_the_run(finished: OriginalRun) -> None:
    started = [event.stage for event in finished.of(StageStarted)]
    assert started[0] == "ai_scientist"
    assert set(started[1:]) <= set(PHASES)
    assert started[1:5] == PHASES[:4]
    assert sorted(started) == sorted(event.stage for event in finished.of(StageCompleted)), "each one ends"


def test_its_journals_become_nodes_and_progress(finished: OriginalRun) -> None:
    nodes = finished.of(NodeCompleted)
    assert [node.node_id for node in nodes] == ["1a", "1b", "2a", "2b", "3a", "3b", "4a", "4b"], "each one once"
    assert [(node.is_buggy, node.parent_id, node.metric) for node in nodes[:2]] == [
        (True, None, None),
        (False, "1a", 0.5),
    ]
    (first,) = [event for event in finished.of(StageProgress) if event.stage == "Stage_1"]
    assert (first.iteration, first.max_iterations) == (2, 7), "the limit is that of the run"
    assert (first.good_nodes, first.buggy_nodes, first.total_nodes) == (1, 1, 2)
    assert first.best_metric == "0.5"
    assert {event.name: event.value for event in finished.of(StageMetric)} == {
        "llm_tokens": 1100.0,
        "llm_usd": 0.25,
    }


def test_its_results_are_artifacts(finished: OriginalRun) -> None:
    found = finished.artifacts()
    assert {
        "stage_1_initial_implementation_1_preliminary/best_solution.py",
        "stage_4_ablation_studies_1_first_attempt/tree_plot.html",
        "figures/final.png",
        "plots/experiment_4b/loss.png",
        "paper/paper.pdf",
        "paper/paper.tex",
        "review/review.json",
        "token_tracker.json",
        "logs/output.log",
        "experiment.tar.gz",
    } <= found.keys()
    assert "plots/experiment_4b/secret.png" not in found, "a link may name any file"
    assert found["paper/paper.pdf"].read_text() == "%PDF_reflection_final_page_limit"
    assert len(finished.of(PaperGenerated)) == 1


def test_its_review_is_the_verdict(finished: OriginalRun) -> None:
    (verdict,) = finished.of(ValidationCompleted)
    assert (verdict.verdict, verdict.scores) == ("pass", {"Overall": 6.0, "Soundness": 3.0})
    assert finished.state["verdict"] == "pass"


def test_it_gets_the_runs_idea_and_settings(finished: OriginalRun) -> None:
    (folder,) = (finished.program / "experiments").iterdir()
    assert folder.name.endswith("_noise_of_labels_attempt_1"), "no part of a name leads to another folder"
    assert json.loads((folder / "idea.json").read_text())["Code"] == "print(2)"
    config = yaml.safe_load((folder / "bfts_config.yaml").read_text())
    assert config["agent"]["code"] == {"model": "gpt-4o-2024-11-20", "temp": 1.0}
    assert config["agent"]["search"]["num_drafts"] == 3
    assert finished.artifacts()["bfts_config.yaml"].is_file()


def test_its_key_is_in_no_event_and_no_artifact(finished: OriginalRun) -> None:
    assert "Bearer ***" in finished.artifacts()["logs/output.log"].read_text(), "the program had the key"
    assert [name for name, path in finished.artifacts().items() if KEY.encode() in path.read_bytes()] == []
    assert KEY not in repr(finished.events)
    assert "***" in finished.artifacts()["stage_1_initial_implementation_1_preliminary/tree_plot.html"].read_text()


def test_the_checkout_stays_as_it_is(finished: OriginalRun) -> None:
    assert not (CHECKOUT / "experiments").exists()
    assert not list(CHECKOUT.rglob("__pycache__"))


def test_the_run_says_what_the_original_cannot_do(finished: OriginalRun) -> None:
    assert "cannot limit what it spends" in finished.logs()
    assert "no max_duration" in finished.logs()
    assert "without a sandbox" in finished.logs()
    assert finished.state["spending_cap"] is None
    assert finished.state["cost"]["usd"] == 0.25


def test_a_search_without_a_working_program_is_named(original: OriginalRun) -> None:
    failure = original.fails(code="no-working-program")
    assert failure.code is FailureCode.ALL_NODES_BUGGY
    assert [event.stage for event in original.of(StageFailed)] == ["Stage_1", "ai_scientist"]
    assert "stage_1_initial_implementation_1_preliminary/journal.json" in original.artifacts(), "results stay"


def test_a_failed_review_loses_no_paper(original: OriginalRun) -> None:
    assert original.execute(code="no-review")["verdict"] == "inconclusive"
    (verdict,) = original.of(ValidationCompleted)
    assert "Text too short" in verdict.notes
    assert "paper/paper.pdf" in original.artifacts()
    assert {event.stage for event in original.of(StageFailed)} <= {"paper", "validation"}


def test_a_failed_paper_is_written_again_without_experiments(original: OriginalRun, tmp_path: Path) -> None:
    failure = original.fails(code="no-paper")
    assert failure.code is FailureCode.LATEX_ERROR
    assert original.searches() == 1
    other = original.on_another_pod(tmp_path / "other")
    for run, attempt in ((original, 2), (other, 3)):
        nodes = len(run.of(NodeCompleted))
        summary = run.execute(attempt, code="no-paper")
        assert (summary["verdict"], summary["nodes"]) == ("pass", 8)
        assert not (run.program / "searches").exists(), "the copy is fresh, and no search was made in it"
        assert len(run.of(NodeCompleted)) == nodes
        assert "paper/paper.pdf" in run.artifacts(attempt)
        assert "only plots, paper and review are repeated" in run.logs()


@pytest.mark.parametrize("reason", [CancelRequested, DrainRequested])
def test_a_stop_ends_every_process_and_the_next_attempt_starts_over(
    original: OriginalRun, reason: type[Interruption]
) -> None:
    before = psutil.Process().children(recursive=True)
    original.request_when_ready(reason)
    with pytest.raises(reason):
        original.execute(code="wait")
    assert psutil.Process().children(recursive=True) == before
    original.stop = type(original.stop)()
    if reason is DrainRequested:
        original.execute(2, skip_writeup=True)
        assert "starts over" in original.logs()
        assert original.state.keys() >= {"experiment", "archive"}
