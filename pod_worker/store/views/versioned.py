"""Groups of fields that only a newer version overwrites, as one update of one document.

Each document keeps, under `v`, the version that wrote each group. The update is an aggregation pipeline, so the
comparison and the write are one atomic step on the server, whatever the order of arrival. A group is written as
a whole; absent values are written as null.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from pod_worker.core.run import Json
from pod_worker.store.mongo import Document
from pod_worker.store.views.changes import CamelCaseKeys

VERSIONS = "v"

Groups: TypeAlias = Mapping[str, tuple[str, Mapping[str, Json]]]  # group -> version, path -> value


class _Node:
    """What is merged into one (sub)document: leaves that depend on a condition, and documents below it."""

    __slots__ = ("below", "leaves")

    def __init__(self) -> None:
        self.leaves: list[tuple[Document, Document]] = []
        self.below: dict[str, _Node] = {}

    def child(self, path: list[str]) -> _Node:
        node = self
        for word in path:
            node = node.below.setdefault(word, _Node())
        return node

    def to_expression(self, path: str) -> Document:
        parts: list[Json] = [f"${path}" if path else "$$ROOT"]
        parts += [{"$cond": [condition, {"$literal": leaves}, {}]} for condition, leaves in self.leaves]
        prefix = f"{path}." if path else ""
        if self.below:
            parts.append({word: node.to_expression(prefix + word) for word, node in self.below.items()})
        return {"$mergeObjects": parts}


def update_if_newer(groups: Groups, unless: Document | None = None) -> Document:
    """A pipeline stage that writes each group where its version is the newer one (and not `unless`)."""
    root = _Node()
    for group, (version, fields) in groups.items():
        mark = [VERSIONS, *camel_case_path(group).split(".")]
        condition = is_newer(".".join(mark), version)
        if unless is not None:
            condition = {"$and": [condition, {"$not": [unless]}]}
        leaves: dict[str, Document] = {}
        for path, value in fields.items():
            parent, _, leaf = camel_case_path(path).rpartition(".")
            if isinstance(value, CamelCaseKeys):
                value = {camel_case_path(key): inner for key, inner in value.items()}
            leaves.setdefault(parent, {})[leaf] = value
        for parent, values in leaves.items():
            root.child(parent.split(".") if parent else []).leaves.append((condition, values))
        root.child(mark[:-1]).leaves.append((condition, {mark[-1]: version}))
    return {"$replaceWith": root.to_expression("")}


def is_newer(mark: str, version: str) -> Document:
    # Missing and null sort before every string.
    return {"$lt": [f"${mark}", version]}


_SPELLED: dict[str, str] = {}
_SPELLED_LIMIT = 10_000


def camel_case_path(path: str) -> str:
    """`current_stage.max_iterations` -> `currentStage.maxIterations`; quoted words stay as they are."""
    found = _SPELLED.get(path)
    if found is None:
        found = ".".join(_spelled_word(word) for word in path.split("."))
        if len(_SPELLED) < _SPELLED_LIMIT:
            _SPELLED[path] = found
    return found


def _spelled_word(word: str) -> str:
    if word.startswith("="):
        return word[1:]
    first, *rest = word.split("_")
    return first + "".join(part.capitalize() for part in rest)
