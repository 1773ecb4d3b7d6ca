"""A research idea: what ideation produces and an experiment run starts from.

Field names on the wire and in the database are those of AI-Scientist-v2 (`Title`, `Short Hypothesis` …).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.run import Json

TEXT_LIMIT = 20_000
LIST_LIMIT = 50
_TEXTS = {
    "name": "Name",
    "title": "Title",
    "short_hypothesis": "Short Hypothesis",
    "related_work": "Related Work",
    "abstract": "Abstract",
    "task": "Task",
}
_LISTS = {"experiments": "Experiments", "risks": "Risk Factors and Limitations"}
_OPTIONAL = {"name", "related_work", "task"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Idea:
    title: str
    short_hypothesis: str
    abstract: str
    experiments: tuple[str, ...]
    risks: tuple[str, ...]
    name: str = ""
    related_work: str = ""
    task: str = ""  # the name of the task that measures it; on the wire only when it is set

    def to_json(self) -> dict[str, Json]:
        texts: dict[str, Json] = {
            wire: value for name, wire in _TEXTS.items() if (value := getattr(self, name)) or name != "task"
        }
        return texts | {wire: list(getattr(self, name)) for name, wire in _LISTS.items()}


def read_idea(value: Json) -> Idea:
    """The idea in a JSON object.

    A list may also be one string, which AI-Scientist-v2 writes at times.
    Raises RunError(INVALID_INPUT) that lists every problem.
    """
    if not isinstance(value, dict):
        raise RunError(FailureCode.INVALID_INPUT, f"an idea is a JSON object, not {type(value).__name__}")
    problems: list[str] = []
    fields: dict[str, str] = {}
    for name, wire in _TEXTS.items():
        fields[name] = _text(value.get(wire), wire, name in _OPTIONAL, problems)
    lists = {name: _list(value.get(wire), wire, problems) for name, wire in _LISTS.items()}
    if problems:
        raise RunError(FailureCode.INVALID_INPUT, "the idea cannot be used: " + "; ".join(problems))
    return Idea(**fields, experiments=lists["experiments"], risks=lists["risks"])


def idea_problems(params: Mapping[str, Json]) -> Iterator[str]:
    """What is wrong with the parameter `idea`, where it is given."""
    if "idea" in params:
        try:
            read_idea(params["idea"])
        except RunError as error:
            yield error.message


def _text(value: Json, wire: str, is_optional: bool, problems: list[str]) -> str:
    if value is None and is_optional:
        return ""
    if not isinstance(value, str) or not (value.strip() or is_optional):
        problems.append(f"{wire!r} is missing" if value is None else f"{wire!r} must be a text that is not empty")
        return ""
    if len(value) > TEXT_LIMIT:
        problems.append(f"{wire!r} has {len(value)} characters; at most {TEXT_LIMIT} are accepted")
    return value.strip()


def _list(value: Json, wire: str, problems: list[str]) -> tuple[str, ...]:
    entries = [value] if isinstance(value, str) else value
    if not isinstance(entries, list) or not entries:
        problems.append(f"{wire!r} is missing" if value is None else f"{wire!r} must be a list of texts")
        return ()
    if len(entries) > LIST_LIMIT:
        problems.append(f"{wire!r} has {len(entries)} entries; at most {LIST_LIMIT} are accepted")
        return ()
    return tuple(_text(entry, f"{wire}[{position}]", False, problems) for position, entry in enumerate(entries))
