"""An agent of the scripted model in the real sandbox; its recorded answers give the same tree without a model."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

from pod_worker.core.clock import SystemClock
from pod_worker.core.execution import ExecutionLimits
from pod_worker.llm.cassettes.cassette import Cassette, Cassettes, CassetteWire, question_of
from pod_worker.llm.client import ClientSettings, MeteredClient
from pod_worker.llm.providers.scripted_wire import ScriptedWire
from pod_worker.llm.response_cache import ResponseCache
from pod_worker.llm.scripted.client import ScriptedClient
from pod_worker.llm.spending.ledger import CallLedger
from pod_worker.llm.spending.limits import SpendCaps, SpendLimits
from pod_worker.llm.spending.prices import load_prices
from pod_worker.llm.wire import WireAnswer, WireClient, WireRequest
from pod_worker.sandbox.client import SandboxClient
from pod_worker.search.search import Search
from pod_worker.search.settings import SearchSettings
from pod_worker.search.tree.journal import read_state
from pod_worker.stages.research.search_session import evaluator_of, search_task
from pod_worker.tasks.catalogue import find_task
from pod_worker.tasks.prepare import PreparedTask, prepare_task
from tests.sandbox.support import NeverStop
from tests.search.fakes import IDEA, tree_of


class Recorder:
    """Implements `wire.WireClient`: the scripted model, and a cassette of each answer."""

    provider, takes_facts = "scripted", True

    def __init__(self, cassettes: Cassettes) -> None:
        self._wire, self._cassettes = ScriptedWire(ScriptedClient()), cassettes

    def send(self, request: WireRequest) -> WireAnswer:
        answer = self._wire.send(request)
        asked = question_of(request.operation, request.model, request.sample, request.messages)
        fields = {
            name: getattr(asked, name) for name in ("operation", "model", "sample", "asked_again", "messages")
        }
        self._cassettes.add(Cassette(**fields, text=answer.text, usage=answer.usage))
        return answer

    def close(self) -> None:
        """It holds nothing open."""


def run(folder: Path, prepared: PreparedTask, runner: SandboxClient, wire: WireClient) -> list[object]:
    folder.mkdir(mode=0o711)
    ledger = CallLedger(folder / "llm" / "ledger.ndjson", SystemClock())
    client = MeteredClient(
        wire,
        ledger=ledger,
        limits=SpendLimits(SpendCaps(), ledger, NeverStop()),
        cache=ResponseCache(folder / "llm" / "cache"),
        prices=load_prices(),
        settings=ClientSettings(model="scripted", is_free=True),
        stop=NeverStop(),
    )
    limits = ExecutionLimits(wall_seconds=600)  # no program comes near it, however busy the machine is
    with closing(client):
        Search(
            folder=folder,
            task=search_task(prepared),
            idea=IDEA,
            settings=SearchSettings(seed=4, agent_turns=5, num_drafts=1, seeds=2, limits=limits),
            client=client,
            runner=runner,
            evaluator=evaluator_of(prepared),
            stop=NeverStop(),
        ).run_stage("Stage_1", 3)
    state = read_state(folder)
    assert all(node.calls >= 4 for node in state.written("Stage_1")), "write, run, finish and the analysis"
    return tree_of(state)


def test_recorded_turns_of_an_agent_give_the_same_tree(
    code_runner: SandboxClient, open_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    prepared = prepare_task(find_task("wine"), 1, open_folder / "agent-task")
    cassettes = Cassettes(tmp_path)
    recorded = run(open_folder / "agent-recorded", prepared, code_runner, Recorder(cassettes))
    replayed = run(open_folder / "agent-replayed", prepared, code_runner, CassetteWire(Cassettes(tmp_path)))
    assert replayed == recorded
