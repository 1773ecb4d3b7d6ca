"""Requests to a model about a paper: facts as data, and the same as text."""

from __future__ import annotations

import json

from pod_worker.core.failure import truncate
from pod_worker.core.research.completion import ChatMessage, CompletionRequest, Image
from pod_worker.core.run import Json

FACTS_LIMIT = 120_000  # characters of one request
STRING: dict[str, Json] = {"type": "string"}


def build_request(
    operation: str,
    instructions: str,
    facts: dict[str, Json],
    schema: dict[str, Json],
    *,
    stage: str,
    temperature: float = 0.7,
    sample: int = 0,
    images: tuple[Image, ...] = (),
) -> CompletionRequest:
    parts = [f"## {name}\n{_shown(value)}" for name, value in facts.items() if value not in ("", [], {}, None)]
    text = truncate("\n\n".join(parts), FACTS_LIMIT)
    return CompletionRequest(
        operation=operation,
        messages=(ChatMessage("system", instructions), ChatMessage("user", text, images)),
        schema=schema,
        facts=facts,
        temperature=temperature,
        stage=stage,
        sample=sample,
    )


def closed_object(properties: dict[str, Json], optional: tuple[str, ...] = ()) -> dict[str, Json]:
    """JSON Schema of an object with these properties and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def array_of(items: dict[str, Json], most: int) -> dict[str, Json]:
    return {"type": "array", "items": items, "maxItems": most}


def as_text(value: Json, limit: int) -> str:
    """A text of an answer, cut; empty for anything else."""
    return value.strip()[:limit] if isinstance(value, str) else ""


def as_objects(value: Json, limit: int) -> list[dict[str, Json]]:
    """At most `limit` objects of a list of an answer; empty for anything else."""
    return [each for each in value if isinstance(each, dict)][:limit] if isinstance(value, list) else []


def _shown(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1)
