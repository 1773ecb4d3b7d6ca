"""Whole stages with a fake model, sandbox and evaluator."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.run import Json
from pod_worker.search.pool import JobKind, ThreadPool
from pod_worker.search.reports.summary import results
from pod_worker.search.tree.journal import read_state
from pod_worker.search.tree.node import NodeOutcome, Operation, derive_seed
from tests.search.fakes import ACCURACY, FakeModel, RecordedEvents, make_search, tree_of

STAGES = ("Stage_1", "Stage_2", "Stage_3", "Stage_4")


def run_all(search, iterations=6):
    return [search.run_stage(stage, iterations) for stage in STAGES]


def test_four_stages_build_on_each_other(tmp_path):
    search = make_search(tmp_path)
    summaries = run_all(search)
    state = read_state(tmp_path)
    assert [summary.reason for summary in summaries] == ["first score", *["iteration limit"] * 3]
    for before, stage in itertools.pairwise(STAGES):
        start = state.selections[before].selected
        own = {Operation.TUNE, Operation.ABLATE, Operation.IMPROVE}
        parents = {node.parent for node in state.written(stage) if node.operation in own}
        assert start in parents
    ablations = {node.parent for node in state.written("Stage_4") if node.operation is Operation.ABLATE}
    assert ablations == {state.selections["Stage_3"].selected} == {state.selections["Stage_4"].selected}


def test_the_best_node_of_each_stage_is_replicated_with_seeds_of_the_controller(tmp_path):
    run_all(make_search(tmp_path, set={"seeds": 4}))
    state = read_state(tmp_path)
    for stage in STAGES:
        replicas = state.replicas(state.selections[stage].candidate)
        assert len({node.seed for node in replicas}) == len({node.seed_proof for node in replicas}) == 4
        assert len({node.search_score for node in replicas}) == 4, "another seed changes the score"
        assert len({node.code for node in replicas}) == 1
        assert all(node.calls == 0 for node in replicas)


def test_at_most_five_model_calls_for_each_executed_node(tmp_path):
    model = FakeModel()
    summaries = run_all(make_search(tmp_path, client=model))
    calls, executed = sum(s.model_calls for s in summaries), sum(s.executed for s in summaries)
    assert calls == sum(model.calls.values())
    assert calls <= 2 * sum(s.iterations for s in summaries) + sum(s.duplicates for s in summaries)
    assert calls / executed <= 5


def test_a_finished_stage_asks_nothing_again(tmp_path):
    first = make_search(tmp_path).run_stage("Stage_1")
    model = FakeModel()
    assert make_search(tmp_path, client=model).run_stage("Stage_1") == first
    assert not model.requests


TIMINGS = {
    "a slow model": lambda job: 9.0 if job.kind is JobKind.PROPOSE else 0.1,
    "slow programs": lambda job: 9.0 if job.kind is JobKind.EXECUTE else 0.1,
    "slow analyses": lambda job: 9.0 if job.kind is JobKind.ANALYSE else 0.1,
    "all mixed": lambda job: derive_seed(job.kind, job.node_id) % 100 + 0.1,
}


@pytest.fixture(scope="module")
def even_tree(tmp_path_factory):
    """Every job takes a second."""
    folder = tmp_path_factory.mktemp("even")
    run_all(make_search(folder))
    return tree_of(read_state(folder))


@pytest.mark.parametrize("seconds", TIMINGS.values(), ids=TIMINGS)
def test_with_one_slot_the_tree_depends_on_no_timing(tmp_path, seconds, even_tree):
    run_all(make_search(tmp_path, seconds=seconds))
    assert tree_of(read_state(tmp_path)) == even_tree


def test_real_threads_give_the_same_tree_with_one_slot(tmp_path, even_tree):
    run_all(make_search(tmp_path, new_pool=ThreadPool))
    assert tree_of(read_state(tmp_path)) == even_tree


def test_another_seed_makes_another_tree(tmp_path):
    make_search(tmp_path / "a").run_stage("Stage_1")
    make_search(tmp_path / "b", set={"seed": 1}).run_stage("Stage_1")
    assert tree_of(read_state(tmp_path / "a")) != tree_of(read_state(tmp_path / "b"))


def test_events_follow_the_journal(tmp_path):
    events = RecordedEvents()
    make_search(tmp_path, events=events).run_stage("Stage_1", 3)
    state = read_state(tmp_path)
    for node in state.nodes.values():
        mine = [line.split()[0] for line in events.lines if line.endswith(node.id)]
        assert mine[:3] == ["created", "executing", "completed"]
    assert events.lines[-1] == f"best {state.selections['Stage_1'].selected}"
    last = events.progresses[-1]
    assert (last.total_nodes, last.slots_busy) == (len(state.nodes), 0)
    assert last.good_nodes + last.buggy_nodes == last.total_nodes


@pytest.mark.parametrize(
    ("does", "code"),
    [
        ({"error": "ValueError: x"}, FailureCode.ALL_NODES_BUGGY),
        ({"end": "timed_out"}, FailureCode.ALL_NODES_BUGGY),
        ({"score": 1, "refuse": "missing"}, FailureCode.MAX_ITERATIONS),
    ],
)
def test_a_first_stage_without_a_score_fails_with_its_cause(tmp_path, does, code):
    model = FakeModel(lambda request: does | {"number": request.facts["seed"]})
    with pytest.raises(RunError) as caught:
        make_search(tmp_path, client=model).run_stage("Stage_1", 4)
    assert caught.value.code is code


def test_later_stages_without_a_score_keep_the_node_they_started_from(tmp_path):
    make_search(tmp_path).run_stage("Stage_1")
    model = FakeModel(lambda request: {"error": "ValueError: x", "number": request.facts["seed"]})
    summary = make_search(tmp_path, client=model).run_stage("Stage_2", 3)
    state = read_state(tmp_path)
    assert summary.selected == state.selections["Stage_1"].selected
    assert not summary.is_better


def test_a_later_stage_needs_the_one_before(tmp_path):
    with pytest.raises(RunError, match="run Stage_1 first"):
        make_search(tmp_path).run_stage("Stage_2")


def test_the_candidate_that_memorises_the_search_split_loses_the_selection(tmp_path):
    make_search(tmp_path, client=FakeModel(lambda request: {"score": 0.7, "noise": 0.01})).run_stage("Stage_1")

    def reply(request):
        number = request.facts["seed"]
        if len(request.facts["tried"]) == 1:
            return {"score": 0.99, "hidden": 0.4, "noise": 0.01, "number": number}
        return {"score": 0.85, "noise": 0.01, "number": number}

    summary = make_search(tmp_path, client=FakeModel(reply)).run_stage("Stage_3", 4)
    state = read_state(tmp_path)
    cheat = max(state.written("Stage_3"), key=lambda node: node.search_score or 0.0)
    assert (cheat.search_score or 0.0) > 0.9
    assert summary.selected not in (cheat.id, state.selections["Stage_1"].selected)
    assert summary.is_better


def test_the_hidden_score_is_in_no_prompt_event_or_summary(tmp_path):
    model, events = FakeModel(lambda request: random_hidden(request)), RecordedEvents()
    summaries = run_all(make_search(tmp_path, client=model, events=events))
    hidden = {node.hidden_score for node in read_state(tmp_path).nodes.values() if node.hidden_score is not None}
    assert len(hidden) > 10
    shown = "".join(message.text for request in model.requests for message in request.messages)
    shown += repr([request.facts for request in model.requests]) + repr(events.progresses)
    shown += repr([summary.to_json() for summary in summaries])
    shown += "".join(path.read_text() for path in tmp_path.glob("nodes/*/result.json"))
    assert not [score for score in hidden if repr(score) in shown]
    assert any(repr(node.search_score) in shown for node in read_state(tmp_path).nodes.values() if node.is_scored)
    assert "hidden" in repr(results(read_state(tmp_path), ACCURACY))


def random_hidden(request):
    from tests.search.fakes import random_program

    does = random_program(request)
    return does | ({"hidden": does["score"] - 0.123456} if "score" in does else {})


def test_self_reported_scores_are_marked(tmp_path):
    model = FakeModel(lambda request: {"score": 0.5, "noise": 0.1, "self_reported": True})
    summary = make_search(tmp_path, client=model).run_stage("Stage_1")
    assert summary.is_self_reported
    assert summary.replica_count == 3, "a clean execution with fresh seeds confirms them"


def test_the_outcome_of_a_node_names_its_cause(tmp_path):
    causes: Iterator[dict[str, Json]] = iter(
        [
            {"end": "memory"},
            {"end": "signaled", "signal": 11},
            {"error": "torch.cuda.OutOfMemoryError: CUDA out of memory"},
            {"end": "timed_out"},
            {"score": float("inf")},
            {"score": 1, "refuse": "link"},
            {"score": 1, "crash": 1},
            {"score": 0.5},
        ]
    )
    model = FakeModel(lambda request: next(causes) | {"number": request.facts["seed"]})
    make_search(tmp_path, client=model, set={"num_drafts": 8, "seeds": 2}).run_stage("Stage_1", 8)
    found = [(node.outcome, node.error_kind) for node in read_state(tmp_path).written("Stage_1")]
    assert found == [
        (NodeOutcome.BUGGY, "memory"),
        (NodeOutcome.BUGGY, "SIGSEGV"),
        (NodeOutcome.BUGGY, "OutOfMemoryError"),
        (NodeOutcome.TIMED_OUT, "time"),
        (NodeOutcome.NO_SCORE, "not_finite"),
        (NodeOutcome.NO_SCORE, "link"),
        (NodeOutcome.NO_SCORE, "ZeroDivisionError"),
        (NodeOutcome.SCORED, ""),
    ]
