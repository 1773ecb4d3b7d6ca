"""Programs and model of the research benchmarks: the same for the search and for its control."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from pathlib import Path

from pod_worker.core.clock import SystemClock
from pod_worker.core.research.completion import CompletionRequest
from pod_worker.core.research.idea import Idea
from pod_worker.core.run import Json
from pod_worker.core.stop_signal import StopSignal
from pod_worker.llm.client import ClientSettings, MeteredClient
from pod_worker.llm.providers.scripted_wire import ScriptedWire
from pod_worker.llm.response_cache import ResponseCache
from pod_worker.llm.scripted.client import Reply, ScriptedClient
from pod_worker.llm.spending.ledger import CallLedger
from pod_worker.llm.spending.limits import SpendCaps, SpendLimits
from pod_worker.llm.spending.prices import load_prices

IDEA = Idea(
    title="A small model is enough",
    short_hypothesis="A linear model reaches the accuracy of a large one.",
    abstract="We compare sizes.",
    experiments=("Compare sizes.",),
    risks=("None.",),
)
IMPORTS = "import torch, matplotlib, sklearn\n"
# What a small experiment does: load, train a few steps with an optimizer, predict.
TOY = """\
import os
import matplotlib
import numpy as np
import sklearn.linear_model
import torch

torch.set_num_threads(1)
rate = {rate}
task, out = os.environ["TASK_DIR"], os.environ["OUTPUT_DIR"]
train, search, hidden = (np.load(f"{{task}}/{{name}}.npz") for name in ("train", "search", "hidden_inputs"))
mean, scale = train["x"].mean(0), train["x"].std(0) + 1e-6
tensor = lambda data: torch.tensor((data["x"] - mean) / scale, dtype=torch.float32)
labels, inputs = torch.tensor(train["y"]).long(), tensor(train)
model = torch.nn.Linear(inputs.shape[1], int(labels.max()) + 1)
optimizer = torch.optim.Adam(model.parameters(), lr=rate)
for step in range(10):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(inputs), labels).backward()
    optimizer.step()
classes = lambda data: model(tensor(data)).argmax(1).numpy()
answers = {{"search": classes(search), "hidden": classes(hidden)}}
np.savez(os.path.join(out, "predictions.npz"), **answers)
print("trained with rate", rate)
"""
# A program that only waits, so that many slots fit on few cores.
SLEEPER = """\
import os, time
import numpy as np

label = {label}
time.sleep({seconds})
task, out = os.environ["TASK_DIR"], os.environ["OUTPUT_DIR"]
rows = {{name: len(np.load(os.path.join(task, file))["x"]) for name, file in
        (("search", "search.npz"), ("hidden", "hidden_inputs.npz"))}}
np.savez(os.path.join(out, "predictions.npz"), **{{name: np.full(rows[name], 1) for name in rows}})
"""


def toy_program(number: int) -> str:
    return TOY.format(rate=0.02 + number % 1_000_003 * 1e-9)


def sleeper_program(number: int, seconds: tuple[float, float]) -> str:
    """Half of the programs take the first time, half the second."""
    chosen = seconds[random.Random(number).random() < 0.5]
    return SLEEPER.format(label=number, seconds=chosen)


def replies(latency_seconds: float, sleeps: tuple[float, float] | None = None) -> dict[str, Reply]:
    """A model that waits, then writes a program that differs from others in one constant."""

    def propose(request: CompletionRequest) -> Json:
        time.sleep(latency_seconds)
        number = int(request.facts["seed"])
        code = sleeper_program(number, sleeps) if sleeps else toy_program(number)
        return {"plan": f"Change the constant to {number}.", "change": f"constant {number}", "code": code}

    def analyse(request: CompletionRequest) -> Json:
        time.sleep(latency_seconds)
        return {"analysis": "It trained.", "insight": "The constant matters little."}

    operations = ("draft", "improve", "debug", "tune", "ablate")
    return {**{f"node.{name}": propose for name in operations}, "node.analyse": analyse}


def open_client(folder: Path, table: Mapping[str, Reply], stop: StopSignal) -> MeteredClient:
    """The client of a run, ledger and cache included, over the model of this file."""
    ledger = CallLedger(folder / "ledger.ndjson", SystemClock())
    return MeteredClient(
        ScriptedWire(ScriptedClient(table)),
        ledger=ledger,
        limits=SpendLimits(SpendCaps(), ledger, stop),
        cache=ResponseCache(folder / "cache"),
        prices=load_prices(),
        settings=ClientSettings(model="scripted", is_free=True),
        stop=stop,
    )


class NeverStop:
    def check(self) -> None:
        """Never raises."""

    def is_set(self) -> bool:
        return False
