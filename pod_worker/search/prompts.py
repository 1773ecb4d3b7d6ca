"""The messages of the node operations, rendered from the facts of a request.

Every part has a byte bound, so a prompt stays below `PROMPT_BYTES` however large the tree is.
"""

from __future__ import annotations

import json

from pod_worker.core.research.completion import ChatMessage
from pod_worker.core.run import Json

PROMPT_BYTES = 160_000
CONTRACT = """You write experiments for a research project. A program is one complete Python file.

Rules for the program:
- It runs as `solution.py`, as `__main__`, without arguments, with the time limit of the task. There is no network,
  except for hosts that are named below.
- The environment has TASK_DIR (read only), OUTPUT_DIR (writable) and RUN_SEED. Every random choice uses RUN_SEED.
- Read `train.npz` (arrays x, y), `search.npz` (x, y) and `hidden_inputs.npz` (x) from TASK_DIR, where the task has
  these files. Train on train.npz only. search.npz is for looking at results.
- Write OUTPUT_DIR/predictions.npz with the arrays `search` and `hidden`: one prediction for each row of search x
  and of hidden_inputs x. An evaluator that you cannot reach computes the scores.
- A task without an evaluator wants OUTPUT_DIR/results.json: {"<metric>": value} instead.
- Optional: OUTPUT_DIR/curves.json: [{"name": "train_loss", "steps": [...], "values": [...]}].
- Print what helps to understand the result. Do not print data."""

_TASKS = {
    "node.draft": "Write a first program for the idea. Differ from what was tried.",
    "node.improve": "Improve the program below with one change that follows from the idea and the insights.",
    "node.debug": "The program below has no score. Find the cause in its error and output, and repair it. "
    "Keep what it tests.",
    "node.tune": "Change one hyperparameter, or one group that belongs together, of the program below. Name it in "
    "`change`. Do not repeat a change that was tried.",
    "node.ablate": "Remove or disable one component of the program below. Name the component in `change`. Do not "
    "repeat an ablation that was tried. Change nothing else.",
}
_ANSWER = """Answer with a JSON object: `plan` (what you do and why, at most five sentences), `change` (a label of
at most eight words) and `code` (the complete program)."""
_ANALYSE = """You judge one executed experiment. Answer with a JSON object: `analysis` (what the result means, at
most five sentences) and `insight` (one lesson for other experiments of this project, at most 400 characters,
concrete and true for this result; an empty text if there is none)."""

_TEXT: dict[str, Json] = {"type": "string"}
PROPOSAL_SCHEMA: dict[str, Json] = {
    "type": "object",
    "properties": {"plan": _TEXT, "change": _TEXT, "code": _TEXT},
    "required": ["plan", "change", "code"],
    "additionalProperties": False,
}
ANALYSIS_SCHEMA: dict[str, Json] = {
    "type": "object",
    "properties": {"analysis": _TEXT, "insight": _TEXT},
    "required": ["analysis", "insight"],
    "additionalProperties": False,
}


def proposal_messages(operation: str, facts: dict[str, Json]) -> tuple[ChatMessage, ...]:
    return _messages(CONTRACT, [*proposal_parts(operation, facts), _ANSWER])


def proposal_parts(operation: str, facts: dict[str, Json]) -> list[str]:
    """What a program has to do, without the form of the answer."""
    parts = [_TASKS[operation], _section("Task", facts.get("task")), _section("Idea", facts.get("idea"))]
    if hosts := facts.get("hosts"):
        parts.append(_section("Hosts that it may reach (TCP, by name; then no workers in data loaders)", hosts))
    parts.append(f"## Stage {facts.get('stage')}, program {facts.get('step')}\n{facts.get('goals')}")
    if parent := facts.get("parent"):
        parts.append(_node("Program to start from", parent))
    parts.append(_section("Tried so far in this stage, newest first", facts.get("tried")))
    parts.append(_bullets("Insights from other experiments", facts.get("insights")))
    if rejected := facts.get("rejected"):
        parts.append(f"## Your last answer was rejected\n{rejected} Answer differently.")
    return [part for part in parts if part]


def both_ends(text: str, limit: int) -> str:
    """The beginning and the end: imports and settings, and the traceback."""
    if len(text) <= limit:
        return text
    first = limit // 3
    return f"{text[:first]}\n[{len(text) - limit} characters cut]\n{text[first - limit :]}"


def analysis_messages(facts: dict[str, Json]) -> tuple[ChatMessage, ...]:
    parts = [_section("Task", facts.get("task")), _node("Experiment", facts.get("node"))]
    if parent := facts.get("parent"):
        parts.append(_section("The experiment that it changes", parent))
    return _messages(_ANALYSE, parts)


def _messages(system: str, parts: list[str]) -> tuple[ChatMessage, ...]:
    return ChatMessage("system", system), ChatMessage("user", "\n\n".join(part for part in parts if part))


def _section(title: str, value: Json) -> str:
    if not value:
        return ""
    return f"## {title}\n{value if isinstance(value, str) else _lines(value)}"


def _lines(value: Json) -> str:
    if isinstance(value, list):
        return "\n".join(f"- {_inline(entry)}" for entry in value)
    if isinstance(value, dict):
        return "\n".join(f"- {name}: {_inline(entry)}" for name, entry in value.items())
    return str(value)


def _inline(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _bullets(title: str, value: Json) -> str:
    return _section(title, value) if value else ""


def _node(title: str, value: Json) -> str:
    """A node's facts; program and output as blocks of their own."""
    if not isinstance(value, dict):
        return ""
    blocks = {"code": "python", "output": "text", "error": "text"}
    plain: dict[str, Json] = {name: entry for name, entry in value.items() if name not in blocks}
    parts = [_section(title, plain)]
    parts += [_block(name, kind, value[name]) for name, kind in blocks.items() if value.get(name)]
    return "\n\n".join(parts)


def _block(name: str, kind: str, text: Json) -> str:
    fence = "`" * 3
    while fence in str(text):
        fence += "`"
    return f"### {name.capitalize()}\n{fence}{kind}\n{text}\n{fence}"
