"""A model whose calls of one operation go to a replay server with faults; all others are answered at once.

The answers are a pure function of the question: toy programs for the search, the scripted model for the rest.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pod_worker.core.clock import SystemClock
from pod_worker.core.credentials.secret import Secret
from pod_worker.core.research.completion import CompletionRequest
from pod_worker.core.stage import StopSignal
from pod_worker.llm.cassettes.canonical import split_asked_again
from pod_worker.llm.cassettes.cassette import Cassettes
from pod_worker.llm.cassettes.faults import ModelFault, ModelFaultKind, ModelFaultPlan
from pod_worker.llm.cassettes.replay import Replay
from pod_worker.llm.cassettes.replay_server import ReplayServer
from pod_worker.llm.cassettes.served_wire import ServedWire
from pod_worker.llm.client import ClientSettings, MeteredClient
from pod_worker.llm.factory import CACHE_FOLDER, LEDGER_FILE
from pod_worker.llm.providers.anthropic_messages import AnthropicMessages
from pod_worker.llm.providers.openai_chat import OpenAiChat
from pod_worker.llm.response_cache import ResponseCache, request_key
from pod_worker.llm.scripted.client import ScriptedClient
from pod_worker.llm.spending.ledger import CallLedger
from pod_worker.llm.spending.limits import SpendCaps, SpendLimits
from pod_worker.llm.spending.prices import load_prices
from pod_worker.llm.structured_output import AnswerProblem, read_answer
from pod_worker.llm.wire import WireAnswer, WireClient, WireRequest
from tests.llm.requests_and_answers import KEY, MODEL, QUICK, USAGE
from tests.search.fakes import FakeModel

PATIENT_SECONDS, IMPATIENT_SECONDS = 60.0, 0.03


class Answering:
    """Implements `replay.Upstream` for the question in flight: tests send one at a time."""

    def __init__(self) -> None:
        self.question: WireRequest | None = None
        self._toy, self._scripted = FakeModel(), ScriptedClient()

    def ask(self, wire: ServedWire, body: Mapping[str, Any], headers: Mapping[str, str]) -> WireAnswer:
        assert self.question is not None
        return self.answer(self.question)

    def answer(self, question: WireRequest) -> WireAnswer:
        """The same answer however often the question was asked before."""
        request = CompletionRequest(
            operation=question.operation,
            messages=tuple(split_asked_again(question.messages)[0]),
            schema=None if question.schema is None else dict(question.schema),
            facts=dict(question.facts),
            sample=question.sample,
        )
        model = self._toy if question.operation.startswith(("node.", "agent.")) else self._scripted
        value = model.complete(request).value
        return WireAnswer(text=json.dumps(value), model=MODEL, usage=USAGE, has_tool_call=True)


class StruckModel:
    """The server, shared by the runs of a module, and the clients of each run."""

    def __init__(self, folder: Path) -> None:
        self._answering = Answering()
        self.server = ReplayServer(Replay(Cassettes(folder), upstream=self._answering))

    def client(
        self, folder: Path, wire: str, operation: str, faults: list[ModelFault], stop: StopSignal
    ) -> tuple[MeteredClient, StruckWire]:
        """A client whose files are in `folder`, as those of an attempt."""
        self.server.replay.faults.replace(faults)
        self.server.replay.counts.clear()
        struck = StruckWire(self.server, self._answering, wire, operation, faults)
        ledger = CallLedger(folder / LEDGER_FILE, SystemClock())
        client = MeteredClient(
            struck,
            ledger=ledger,
            limits=SpendLimits(SpendCaps(usd=1_000.0), ledger, stop),
            cache=ResponseCache(folder / CACHE_FOLDER),
            prices=load_prices(),
            settings=ClientSettings(model=MODEL, needs_price=True, retry=replace(QUICK, attempts=2)),
            stop=stop,
            rng=random.Random(0),
        )
        return client, struck


class StruckWire:
    """Implements `wire.WireClient`."""

    takes_facts = False

    def __init__(
        self, server: ReplayServer, answering: Answering, wire: str, operation: str, faults: list[ModelFault]
    ) -> None:
        self.provider = wire
        self.requests = 0  # of the operation
        self.usable: Counter[str] = Counter()  # answers that can be used, by question
        self._answering, self._operation = answering, operation
        self._patient, self._impatient = (
            _open(wire, server, seconds) for seconds in (PATIENT_SECONDS, IMPATIENT_SECONDS)
        )
        self._plan = ModelFaultPlan(faults)  # the server's, so that only a request that will hang is given up

    def send(self, request: WireRequest) -> WireAnswer:
        if request.operation != self._operation:
            answer = self._answering.answer(request)
        else:
            self.requests += 1
            self._answering.question = request
            fault = self._plan.choose(request.operation)
            is_hanging = fault is not None and fault.kind is ModelFaultKind.HANG
            answer = (self._impatient if is_hanging else self._patient).send(request)
        if not isinstance(read_answer(answer, request), AnswerProblem):
            self.usable[request_key(request)] += 1
        return answer

    def close(self) -> None:
        self._patient.close()
        self._impatient.close()


def _open(wire: str, server: ReplayServer, seconds: float) -> WireClient:
    if wire == "openai":
        return OpenAiChat(Secret(KEY), server.openai_url, timeout_seconds=seconds, clock=SystemClock())
    return AnthropicMessages(Secret(KEY), server.url, timeout_seconds=seconds, clock=SystemClock())
