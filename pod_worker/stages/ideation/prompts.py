"""What ideation asks a model: messages, facts, and the schema of the answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from pod_worker.core.research.completion import ChatMessage, CompletionRequest
from pod_worker.core.research.ideation import IDEA_LIMIT_BYTES
from pod_worker.core.research.literature import Work
from pod_worker.core.run import Json
from pod_worker.stages.ideation.params import IdeationParams

PROPOSE, REFLECT = "ideation.propose", "ideation.reflect"
_ABSTRACT_LIMIT = 600  # characters of a published work
_TEXT: dict[str, Json] = {"type": "string"}
_TEXTS: dict[str, Json] = {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": 10}
IDEA_SCHEMA: dict[str, Json] = {
    "type": "object",
    "properties": {
        "Name": _TEXT,
        "Title": _TEXT,
        "Short Hypothesis": _TEXT,
        "Related Work": _TEXT,
        "Abstract": _TEXT,
        "Experiments": _TEXTS,
        "Risk Factors and Limitations": _TEXTS,
        "Task": _TEXT,
    },
    "required": [
        "Name", "Title", "Short Hypothesis", "Related Work", "Abstract", "Experiments",
        "Risk Factors and Limitations", "Task",
    ],
    "additionalProperties": False,
}  # fmt: skip
REPLY_SCHEMA: dict[str, Json] = {
    "type": "object",
    "properties": {"thought": _TEXT, "idea": IDEA_SCHEMA, "is_final": {"type": "boolean"}},
    "required": ["thought", "idea", "is_final"],
    "additionalProperties": False,
}
_SYSTEM = f"""You are a careful machine-learning researcher who plans small, decisive experiments.
An idea must be testable by a Python program that trains in minutes, and it must be able to fail.
Name the measurement that would refute it. Do not invent results, papers or citations: refer only to the published
works in the question, or say that none were found.

The fields of an idea:
- Name: a short identifier, lower case with underscores.
- Title: what the paper would be called.
- Short Hypothesis: the claim in one or two sentences.
- Related Work: how the idea differs from the published works in the question.
- Abstract: motivation, method and expected evidence, about 200 words.
- Experiments: concrete steps, each with its comparison and its metric.
- Risk Factors and Limitations: what could make the result wrong or uninteresting.
- Task: the name of the offered task that measures the idea, or an empty text when none fits.

The whole idea has at most {IDEA_LIMIT_BYTES} bytes."""


def propose_request(
    params: IdeationParams,
    *,
    number: int,
    prior: Sequence[str],
    tasks: Sequence[Mapping[str, Json]],
    works: Sequence[Work],
    stage: str,
    problem: str | None = None,
) -> CompletionRequest:
    """Asks for an idea that differs from the prior ones.

    `problem` says what was wrong with the answer before.
    """
    facts = _facts(params, prior, tasks, works) | {"round": 0, "previous": None, "problem": problem}
    parts = [
        *_shared_parts(facts),
        "Propose one new idea about this hypothesis. It must differ from every idea above in its question, not "
        "only in its words. Set is_final to false.",
    ]
    if problem:
        parts.append(f"Your last answer could not be used: {problem}. Propose another idea.")
    return _request(PROPOSE, parts, facts, stage, number, 0.9)


def reflect_request(
    params: IdeationParams,
    idea: Mapping[str, Json],
    *,
    number: int,
    round_number: int,
    prior: Sequence[str],
    tasks: Sequence[Mapping[str, Json]],
    works: Sequence[Work],
    stage: str,
) -> CompletionRequest:
    """Asks for criticism and a better version of the idea."""
    facts = _facts(params, prior, tasks, works) | {"round": round_number, "previous": dict(idea), "problem": None}
    shown = json.dumps(idea, ensure_ascii=False, indent=1)
    parts = [
        *_shared_parts(facts),
        f"The idea so far:\n{shown}",
        f"Round {round_number} of at most {params.reflections}. Criticise this idea in `thought`: is it new "
        "beside the published works, can a small program test it, would the result tell the two outcomes apart? "
        "Then give the better idea in full. Set is_final to true when nothing important is left to improve.",
    ]
    return _request(REFLECT, parts, facts, stage, number, 0.7)


def _request(
    operation: str, parts: Sequence[str], facts: dict[str, Json], stage: str, number: int, temperature: float
) -> CompletionRequest:
    return CompletionRequest(
        operation=operation,
        messages=(ChatMessage("system", _SYSTEM), ChatMessage("user", "\n\n".join(parts))),
        schema=REPLY_SCHEMA,
        facts=facts,
        temperature=temperature,
        stage=stage,
        sample=number,
    )


def _facts(
    params: IdeationParams,
    prior: Sequence[str],
    tasks: Sequence[Mapping[str, Json]],
    works: Sequence[Work],
) -> dict[str, Json]:
    return {
        "topic": {"title": params.title, "text": params.idea, "context": params.context},
        "prior": list(prior),
        "tasks": [dict(task) for task in tasks],
        "literature": [_work_facts(work) for work in works],
        "seed": params.seed,
    }


def _work_facts(work: Work) -> dict[str, Json]:
    return {
        "id": work.id,
        "title": work.title,
        "authors": list(work.authors[:5]),
        "year": work.year,
        "abstract": work.abstract[:_ABSTRACT_LIMIT],
    }


def _shared_parts(facts: Mapping[str, Json]) -> list[str]:
    topic = facts["topic"]
    parts = [f"Hypothesis: {topic['title']}\n\n{topic['text']}"]
    if topic["context"]:
        parts.append(f"Context:\n{topic['context']}")
    tasks = [f"- {each['name']}: {each['description']} Metric: {each['metric']}." for each in facts["tasks"]]
    parts.append("Tasks that can be measured:\n" + ("\n".join(tasks) or "none"))
    works = [_work_line(each) for each in facts["literature"]]
    parts.append("Published works that a search found:\n" + ("\n".join(works) or "none"))
    titles = [f"- {title}" for title in facts["prior"]]
    parts.append("Ideas that exist already:\n" + ("\n".join(titles) or "none"))
    return parts


def _work_line(work: Mapping[str, Json]) -> str:
    authors = ", ".join(work["authors"])
    return f"- {work['title']} ({authors}, {work['year'] or 'no year'}): {work['abstract'] or 'no abstract'}"
