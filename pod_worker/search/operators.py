"""The model calls of a node: one proposal and one analysis.

The facts of a request come from the state at the moment of the decision, so a resumed search asks the same
question and the client's cache answers it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Protocol

from pod_worker.core.failure import FailureCode, RunError, truncate
from pod_worker.core.research.completion import ChatCompletion, CompletionClient, CompletionRequest
from pod_worker.core.research.idea import Idea
from pod_worker.core.run import Json
from pod_worker.search.choice.stages import StageRules
from pod_worker.search.prompts import (
    ANALYSIS_SCHEMA,
    PROPOSAL_SCHEMA,
    analysis_messages,
    both_ends,
    proposal_messages,
)
from pod_worker.search.task import SearchTask
from pod_worker.search.tree import memory
from pod_worker.search.tree.node import Operation, SearchNode
from pod_worker.search.tree.state import SearchState

CODE_BYTES = 48_000
OUTPUT_LIMIT = 5_000  # characters of a node's output that a model reads
_ERROR_LIMIT = 2_000
PLAN_LIMIT = 2_000
CHANGE_LIMIT = 120
_ANALYSIS_LIMIT = 2_000
_IDEA_TEXT_LIMIT = 2_000
_IDEA_ENTRIES, _IDEA_ENTRY_LIMIT = 12, 500
_TASK_TEXT_LIMIT = 4_000
_TASK_ENTRIES, _TASK_ENTRY_LIMIT = 40, 300
_TASK_BYTES = 20_000


@dataclass(frozen=True, slots=True)
class Proposal:
    plan: str
    change: str
    code: str
    is_scripted: bool = False
    calls: int = 1  # of a model, for this proposal alone


@dataclass(frozen=True, slots=True)
class Analysis:
    analysis: str
    insight: str


class NodeOperators(Protocol):
    """What the scheduler asks about nodes; safe for several threads."""

    def propose(self, state: SearchState, node: SearchNode, code: str, rejected: str = "") -> Proposal: ...

    def analyse(self, state: SearchState, node: SearchNode, code: str) -> Analysis: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Operators:
    """The one-shot operators: one call a proposal, one an analysis.

    Implements `NodeOperators`.
    """

    client: CompletionClient
    task: SearchTask
    idea: Idea
    rules: StageRules
    hosts: tuple[str, ...] = ()  # that programs may reach

    def propose(self, state: SearchState, node: SearchNode, code: str, rejected: str = "") -> Proposal:
        """A program for the planned node; `code` is its parent's program.

        `rejected`: why the first answer is not used. Raises RunError and interruptions of the client.
        """
        operation = f"node.{node.operation.value}"
        facts = self.proposal_facts(state, node, code, rejected)
        answer = self._ask(
            CompletionRequest(
                operation=operation,
                messages=proposal_messages(operation, facts),
                schema=PROPOSAL_SCHEMA,
                facts=facts,
                stage=node.stage,
                node_id=node.id,
                sample=2 * node.step + bool(rejected),  # several drafts start from the same facts
            )
        )
        return Proposal(
            plan=truncate(_text(answer, "plan"), PLAN_LIMIT),
            change=truncate(_text(answer, "change"), CHANGE_LIMIT),
            code=_without_fence(_text(answer, "code")),
            is_scripted=answer.is_scripted,
        )

    def analyse(self, state: SearchState, node: SearchNode, code: str) -> Analysis:
        """What the outcome means; raises RunError and interruptions of the client."""
        facts = self.analysis_facts(state, node, code)
        answer = self._ask(
            CompletionRequest(
                operation="node.analyse",
                messages=analysis_messages(facts),
                schema=ANALYSIS_SCHEMA,
                facts=facts,
                temperature=0.3,
                max_output_tokens=1_024,
                stage=node.stage,
                node_id=node.id,
            )
        )
        insight = truncate(_text(answer, "insight"), memory.INSIGHT_LIMIT)
        return Analysis(truncate(_text(answer, "analysis"), _ANALYSIS_LIMIT), insight)

    def proposal_facts(
        self, state: SearchState, node: SearchNode, code: str, rejected: str = ""
    ) -> dict[str, Json]:
        facts: dict[str, Json] = {
            "task": _bounded_task(self.task.facts),
            "idea": _bounded_idea(self.idea),
            "stage": node.stage,
            "goals": self.rules.goals,
            "tried": memory.tried(state, node),
            "insights": memory.insights(state, node, self.task.metric),
            "step": node.step,
            "seed": node.seed,
        }
        if self.hosts:
            facts["hosts"] = list(self.hosts)
        if node.parent is not None:
            facts["parent"] = _parent_facts(state.nodes[node.parent], code, node.operation)
        if rejected:
            facts["rejected"] = rejected
        return facts

    def analysis_facts(self, state: SearchState, node: SearchNode, code: str) -> dict[str, Json]:
        task = _bounded_task(self.task.facts)
        facts: dict[str, Json] = {
            "task": {name: task[name] for name in ("name", "title", "metric") if name in task},
            "node": _parent_facts(node, code, Operation.DEBUG) | {"operation": node.operation.value},
        }
        if node.parent is not None:
            parent = state.nodes[node.parent]
            facts["parent"] = {"node_id": parent.id, "plan": parent.plan, "score": parent.search_score}
        return facts

    def _ask(self, request: CompletionRequest) -> ChatCompletion:
        answer = self.client.complete(request)
        if not isinstance(answer.value, dict):
            raise RunError(FailureCode.LLM_ERROR, f"the answer to {request.operation} is no JSON object")
        return answer


def _parent_facts(node: SearchNode, code: str, operation: Operation) -> dict[str, Json]:
    """Facts without run times: an equal question must have equal text."""
    facts: dict[str, Json] = {
        "node_id": node.id,
        "plan": node.plan,
        "change": node.change,
        "code": code,
        "score": node.search_score,
        "output": both_ends(node.output, OUTPUT_LIMIT),
    }
    if operation is Operation.DEBUG:
        facts["outcome"] = node.outcome.value if node.outcome else None
        facts["error"] = truncate(": ".join(filter(None, (node.error_kind, node.error))), _ERROR_LIMIT)
    return facts


def _bounded_task(facts: dict[str, Json]) -> dict[str, Json]:
    """The facts, shortened; of a huge task, those that every prompt needs."""
    bounded: dict[str, Json] = {
        name: truncate(value, _TASK_TEXT_LIMIT)
        if isinstance(value, str)
        else _bounded(value, _TASK_ENTRY_LIMIT, _TASK_ENTRIES)
        for name, value in facts.items()
    }
    if len(json.dumps(bounded)) <= _TASK_BYTES:
        return bounded
    return {name: bounded[name] for name in ("name", "title", "description", "metric") if name in bounded}


def _bounded_idea(idea: Idea) -> dict[str, Json]:
    return {
        name: truncate(value, _IDEA_TEXT_LIMIT)
        if isinstance(value, str)
        else _bounded(value, _IDEA_ENTRY_LIMIT, _IDEA_ENTRIES)
        for name, value in idea.to_json().items()
    }


def _bounded(value: Json, text_limit: int, entries: int) -> Json:
    if isinstance(value, str):
        return truncate(value, text_limit)
    if isinstance(value, list):
        return [_bounded(entry, text_limit, entries) for entry in value[:entries]]
    if isinstance(value, dict):
        return {name: _bounded(entry, text_limit, entries) for name, entry in list(value.items())[:entries]}
    return value


def _text(answer: ChatCompletion, name: str) -> str:
    value = answer.value.get(name) if isinstance(answer.value, dict) else None
    if not isinstance(value, str):
        return ""
    return value.encode("utf-8", "replace").decode().strip()  # JSON can spell half a character


def _without_fence(code: str) -> str:
    """A program that the model put into a Markdown block."""
    lines = code.split("\n")
    if len(lines) >= 2 and lines[0].startswith("```") and lines[-1].strip() == "```":
        return "\n".join(lines[1:-1]) + "\n"
    return code
