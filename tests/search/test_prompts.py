"""What a model is asked: complete, bounded, the same for the same facts."""

from __future__ import annotations

import json

import pytest

from pod_worker.core.research.idea import Idea
from pod_worker.search.choice.stages import stage_rules
from pod_worker.search.operators import Operators, _without_fence
from pod_worker.search.prompts import PROMPT_BYTES, analysis_messages, proposal_messages
from pod_worker.search.task import SearchTask
from pod_worker.search.tree import memory
from pod_worker.search.tree.node import NodeOutcome, Operation, node_id
from pod_worker.search.tree.records import NodeAnalysed, NodeFinished, NodePlanned, NodeProposed
from pod_worker.search.tree.state import SearchState, replay
from tests.search.fakes import ACCURACY, IDEA, FakeModel

HUGE = Idea(
    title="T" * 20_000,
    short_hypothesis="H" * 20_000,
    abstract="é" * 20_000,
    experiments=("E" * 20_000,) * 50,
    risks=("R" * 20_000,) * 50,
)


def grown(count, text="word " * 400):
    """A stage of `count` nodes, each a child of the one before, with long texts everywhere."""
    records = []
    for step in range(1, count + 1):
        name = node_id("Stage_3", step)
        records += [
            NodePlanned(
                node_id=name, stage="Stage_3", step=step, operation=Operation.IMPROVE, seed=step,
                parent=node_id("Stage_3", step - 1) if step > 1 else None,
            ),
            NodeProposed(node_id=name, code=f"{step}", shape=name, plan=f"{step} {text}", change=f"{step} {text}"),
            NodeFinished(
                node_id=name, outcome=NodeOutcome.SCORED if step % 2 else NodeOutcome.BUGGY,
                search_score=0.5 if step % 2 else None, error="ValueError " * 1_000, output="line\n" * 20_000,
            ),
            NodeAnalysed(node_id=name, analysis=text, insight=f"insight {step} {text}"),
        ]  # fmt: skip
    return replay(records, SearchState())


def operators(tmp_path, idea=IDEA, facts=None):
    task = SearchTask(metric=ACCURACY, folder=tmp_path, facts=facts or {"name": "toy", "description": "D"})
    return Operators(client=FakeModel(), task=task, idea=idea, rules=stage_rules("Stage_3"))


@pytest.mark.parametrize("kind", [Operation.IMPROVE, Operation.DEBUG, Operation.TUNE, Operation.ABLATE])
def test_a_prompt_is_bounded_at_500_nodes(tmp_path, kind):
    state = grown(500)
    asked = operators(tmp_path, HUGE, {"description": "D" * 10**6, "files": ["f" * 10**5] * 1_000})
    node = state.nodes["Stage_3-500"]
    facts = asked.proposal_facts(state, node, "x" * 48_000, "rejected " * 20)
    messages = proposal_messages(f"node.{kind.value}", facts)
    assert sum(len(message.text.encode()) for message in messages) <= PROMPT_BYTES
    facts = asked.analysis_facts(state, node, "x" * 48_000)
    assert sum(len(message.text.encode()) for message in analysis_messages(facts)) <= PROMPT_BYTES


def test_the_memory_grows_to_its_bound_and_no_further():
    small, large = grown(20), grown(500)
    for state in (small, large):
        node = list(state.nodes.values())[-1]
        assert len(json.dumps(memory.tried(state, node))) <= memory.TRIED_BYTES * 1.1
        assert len(json.dumps(memory.insights(state, node, ACCURACY))) <= memory.INSIGHTS_BYTES * 1.1
    assert len(memory.tried(large, node)) == len(memory.tried(small, list(small.nodes.values())[-1]))


def test_insights_come_from_ancestors_first_and_never_twice():
    state = grown(6, text="")
    node = state.nodes["Stage_3-006"]
    found = memory.insights(state, node, ACCURACY)
    assert found[0].startswith("insight 5")
    assert len(found) == len(set(found)) == 5
    assert memory.insights(state, node, ACCURACY, limit=30)[0].startswith("insight 5")


def test_siblings_share_their_insights(tmp_path):
    state = grown(2, text="")
    records = [
        NodePlanned(
            node_id=f"Stage_3-{step:03d}",
            stage="Stage_3",
            step=step,
            operation=Operation.IMPROVE,
            seed=step,
            parent="Stage_3-001",
        )
        for step in (3, 4)
    ]
    state = replay([*records, NodeAnalysed(node_id="Stage_3-003", insight="width hurts")], state)
    facts = operators(tmp_path).proposal_facts(state, state.nodes["Stage_3-004"], "code")
    assert "width hurts" in facts["insights"]
    assert "width hurts" in proposal_messages("node.improve", facts)[1].text


def test_every_fact_is_in_the_text_of_the_prompt(tmp_path):
    state = grown(3, text="words")
    facts = operators(tmp_path).proposal_facts(state, state.nodes["Stage_3-003"], "print(1)")
    text = proposal_messages("node.debug", facts)[1].text
    for part in ("toy", IDEA.title, "print(1)", stage_rules("Stage_3").goals, "insight 2 words", "2 words"):
        assert part in text
    assert facts["parent"].keys() >= {"node_id", "plan", "code", "score", "output"}
    assert facts.keys() >= {"task", "idea", "stage", "goals", "tried", "insights", "seed"}


def test_a_debug_prompt_has_the_error_and_both_ends_of_the_output(tmp_path):
    state = grown(2)
    debug = NodePlanned(
        node_id="Stage_3-003", stage="Stage_3", step=3, operation=Operation.DEBUG, seed=1, parent="Stage_3-002"
    )
    state = replay([debug], state)
    facts = operators(tmp_path).proposal_facts(state, state.nodes["Stage_3-003"], "code")
    assert facts["parent"]["outcome"] == "buggy"
    assert facts["parent"]["error"].startswith("ValueError")
    assert "characters cut" in facts["parent"]["output"]


def test_code_cannot_end_its_block(tmp_path):
    state = grown(2)
    facts = operators(tmp_path).proposal_facts(state, state.nodes["Stage_3-002"], "x = '''```\n```'''")
    assert "````python\nx = '''```\n```'''\n````" in proposal_messages("node.improve", facts)[1].text


def test_run_times_are_in_no_prompt(tmp_path):
    state = grown(2)
    slow = replay([NodeFinished(node_id="Stage_3-001", outcome=NodeOutcome.SCORED, exec_seconds=1234.5)], state)
    node = slow.nodes["Stage_3-002"]
    asked = operators(tmp_path)
    assert "1234" not in json.dumps([asked.proposal_facts(slow, node, ""), asked.analysis_facts(slow, node, "")])


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\nx = 1\n```", "x = 1\n"),
        ("```\nx\n```", "x\n"),
        ("x = 1", "x = 1"),
        ("```python\nx", "```python\nx"),
    ],
)
def test_a_program_in_a_markdown_block_is_taken_out(text, code):
    assert _without_fence(text) == code


def test_half_characters_are_replaced(tmp_path):
    asked = operators(tmp_path)
    asked.client.reply = lambda request: {"code": "print('\ud800')", "plan": "\udfff"}
    state = grown(1)
    proposal = asked.propose(state, state.nodes["Stage_3-001"], "")
    assert proposal.code.encode() == b"print('?')"
    assert proposal.plan == "?"
