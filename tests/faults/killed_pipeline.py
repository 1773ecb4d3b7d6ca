"""A pipeline for tests that kill: four stages of real search over programs that are really executed in the sandbox.

The model is a priced one that notes each answer before it returns it, as a provider's bill does. The programs sleep,
so that a kill finds one.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec

from pod_worker.core.clock import SystemClock
from pod_worker.core.execution import CodeRunner, ExecutionLimits
from pod_worker.core.research.completion import CompletionRequest
from pod_worker.core.run import Json
from pod_worker.core.stage import Context, Stage, StopSignal
from pod_worker.llm.client import ClientSettings, MeteredClient
from pod_worker.llm.factory import CACHE_FOLDER, LEDGER_FILE
from pod_worker.llm.response_cache import ResponseCache, request_key
from pod_worker.llm.spending.ledger import CallLedger
from pod_worker.llm.spending.limits import SpendCaps, SpendLimits
from pod_worker.llm.spending.prices import load_prices
from pod_worker.llm.wire import WireAnswer, WireRequest
from pod_worker.pipeline import Pipeline
from pod_worker.sandbox import starting
from pod_worker.search.pool import ThreadPool
from tests.llm.requests_and_answers import MODEL, USAGE
from tests.search.fakes import FakeModel, make_search, random_program

NAME = "killed-search"
MODULES = ("json",)  # of the sandbox server: it starts at once
CAP_USD = 1.0
PID_FILE, PAID_FILE = "out/pid", "paid"
ANSWER_SECONDS = 0.01
PROGRAM = """\
import json, os, random, time
does = json.loads({does!r})
out = os.environ["OUTPUT_DIR"]
with open(os.path.join(out, "pid.partial"), "w") as file:
    file.write(str(os.getpid()))
os.rename(os.path.join(out, "pid.partial"), os.path.join(out, "pid"))
time.sleep(0.1)
if "error" in does:
    raise ValueError(does["error"])
noise = random.Random(int(os.environ["RUN_SEED"])).gauss(0, 0.01)
with open(os.path.join(out, "scores.json"), "w") as file:
    json.dump(does | {{"noise": noise}}, file)
"""


def reply(request: CompletionRequest) -> dict[str, Json]:
    return {"code": PROGRAM.format(does=json.dumps(random_program(request)))}


class BilledWire:
    """Implements `wire.WireClient`; the bill has one line for each answer."""

    provider = "toy"
    takes_facts = True

    def __init__(self, folder: Path) -> None:
        self._model = FakeModel(reply)
        self._bill = os.open(folder / PAID_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def send(self, request: WireRequest) -> WireAnswer:
        facts = dict(request.facts)
        asked = CompletionRequest(
            operation=request.operation, messages=request.messages, facts=facts, sample=request.sample
        )
        text = json.dumps(self._model.complete(asked).value)
        os.write(self._bill, f"{request_key(request, takes_facts=True)}\n".encode())
        time.sleep(ANSWER_SECONDS)  # on its way: a kill may lose it
        return WireAnswer(text=text, model=MODEL, usage=USAGE, has_tool_call=True)

    def close(self) -> None:
        os.close(self._bill)


def open_client(folder: Path, stop: StopSignal) -> MeteredClient:
    ledger = CallLedger(folder / "llm" / LEDGER_FILE, SystemClock())
    return MeteredClient(
        BilledWire(folder),
        ledger=ledger,
        limits=SpendLimits(SpendCaps(usd=CAP_USD), ledger, stop),
        cache=ResponseCache(folder / "llm" / CACHE_FOLDER),
        prices=load_prices(),
        settings=ClientSettings(model=MODEL, needs_price=True),
        stop=stop,
    )


def search_stage(stage: str, folder: Path, runner: CodeRunner, stop: StopSignal) -> None:
    client = open_client(folder, stop)
    settings = {"seeds": 2, "max_starts": 1_000_000, "limits": ExecutionLimits(wall_seconds=60)}
    search = make_search(
        folder / "search", client=client, runner=runner, stop=stop, set=settings, new_pool=ThreadPool
    )
    try:
        search.run_stage(stage, 3)
    finally:
        client.close()


class QuickStarter(starting.GuardStarter):
    """A server without the numeric libraries."""

    def __init__(self, fd: int, modules: Sequence[str] = ()) -> None:
        super().__init__(fd, MODULES)


def run(stage: str, context: Context) -> dict[str, Json]:
    starting.GuardStarter = QuickStarter  # type: ignore[misc]
    search_stage(stage, Path(str(context.run.params["folder"])), context.open_sandbox(), context.stop)
    return {}


def stages_of(params: dict[str, Json]) -> tuple[Stage, ...]:
    return tuple(Stage(name, partial(run, name)) for name in params["stages"])


class KilledSearchParams(msgspec.Struct):
    folder: str
    stages: list[str]


PIPELINE = Pipeline(
    NAME,
    "A search that is killed.",
    lambda params: params,
    stages_of,
    KilledSearchParams,
    needs_sandbox=lambda _params: True,
)
