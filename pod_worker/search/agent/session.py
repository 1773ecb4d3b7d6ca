"""An agent writes the program of a node in turns with tools, up to a cap.

It has the contract of the one-shot operators: a proposal, whose program the executor runs and scores. What the
agent executes before is for its eyes alone and gives no score.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from pod_worker.core.execution import CodeRunner
from pod_worker.core.failure import FailureCode, RunError, truncate
from pod_worker.core.research.completion import CompletionRequest
from pod_worker.core.run import Json
from pod_worker.core.stage import StopSignal
from pod_worker.search.agent.prompts import turn_messages
from pod_worker.search.agent.turns import ACTION_SCHEMA, ActionKind, AgentAction, AgentTurn, Transcript, files_of
from pod_worker.search.agent.workspace import Workspace, listed
from pod_worker.search.executor import PROGRAM
from pod_worker.search.operators import CHANGE_LIMIT, PLAN_LIMIT, Analysis, Operators, Proposal
from pod_worker.search.settings import SearchSettings
from pod_worker.search.slot_permits import SlotPermits
from pod_worker.search.task import SearchTask
from pod_worker.search.tree.node import SearchNode
from pod_worker.search.tree.state import SearchState

OPERATION = "agent.turn"
FOLDER = "agents"  # of the transcripts; part of the record of a run
CAPPED = "The cap on turns ended the work; this is the last program that was written."


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentOperators:
    """Implements `operators.NodeOperators`; safe for several threads."""

    one_shot: Operators
    runner: CodeRunner
    task: SearchTask
    settings: SearchSettings
    permits: SlotPermits
    folder: Path  # of the search
    stop: StopSignal

    def analyse(self, state: SearchState, node: SearchNode, code: str) -> Analysis:
        return self.one_shot.analyse(state, node, code)

    def propose(self, state: SearchState, node: SearchNode, code: str, rejected: str = "") -> Proposal:
        """The program that the agent finished, or its last one at the cap.

        Raises RunError and interruptions of the client and of the sandbox.
        """
        facts = self.one_shot.proposal_facts(state, node, code, rejected)
        facts["operation"] = f"node.{node.operation.value}"
        name = f"{node.id}-again" if rejected else node.id
        transcript = Transcript.open(self.folder / FOLDER / f"{name}.ndjson", facts)
        workspace = Workspace(
            runner=self.runner,
            task=self.task,
            settings=self.settings,
            permits=self.permits,
            folder=self.folder / "nodes" / f"{name}-agent",
            node=node,
            stop=self.stop,
        )
        while len(transcript.turns) < self.settings.agent_turns:
            if transcript.turns and (done := _finished(transcript.turns)):
                return done
            self.stop.check()
            transcript.append(self._turn(node, facts, transcript.turns, workspace, bool(rejected)))
        return _finished(transcript.turns) or _capped(transcript.turns)

    def _turn(
        self,
        node: SearchNode,
        facts: dict[str, Json],
        turns: list[AgentTurn],
        workspace: Workspace,
        is_again: bool,
    ) -> AgentTurn:
        files = files_of(turns)
        action, is_scripted = self._ask(node, facts, turns, is_again)
        if action.action is not ActionKind.FINISH:
            output = next((turn.output for turn in reversed(turns) if turn.output), "")
            turn = workspace.perform(action, files, output)
        elif action.path in files:
            turn = AgentTurn(action=action, observation="The program is handed in.")
        else:
            problem = f"Refused: there is no file {action.path[:80]!r}; {listed(files)}."
            turn = AgentTurn(action=action, observation=problem, is_ok=False)
        return msgspec.structs.replace(turn, is_scripted=is_scripted)

    def _ask(
        self, node: SearchNode, facts: dict[str, Json], turns: list[AgentTurn], is_again: bool
    ) -> tuple[AgentAction, bool]:
        limit = self.settings.agent_turns
        asked: dict[str, Json] = {
            **facts,
            "turn": len(turns) + 1,
            "turns": limit,
            "files": dict(files_of(turns)),
            "last": _shown(turns[-1]) if turns else None,
        }
        answer = self.one_shot.client.complete(
            CompletionRequest(
                operation=OPERATION,
                messages=turn_messages(facts, turns, limit),
                schema=ACTION_SCHEMA,
                facts=asked,
                stage=node.stage,
                node_id=node.id,
                sample=2 * node.step + is_again,
            )
        )
        try:
            return msgspec.convert(answer.value, AgentAction), answer.is_scripted
        except msgspec.ValidationError as error:
            raise RunError(FailureCode.LLM_ERROR, f"the answer to {OPERATION} is no action: {error}") from None


def _shown(turn: AgentTurn) -> dict[str, Json]:
    return {
        "action": turn.action.action.value,
        "path": turn.action.path,
        "is_ok": turn.is_ok,
        "observation": turn.observation,
    }


def _finished(turns: list[AgentTurn]) -> Proposal | None:
    last = turns[-1]
    if last.action.action is not ActionKind.FINISH or not last.is_ok:
        return None
    return _proposal(turns, last.action.plan, last.action.change, files_of(turns)[last.action.path])


def _capped(turns: list[AgentTurn]) -> Proposal:
    files = files_of(turns)
    programs = [name for name in files if name.endswith(".py")]
    chosen = PROGRAM if PROGRAM in files else programs[-1] if programs else ""
    return _proposal(turns, CAPPED, "", files.get(chosen, ""))


def _proposal(turns: list[AgentTurn], plan: str, change: str, code: str) -> Proposal:
    return Proposal(
        plan=truncate(plan.strip(), PLAN_LIMIT),
        change=truncate(change.strip(), CHANGE_LIMIT),
        code=code,
        is_scripted=any(turn.is_scripted for turn in turns),
        calls=len(turns),
    )
