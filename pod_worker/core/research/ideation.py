"""The rules of hypotheses and ideation requests: limits, preconditions, states."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.research.idea import read_idea
from pod_worker.core.run import ACTIVE, Json, RunStatus

PIPELINE = "ideation"  # also its queue
EXPERIMENT_PIPELINE = "experiment"
REFLECTIONS_LIMIT = 10
GENERATIONS_LIMIT = 20
DEFAULT_REFLECTIONS = 3
DEFAULT_GENERATIONS = 5
# Ahead of experiments of the default priority, so that a hybrid worker claims ideation first.
REQUEST_PRIORITY = 1

AUTOMATIC = "ideation"  # who selected the idea of a hypothesis that no person chose

TITLE_LIMIT = 500  # characters
HYPOTHESIS_LIMIT = 20_000
CONTEXT_LIMIT = 100_000
# As JSON. All ideas of a request fit into one checkpoint and into one event.
IDEA_LIMIT_BYTES = 12_000


def topic_problems(title: Json, text: Json, context: Json = None) -> list[str]:
    """What prevents ideation about this hypothesis, each as a sentence with its limit."""
    return [
        *_text_problems("the title", title, TITLE_LIMIT, is_required=False),
        *_text_problems("the idea text", text, HYPOTHESIS_LIMIT, is_required=True),
        *_text_problems("the additional context", context, CONTEXT_LIMIT, is_required=False),
    ]


def _text_problems(what: str, value: Json, limit: int, *, is_required: bool) -> list[str]:
    if value is None and not is_required:
        return []
    if not isinstance(value, str):
        return [f"{what} is missing" if value is None else f"{what} is a {type(value).__name__}, not text"]
    if is_required and not value.strip():
        return [f"{what} is empty"]
    return [f"{what} has {len(value)} characters; at most {limit} are accepted"] if len(value) > limit else []


def size_problems(reflections: Json, generations: Json) -> list[str]:
    """What is wrong with the two numbers of a request."""
    found = (
        _number_problem("reflections", reflections, REFLECTIONS_LIMIT),
        _number_problem("maxNumGenerations", generations, GENERATIONS_LIMIT),
    )
    return [problem for problem in found if problem]


def _number_problem(name: str, value: Json, limit: int) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= limit:
        return None
    return f"{name} is {str(value)[:40]!r}; it must be a whole number from 1 to {limit}"


def idea_size(idea: Mapping[str, Json]) -> int:
    """Bytes of the idea as JSON."""
    return len(json.dumps(idea, ensure_ascii=False).encode("utf-8", "replace"))


def usable_ideas(values: Json) -> list[dict[str, Json]]:
    """The ideas among these values that can be used, in their order."""
    found: list[dict[str, Json]] = []
    for value in values if isinstance(values, list) else []:
        try:
            idea = read_idea(value).to_json()
        except RunError:
            continue
        if idea_size(idea) <= IDEA_LIMIT_BYTES:
            found.append(idea)
    return found[:GENERATIONS_LIMIT]


def request_status(status: RunStatus) -> str:
    """The state of a request whose run is in this state."""
    if status is RunStatus.QUEUED:
        return "QUEUED"
    if status in ACTIVE:
        return "RUNNING"
    return status.value if status in (RunStatus.FAILED, RunStatus.CANCELED) else "COMPLETED"


def refuse(problems: list[str], subject: str) -> None:
    """Raises RunError(INVALID_INPUT) that lists the problems, if there are any."""
    if problems:
        raise RunError(FailureCode.INVALID_INPUT, f"{subject}: {'; '.join(problems)}. Correct it and try again.")
