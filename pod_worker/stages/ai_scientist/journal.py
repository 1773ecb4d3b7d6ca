"""Files of the search of AI-Scientist-v2: journals, notes, token counts.

It writes them in place, so a file may be half written when it is read; the next look finds it whole.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from pod_worker.core.run import Json

JOURNAL_BYTES = 256 * 1024 * 1024
RUN_FOLDER = "logs/0-run"  # the launcher names it too
SUMMARIES = ("draft_summary.json", "baseline_summary.json", "research_summary.json", "ablation_summary.json")
_STAGE_FOLDER = re.compile(r"stage_([1-4])_.+?_(\d+)_.*")


@dataclass(frozen=True, slots=True)
class OriginalNode:
    id: str
    parent: str | None
    plan: str
    is_buggy: bool | None  # None: not judged
    is_good: bool
    exec_seconds: float | None
    metric: float | None  # mean over data sets and metrics, as the original compares nodes


@dataclass(frozen=True, slots=True)
class StageFolder:
    """One sub-stage of the search."""

    path: Path
    stage: int  # 1..4
    number: int  # of the sub-stage

    @property
    def wire_stage(self) -> str:
        return f"Stage_{self.stage}"

    def best_node(self) -> str | None:
        try:
            return (self.path / "best_node_id.txt").read_text().strip() or None
        except (OSError, ValueError):
            return None

    def best_metric(self) -> str | None:
        notes = read_json(self.path / "notes" / "stage_progress.json")
        found = notes.get("best_metric") if isinstance(notes, dict) else None
        return str(found)[:500] if found and found != "None" else None


def stage_folders(experiment: Path) -> list[StageFolder]:
    """In the order in which they were begun."""
    folder = experiment / RUN_FOLDER
    found = [
        StageFolder(path, int(match[1]), int(match[2]))
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (match := _STAGE_FOLDER.fullmatch(path.name)) and path.is_dir()
    ]
    return sorted(found, key=lambda each: (each.stage, each.number))


def recorded_nodes(experiment: Path) -> dict[str, OriginalNode]:
    """All nodes by id: the best one of a sub-stage begins the next one's journal."""
    journals = (read_nodes(folder.path / "journal.json") or [] for folder in stage_folders(experiment))
    return {node.id: node for nodes in journals for node in nodes}


def is_search_finished(experiment: Path) -> bool:
    """Whether all files are there that the paper is written from.

    The summaries are written one by one.
    """
    return all(read_json(experiment / RUN_FOLDER / name) is not None for name in SUMMARIES)


def read_nodes(path: Path) -> list[OriginalNode] | None:
    """The nodes of a journal; None when it cannot be read now."""
    journal = read_json(path)
    if not isinstance(journal, dict):
        return None
    parents = journal.get("node2parent")
    return list(_nodes(journal.get("nodes"), parents if isinstance(parents, dict) else {}))


def read_json(path: Path) -> Json:
    """The content of a file; None when it is absent, too large or half written."""
    try:
        if path.is_symlink() or path.stat().st_size > JOURNAL_BYTES:
            return None
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def _nodes(nodes: Json, parents: Mapping[str, Json]) -> Iterator[OriginalNode]:
    for node in nodes if isinstance(nodes, list) else ():
        if not (isinstance(node, dict) and isinstance(node.get("id"), str)):
            continue
        is_buggy = node.get("is_buggy")
        parent = parents.get(node["id"])
        yield OriginalNode(
            id=node["id"],
            parent=parent if isinstance(parent, str) else None,
            plan=str(node.get("plan") or ""),
            is_buggy=is_buggy if isinstance(is_buggy, bool) else None,
            is_good=is_buggy is False and node.get("is_buggy_plots") is False,
            exec_seconds=_number(node.get("exec_time")),
            metric=mean_metric(node.get("metric")),
        )


def mean_metric(metric: Json) -> float | None:
    """One number for a metric of the original, which has three forms."""
    value = metric.get("value") if isinstance(metric, dict) else metric
    if not isinstance(value, dict):
        return _number(value)
    entries = value.get("metric_names")
    values: Sequence[Any] = list(value.values())
    if isinstance(entries, list):
        values = [
            point.get("final_value")
            for entry in entries
            if isinstance(entry, dict)
            for point in entry.get("data") or ()
            if isinstance(point, dict)
        ]
    numbers = [number for each in values if (number := _number(each)) is not None]
    return fmean(numbers) if numbers else None


def _number(value: Json) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None


@dataclass(frozen=True, slots=True)
class TokenCount:
    """Of one model, as the original counts. It does not count the calls of the search."""

    model: str
    prompt: int
    completion: int
    cached: int
    usd: float


def read_tokens(experiment: Path) -> list[TokenCount]:
    found = read_json(experiment / "token_tracker.json")
    counts: list[TokenCount] = []
    for model, entry in found.items() if isinstance(found, dict) else ():
        tokens = entry.get("tokens") if isinstance(entry, dict) else None
        if isinstance(tokens, dict):
            prompt, completion, cached = (
                int(_number(tokens.get(name)) or 0) for name in ("prompt", "completion", "cached")
            )
            counts.append(
                TokenCount(str(model), prompt, completion, cached, _number(entry.get("cost (USD)")) or 0.0)
            )
    return counts
