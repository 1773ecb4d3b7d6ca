"""References of a paper: keys, BibTeX entries, and the proof that they exist."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pod_worker.core.research.literature import Work, family_name, is_same_work, normalized
from pod_worker.paper.typesetting.latex_text import escape

_STOP_WORDS = frozenset(["a", "an", "and", "for", "in", "of", "on", "the", "to", "with"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Citation:
    key: str  # of \cite
    work: Work
    query: str  # that found it
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchAnswer:
    """What the literature search answered: the proof that a cited work exists."""

    query: str
    source: str  # name of the index
    works: tuple[Work, ...]


def citation_key(work: Work, taken: Iterable[str]) -> str:
    """`muller2019when`, with a letter behind it where that is taken."""
    author = family_name(work.authors[0]) or "anonymous"
    word = next((word for word in normalized(work.title).split() if word not in _STOP_WORDS), "work")
    stem = f"{author}{work.year or ''}{word}"
    known = set(taken)
    names = [stem, *(f"{stem}{letter}" for letter in "bcdefghijklmnopqrstuvwxyz")]
    return next(name for name in names if name not in known)


def unresolved(citations: Iterable[Citation], answers: Sequence[SearchAnswer]) -> tuple[str, ...]:
    """Keys of citations that no recorded answer confirms by id, title and authors."""
    known = [work for answer in answers for work in answer.works]
    return tuple(
        citation.key for citation in citations if not any(is_same_work(citation.work, work) for work in known)
    )


def cited_keys(latex: str) -> tuple[str, ...]:
    """Keys that the text cites, in order of their first use."""
    found = re.findall(r"\\cite[a-z]*\*?(?:\[[^\]]*\]){0,2}\{([^{}]*)\}", latex)
    return tuple(dict.fromkeys(key.strip() for group in found for key in group.split(",") if key.strip()))


def bibtex(citations: Iterable[Citation]) -> str:
    """The entries as BibTeX; field values cannot leave their braces."""
    return "\n".join(_entry(citation) for citation in citations)


def _entry(citation: Citation) -> str:
    work = citation.work
    fields = {
        "author": " and ".join(f"{{{_field(name)}}}" if "," in name else _field(name) for name in work.authors),
        "title": f"{{{_field(work.title)}}}",
        "howpublished": _field(work.venue),
        "year": str(work.year) if work.year else "",
        "url": _url(work.url),
    }
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
    return "\n".join([f"@misc{{{citation.key},", *lines, "}"]) + "\n"


def _field(text: str) -> str:
    return escape(" ".join(text.replace("{", "").replace("}", "").replace("\\", "").split()))


def _url(url: str) -> str:
    return url if re.fullmatch(r"https?://[A-Za-z0-9._~:/?=&+,;()-]+", url) else ""
