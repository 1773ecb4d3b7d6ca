"""Whether an idea repeats an earlier one by its title or its short hypothesis."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher

from pod_worker.core.research.idea import Idea
from pod_worker.core.research.literature import normalized

TITLE_SIMILARITY = 0.85
HYPOTHESIS_SIMILARITY = 0.85


def repeated_title(idea: Idea, earlier: Sequence[Idea], titles: Iterable[str]) -> str | None:
    """The title of the idea that this one repeats, or None.

    `titles` are ideas of which only the title is known. Case, accents, punctuation and the order of words do not
    count.
    """
    for other in earlier:
        if is_similar(idea.title, other.title, TITLE_SIMILARITY):
            return other.title
        if is_similar(idea.short_hypothesis, other.short_hypothesis, HYPOTHESIS_SIMILARITY):
            return other.title
    return next((title for title in titles if is_similar(idea.title, title, TITLE_SIMILARITY)), None)


def is_similar(left: str, right: str, threshold: float) -> bool:
    one, other = _sorted_words(left), _sorted_words(right)
    if not one or not other:  # no Latin letters: only equal texts count
        return left.strip() == right.strip()
    return SequenceMatcher(None, one, other, autojunk=False).ratio() >= threshold


def _sorted_words(text: str) -> list[str]:
    return sorted(normalized(text).split())
