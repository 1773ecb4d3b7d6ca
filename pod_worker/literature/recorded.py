"""A search in recorded works: JSON files with lists of works, without a network.

The package ships a set about regularisation, small data and evaluation, so that demos and tests cite real
publications. Its abstracts are summaries in our own words.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.research.literature import Work, normalized, read_work

SHIPPED = Path(__file__).parent / "recorded_works"
_TITLE_WEIGHT = 3.0
_COMMON = frozenset(
    [
        "a",
        "an",
        "and",
        "are",
        "as",
        "at",
        "be",
        "by",
        "can",
        "do",
        "does",
        "for",
        "from",
        "how",
        "in",
        "is",
        "it",
        "its",
        "of",
        "on",
        "or",
        "that",
        "the",
        "to",
        "we",
        "when",
        "with",
    ]
)


class RecordedSearch:
    """A `core.research.literature.LiteratureSearch` over a folder of JSON files."""

    name = "recorded"

    def __init__(self, folder: Path = SHIPPED) -> None:
        """Raises RunError(INVALID_INPUT) for a folder that cannot be used."""
        self._works = _read_folder(folder)
        self._titles = [_words(work.title) for work in self._works]
        self._bodies = [_words(f"{work.title} {work.abstract}") for work in self._works]
        self._found_in = Counter(word for body in self._bodies for word in body)

    def search(self, query: str, limit: int) -> tuple[Work, ...]:
        wanted = _words(query)
        scores = [
            sum(self._weight(word, title, body) for word in wanted)
            for title, body in zip(self._titles, self._bodies, strict=True)
        ]
        ranked = sorted(range(len(scores)), key=lambda index: (-scores[index], self._works[index].id))
        return tuple(self._works[index] for index in ranked if scores[index] > 0)[: max(limit, 0)]

    def _weight(self, word: str, title: frozenset[str], body: frozenset[str]) -> float:
        if word not in body:
            return 0.0
        rarity = math.log(1 + len(self._works) / self._found_in[word])
        return rarity * (_TITLE_WEIGHT if word in title else 1.0)


class UnavailableSearch:
    """Finds nothing, where a run has no index of literature."""

    name = "unavailable"

    def search(self, query: str, limit: int) -> tuple[Work, ...]:
        del query, limit
        return ()


def _words(text: str) -> frozenset[str]:
    """The words that count, without a plural's ending."""
    return frozenset(
        word.removesuffix("s") if len(word) > 3 else word
        for word in normalized(text).split()
        if word not in _COMMON
    )


def _read_folder(folder: Path) -> tuple[Work, ...]:
    works: dict[str, Work] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(FailureCode.INVALID_INPUT, f"{path} cannot be read as JSON: {error}") from None
        for index, entry in enumerate(entries if isinstance(entries, list) else [entries]):
            work = read_work(entry)
            if work is None:
                raise RunError(
                    FailureCode.INVALID_INPUT, f"{path}: entry {index} is no work. Give it id, title and authors."
                )
            works[work.id] = work
    if not works:
        raise RunError(
            FailureCode.INVALID_INPUT, f"{folder} has no recorded works. Name a folder with *.json files."
        )
    return tuple(works.values())
