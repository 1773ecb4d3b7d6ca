"""Groups of fields that only a newer version overwrites, as one update.

Each document keeps, under `v`, the version that wrote each group. The update is an aggregation pipeline, so the
comparison and the write are one atomic step on the server, in any order of arrival. A group is written as a
whole; absent values are written as null. Names from the wire cannot fill a document: each parent in
`NAME_LIMITS` takes so many names, and further ones are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from pod_worker.core.run import Json
from pod_worker.store.mongo import Document
from pod_worker.store.views.changes import CamelCaseKeys

VERSIONS = "v"
NAME_LIMITS = {"metrics": 100, "stageTiming": 100}  # names in one document

Groups: TypeAlias = Mapping[str, tuple[str, Mapping[str, Json]]]  # group -> version, path -> value


class _Node:
    """Values to merge into one (sub)document under a condition each.

    It merges the documents below it too.
    """

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
        parent = path.removeprefix(f"{VERSIONS}.")
        if parent in NAME_LIMITS:  # no empty document under a name that has no room
            parts += [
                {"$cond": [_has_room(parent, word), {word: node.to_expression(prefix + word)}, {}]}
                for word, node in self.below.items()
            ]
        elif self.below:
            parts.append({word: node.to_expression(prefix + word) for word, node in self.below.items()})
        return {"$mergeObjects": parts}


def update_if_newer(groups: Groups, unless: Document | None = None) -> Document:
    """A pipeline stage that writes each group where its version is the newer one.

    Nothing is written where `unless` holds.
    """
    root = _Node()
    for group, (version, fields) in _within_limits(groups).items():
        segments = camel_case_path(group).split(".")
        mark = [VERSIONS, *segments]
        condition = is_newer(".".join(mark), version)
        if unless is not None:
            condition = {"$and": [condition, {"$not": [unless]}]}
        if segments[0] in NAME_LIMITS:
            condition = {"$and": [condition, _has_room(segments[0], segments[1])]}
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


def _within_limits(groups: Groups) -> Groups:
    """The groups without the names that one document cannot hold together."""
    if len(groups) <= min(NAME_LIMITS.values()):
        return groups
    surplus: set[tuple[str, str]] = set()
    for parent, limit in NAME_LIMITS.items():
        names = sorted({_name(group) for group in groups if _parent(group) == parent})
        surplus |= {(parent, name) for name in names[limit:]}
    return {
        group: value
        for group, value in groups.items()
        if _parent(group) not in NAME_LIMITS or (_parent(group), _name(group)) not in surplus
    }


def _parent(group: str) -> str:
    return camel_case_path(group).partition(".")[0]


def _name(group: str) -> str:
    return group.split(".", 2)[1]


def _has_room(parent: str, name: str) -> Document:
    """Whether the document has the name already, or may take another one."""
    is_known = {"$ne": [{"$type": f"${parent}.{name}"}, "missing"]}
    count = {"$size": {"$objectToArray": {"$ifNull": [f"${parent}", {}]}}}
    return {"$or": [is_known, {"$lt": [count, NAME_LIMITS[parent]]}]}


def is_newer(mark: str, version: str) -> Document:
    # Missing and null sort before every string.
    return {"$lt": [f"${mark}", version]}


_TRANSLATED: dict[str, str] = {}
_TRANSLATED_LIMIT = 10_000


def camel_case_path(path: str) -> str:
    """`current_stage.max_iterations` → `currentStage.maxIterations`.

    Quoted words stay as they are.
    """
    found = _TRANSLATED.get(path)
    if found is None:
        found = ".".join(_camel_case(word) for word in path.split("."))
        if len(_TRANSLATED) < _TRANSLATED_LIMIT:
            _TRANSLATED[path] = found
    return found


def _camel_case(word: str) -> str:
    if word.startswith("="):
        return word[1:]
    first, *rest = word.split("_")
    return first + "".join(part.capitalize() for part in rest)
