"""JSON Schemas in the form that servers which enforce them accept.

The answer is checked against the full schema afterwards, so leaving keywords out here loses nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pod_worker.core.run import Json

# Keywords that Anthropic's structured outputs reject.
_LEFT_OUT = frozenset(
    {
        "minLength", "maxLength", "pattern", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
        "multipleOf", "minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties",
        "patternProperties", "default", "examples", "title", "$schema",
    }
)  # fmt: skip
_PROPERTY_MAPS = frozenset({"properties", "$defs", "definitions"})


def is_open(schema: Json) -> bool:
    """Whether some object may have any properties.

    A server that closes objects would answer `{}`.
    """
    return any(
        not node.get("properties") or node.get("additionalProperties") not in (None, False)
        for node in _objects(schema)
    )


def is_strict(schema: Mapping[str, Json]) -> bool:
    """Whether OpenAI's strict mode takes the schema.

    Every object must be closed and require all of its properties.
    """
    return all(
        node.get("additionalProperties") is False
        and set(node.get("required") or ()) == set(node.get("properties") or {})
        for node in _objects(schema)
    )


def closed_schema(schema: Json) -> Json:
    """A copy with closed objects, without keywords that servers reject."""
    if isinstance(schema, list):
        return [closed_schema(each) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    copy: dict[str, Json] = {}
    for name, value in schema.items():
        if name in _PROPERTY_MAPS and isinstance(value, Mapping):
            copy[name] = {key: closed_schema(each) for key, each in value.items()}
        elif name not in _LEFT_OUT:
            copy[name] = value if name in ("enum", "const", "required") else closed_schema(value)
    if copy.get("type") == "object" or "properties" in copy:
        copy["additionalProperties"] = False
    return copy


def _objects(schema: Json) -> list[Mapping[str, Any]]:
    """Every schema of an object inside a schema."""
    if isinstance(schema, list):
        return [found for each in schema for found in _objects(each)]
    if not isinstance(schema, Mapping):
        return []
    inner = [found for value in schema.values() for found in _objects(value)]
    return [schema, *inner] if schema.get("type") == "object" else inner
