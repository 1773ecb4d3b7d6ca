"""The policy: always an answer, always an end, whatever happens to the nodes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pod_worker.search.choice.policy import NodeAction, StageEnd, WaitForNodes, next_action
from pod_worker.search.choice.selection import select
from pod_worker.search.choice.stages import STAGE_RULES, stage_rules
from pod_worker.search.settings import SearchSettings
from pod_worker.search.tree.node import NodeOutcome, Operation, node_id
from pod_worker.search.tree.records import (
    AnyRecord,
    NodeAnalysed,
    NodeDeclined,
    NodeFinished,
    NodePlanned,
    NodeProposed,
    NodeStarted,
    StageFinished,
    StageSelected,
)
from pod_worker.search.tree.state import SearchState, replay
from tests.search.fakes import ACCURACY

FATES = st.sampled_from([*NodeOutcome, "declined", "failed"])


class Simulation:
    """A stage whose nodes meet drawn fates in a drawn order."""

    def __init__(self, data, state, rules, options):
        self.data, self.state, self.rules, self.options = data, state, rules, options
        self.open: list[str] = []
        self.waits = 0

    def run(self):
        limit = 10 * (self.rules.max_iterations + self.options.seeds) + 10
        for _ in range(limit):
            decision = next_action(self.state, self.rules, self.options, ACCURACY)
            assert decision == next_action(self.state, self.rules, self.options, ACCURACY)
            if isinstance(decision, StageEnd):
                assert not self.open
                return decision.reason
            if isinstance(decision, WaitForNodes):
                assert self.open, "waiting with nothing in flight would never end"
                self.settle()
            else:
                self.plan(decision)
                if len(self.open) > self.options.slots + 1 or self.data.draw(st.booleans()):
                    self.settle()
        raise AssertionError("the stage did not end")

    def plan(self, action):
        name = node_id(self.rules.name, action.step)
        assert name not in self.state.nodes
        if action.parent:
            assert self.state.nodes[action.parent].is_finished
        self.write(
            NodePlanned(
                node_id=name,
                stage=self.rules.name,
                step=action.step,
                operation=action.operation,
                seed=action.step,
                parent=action.parent,
                replica_of=action.replica_of,
            )
        )
        self.open.append(name)

    def settle(self):
        name = self.open.pop(self.data.draw(st.integers(0, len(self.open) - 1)))
        fate = self.data.draw(FATES)
        node = self.state.nodes[name]
        if fate in ("declined", "failed") and not node.is_replica:
            code = "LLM_ERROR" if fate == "failed" else None
            self.write(NodeDeclined(node_id=name, reason=fate, calls=1, failure_code=code))
            return
        outcome = fate if isinstance(fate, NodeOutcome) else NodeOutcome.BUGGY
        score = self.data.draw(st.floats(0, 1)) if outcome is NodeOutcome.SCORED else None
        self.write(NodeProposed(node_id=name, code="c", shape=name, calls=1))
        self.write(NodeStarted(node_id=name))
        self.write(NodeFinished(node_id=name, outcome=outcome, search_score=score, hidden_score=score))
        if not node.is_replica:
            self.write(NodeAnalysed(node_id=name, insight="i"))

    def write(self, record):
        self.state = replay([record], self.state)


@settings(max_examples=50, deadline=None)
@given(data=st.data(), slots=st.integers(1, 4), iterations=st.integers(1, 7), seed=st.integers(0, 9))
def test_every_stage_ends_and_never_waits_for_nothing(data, slots, iterations, seed):
    options = SearchSettings(slots=slots, seed=seed, seeds=2, num_drafts=data.draw(st.integers(1, 4)))
    state = SearchState()
    for stage in STAGE_RULES:
        simulation = Simulation(data, state, stage_rules(stage, iterations), options)
        reason = simulation.run()
        state = simulation.state
        written = state.written(stage)
        assert len(written) <= iterations
        chosen = select(state, simulation.rules, options, ACCURACY)
        if chosen.selected is None:
            assert stage == "Stage_1"
            assert not any(node.is_scored for node in written)
            return
        assert len(state.replicas(chosen.candidate)) == 2 if chosen.candidate else True
        state = replay([chosen, StageFinished(stage=stage, reason=reason)], state)


def build(*fates, stage="Stage_1", operation=Operation.DRAFT, parents=None, state=None):
    """A state with settled nodes: a score, an outcome, None (executing) or "planned"."""
    state = state or SearchState()
    for step, fate in enumerate(fates, 1):
        name = node_id(stage, step)
        parent = (parents or {}).get(step)
        kind = Operation.DEBUG if parent and stage == "Stage_1" else operation
        records: list[AnyRecord] = [
            NodePlanned(node_id=name, stage=stage, step=step, operation=kind, seed=step, parent=parent)
        ]
        if fate != "planned":
            records.append(NodeProposed(node_id=name, code=f"{step}", shape=name, calls=1))
        if isinstance(fate, float):
            records += [
                NodeFinished(node_id=name, outcome=NodeOutcome.SCORED, search_score=fate, hidden_score=fate)
            ]
        elif isinstance(fate, NodeOutcome):
            records += [NodeFinished(node_id=name, outcome=fate)]
        if isinstance(fate, float | NodeOutcome):
            records += [NodeAnalysed(node_id=name)]
        state = replay(records, state)
    return state


def decide(state, stage="Stage_1", iterations=10, **options):
    return next_action(state, stage_rules(stage, iterations), SearchSettings(**{"slots": 2} | options), ACCURACY)


BUGGY = NodeOutcome.BUGGY


def test_drafts_come_first():
    assert decide(build()) == NodeAction(Operation.DRAFT, 1)
    assert decide(build(BUGGY, BUGGY)) == NodeAction(Operation.DRAFT, 3)


def test_then_a_buggy_leaf_is_debugged_and_none_twice():
    state = build(BUGGY, BUGGY, BUGGY)
    found = {decide(state, debug_probability=1.0, seed=seed).parent for seed in range(30)}
    assert found == {"Stage_1-001", "Stage_1-002", "Stage_1-003"}
    state = build(BUGGY, BUGGY, BUGGY, None, None, parents={4: "Stage_1-001", 5: "Stage_1-002"})
    assert {decide(state, debug_probability=1.0, seed=seed).parent for seed in range(9)} == {"Stage_1-003"}


def test_without_debugging_another_draft_is_made():
    assert decide(build(BUGGY, BUGGY, BUGGY), debug_probability=0.0) == NodeAction(Operation.DRAFT, 4)


def test_a_chain_of_debug_steps_has_a_limit():
    chain = {4: "Stage_1-001", 5: "Stage_1-004", 6: "Stage_1-005"}
    state = build(BUGGY, 0.5, 0.5, BUGGY, BUGGY, BUGGY, parents=chain)
    rules = stage_rules("Stage_1")
    assert decide(state).operation is Operation.REPLICATE
    state = build(BUGGY, BUGGY, BUGGY, BUGGY, BUGGY, BUGGY, parents=chain)
    found = {decide(state, debug_probability=1.0, seed=seed).parent for seed in range(30)}
    assert found == {"Stage_1-002", "Stage_1-003"}, "the chain of three is at its limit"
    assert rules.max_iterations == 20


def test_two_trees_without_a_good_node_make_no_endless_loop():
    """The original's selection spins here: no good node and nothing left to debug."""
    state = build(BUGGY, BUGGY, BUGGY, parents={})
    decision = decide(state, max_debug_depth=0, debug_probability=1.0)
    assert decision == NodeAction(Operation.DRAFT, 4)


def test_a_score_ends_the_first_stage_and_replicates_the_baseline():
    state = build(BUGGY, 0.7)
    assert decide(state) == NodeAction(Operation.REPLICATE, 3, "Stage_1-002")
    assert isinstance(decide(build(BUGGY, 0.7, None)), WaitForNodes), "the program in flight is paid"


def test_the_last_iteration_is_the_last():
    assert isinstance(decide(build(BUGGY, None), iterations=2), WaitForNodes)
    assert decide(build(BUGGY, BUGGY), iterations=2) == StageEnd("iteration limit")


def test_one_slot_does_not_see_the_newest_outcome():
    """The answer is the same whether the newest node is still executing or not."""
    for newest in (None, BUGGY, 0.9):
        assert decide(build(BUGGY, newest), slots=1) == NodeAction(Operation.DRAFT, 3)
    assert isinstance(decide(build(None, None), slots=1), WaitForNodes)
    assert isinstance(decide(build(BUGGY, "planned"), slots=1), WaitForNodes)


def test_one_slot_sees_everything_where_it_could_do_nothing_else():
    options = {"slots": 1, "num_drafts": 1, "debug_probability": 1.0}
    assert isinstance(decide(build(None), **options), WaitForNodes)
    assert decide(build(BUGGY), **options) == NodeAction(Operation.DEBUG, 2, "Stage_1-001")
    assert decide(build(0.5), **options) == NodeAction(Operation.REPLICATE, 2, "Stage_1-001")


def with_baseline(*scores, score=0.5):
    """A finished first stage; `scores` are those of the baseline's replicas."""
    state = build(score)
    for index, value in enumerate(scores):
        name = node_id("Stage_1", 10 + index)
        state = replay(
            [
                NodePlanned(
                    node_id=name, stage="Stage_1", step=10 + index, operation=Operation.REPLICATE, seed=index,
                    parent="Stage_1-001", replica_of="Stage_1-001",
                ),
                NodeProposed(node_id=name, code="1", shape="Stage_1-001"),
                NodeFinished(node_id=name, outcome=NodeOutcome.SCORED, search_score=value, hidden_score=value),
            ],
            state,
        )  # fmt: skip
    return replay(
        [
            StageSelected(stage="Stage_1", candidate="Stage_1-001", selected="Stage_1-001", is_better=False),
            StageFinished(stage="Stage_1", reason="first score"),
        ],
        state,
    )


def test_improvements_within_the_noise_are_ties_and_the_one_with_fewest_children_goes_on():
    noisy = with_baseline(0.4, 0.5, 0.6)
    improve = {"stage": "Stage_3", "operation": Operation.IMPROVE}
    first = build(0.55, state=noisy, parents={1: "Stage_1-001"}, **improve)
    assert decide(first, "Stage_3").parent == "Stage_3-001", "a tie, and it has no child yet"
    both = build(
        0.55, 0.52, 0.53, state=noisy, parents={1: "Stage_1-001", 2: "Stage_3-001", 3: "Stage_3-002"}, **improve
    )
    assert decide(both, "Stage_3").parent == "Stage_3-003"


def test_beyond_the_noise_the_best_goes_on():
    calm = with_baseline(0.4999, 0.5, 0.5001)
    state = build(
        0.9, 0.6, state=calm, stage="Stage_3", operation=Operation.IMPROVE,
        parents={1: "Stage_1-001", 2: "Stage_3-001"},
    )  # fmt: skip
    assert decide(state, "Stage_3").parent == "Stage_3-001"


def test_the_guide_is_the_search_score():
    """Of two programs with equal search scores the earlier one goes on, whatever their hidden scores are."""
    calm = with_baseline(0.4999, 0.5, 0.5001)
    state = build(0.9, 0.9, state=calm, stage="Stage_3", operation=Operation.IMPROVE)
    better = NodeFinished(node_id="Stage_3-002", outcome=NodeOutcome.SCORED, search_score=0.9, hidden_score=0.99)
    assert decide(replay([better], state), "Stage_3").parent == "Stage_3-001"


def test_tuning_and_ablations_always_start_from_the_selected_node():
    state = with_baseline(0.4999, 0.5, 0.5001)
    for stage, operation in (("Stage_2", Operation.TUNE), ("Stage_4", Operation.ABLATE)):
        tuned = build(0.9, state=state, stage=stage, operation=operation, parents={1: "Stage_1-001"})
        assert decide(tuned, stage) == NodeAction(operation, 2, "Stage_1-001")


def test_a_plateau_ends_the_stage():
    calm = with_baseline(0.4999, 0.5, 0.5001)
    flat = [0.6, *[0.6] * 8]
    state = build(*flat, state=calm, stage="Stage_2", operation=Operation.TUNE)
    assert decide(state, "Stage_2", 20).operation is Operation.REPLICATE
    rising = [0.6, *[0.6] * 7]
    state = build(*rising, state=calm, stage="Stage_2", operation=Operation.TUNE)
    assert decide(state, "Stage_2", 20).operation is Operation.TUNE
