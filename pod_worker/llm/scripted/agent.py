"""Scripted turns of an agent: it writes a program, runs it, and hands it in.

A program that fails is repaired once. A turn is computed from the request's facts alone: the files so far, and the
last action with its result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from pod_worker.core.research.completion import CompletionRequest
from pod_worker.core.run import Json
from pod_worker.llm.scripted import node

FILE = "solution.py"
REPAIRED_AT = 3  # the turn that may repair what the second one ran
_EMPTY: dict[str, Json] = {
    "thought": "", "action": "", "path": FILE, "content": "", "offset": 0, "plan": "", "change": "",
}  # fmt: skip


def turn(request: CompletionRequest) -> Json:
    last = request.facts.get("last")
    if not isinstance(last, Mapping):
        return _write(_written(request), "Write a first version.")
    if last.get("action") == "write":
        return _action("run", "See whether it works.")
    if last.get("action") == "run" and not last.get("is_ok") and request.facts.get("turn") == REPAIRED_AT:
        return _write(_repaired(request, last), "The run failed: repair its cause.")
    written = _written(request)
    return _action("finish", "It is complete.", plan=written["plan"], change=written["change"])


def _written(request: CompletionRequest) -> dict[str, Json]:
    operation = str(request.facts["operation"])
    found: dict[str, Json] = node.REPLIES[operation](replace(request, operation=operation))
    return found


def _repaired(request: CompletionRequest, last: Mapping[str, Json]) -> dict[str, Json]:
    code = (request.facts.get("files") or {}).get(FILE, "")
    parent = {"code": code, "output": last.get("observation"), "outcome": "buggy"}
    found: dict[str, Json] = node.debug(replace(request, facts={**request.facts, "parent": parent}))
    return found


def _write(written: Mapping[str, Json], thought: str) -> Json:
    return _action("write", thought, content=written["code"])


def _action(name: str, thought: str, **fields: Json) -> Json:
    return {**_EMPTY, "action": name, "thought": thought, **fields}


REPLIES: dict[str, Callable[[CompletionRequest], Json]] = {"agent.turn": turn}
