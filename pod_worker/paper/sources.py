"""What a paper is made from apart from its text, and what is wrong with a text."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from pod_worker.core.research.idea import Idea
from pod_worker.paper.citations import ReferenceList
from pod_worker.paper.evidence.literals import build_vocabulary, find_literals
from pod_worker.paper.evidence.numbers import build_numbers, by_key
from pod_worker.paper.evidence.results import RecordedResults
from pod_worker.paper.typesetting.bibliography import cited_keys
from pod_worker.paper.typesetting.document import (
    DEFAULT_PAGE_LIMIT,
    DocumentParts,
    Draft,
    unknown_references,
    unknown_results,
)
from pod_worker.paper.typesetting.figures import OWN, PaperFigure
from pod_worker.paper.typesetting.latex_text import sanitize
from pod_worker.paper.typesetting.tables import build_tables


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperSources:
    """Everything that a paper is made from, apart from its text."""

    idea: Idea
    results: RecordedResults
    figures: tuple[PaperFigure, ...]
    references: ReferenceList = field(default_factory=ReferenceList)
    page_limit: int = DEFAULT_PAGE_LIMIT
    notices: tuple[str, ...] = ()


def document_parts(sources: PaperSources, draft: Draft, is_plain: bool = False) -> DocumentParts:
    numbers = build_numbers(sources.results)
    return DocumentParts(
        run_id=sources.results.run_id,
        draft=draft,
        numbers=numbers,
        figures=sources.figures,
        tables=build_tables(sources.results, by_key(numbers)),
        citations=sources.references.citations,
        notices=notices(sources),
        is_plain=is_plain,
    )


def notices(sources: PaperSources) -> tuple[str, ...]:
    """Sentences for the foot of the first page."""
    results = sources.results
    found = ["Written automatically by pod_worker. Every number comes from the ledger of recorded results."]
    if results.is_scripted:
        found.append("A scripted model wrote the programs of the experiments.")
    if any(node.is_self_reported for node in results.usable):
        found.append("Results marked with * are self-reported: the task has no evaluator.")
    return (*found, *sources.references.notes[:1], *sources.notices)


def draft_problems(draft: Draft, sources: PaperSources) -> tuple[str, ...]:
    """What a writer must correct, in words for the writer."""
    parts = document_parts(sources, draft)
    found = [*number_problems(draft, parts, sources), *citation_problems(parts), *reference_problems(parts)]
    found += [problem for text in draft.texts for problem in sanitize(text).problems]
    if not (draft.title and draft.abstract and draft.sections and all(each.body for each in draft.sections)):
        found.append("title, abstract and every section must have a text")
    return tuple(dict.fromkeys(found))


def number_problems(draft: Draft, parts: DocumentParts, sources: PaperSources) -> tuple[str, ...]:
    """Numbers of the text without a source, and keys that are not in the ledger."""
    vocabulary = build_vocabulary(sources.idea, sources.results, [each.work for each in parts.citations])
    captions = [figure.caption for figure in parts.referenced_figures if figure.source != OWN]
    found: list[str] = []
    for text in (*draft.texts, *captions):
        for literal in find_literals(text, vocabulary):
            found.append(f"the number {literal.text!r} is not from the ledger: …{literal.context}…")
        for key in unknown_results(text, by_key(parts.numbers)):
            found.append(rf"\result{{{key}}} is no key of the ledger")
    return tuple(dict.fromkeys(found))


def citation_problems(parts: DocumentParts) -> tuple[str, ...]:
    known = {citation.key for citation in parts.citations}
    cited = cited_keys("\n".join(parts.draft.texts))
    return tuple(rf"\cite{{{key}}} is no given reference" for key in cited if key not in known)


def reference_problems(parts: DocumentParts) -> tuple[str, ...]:
    """References to figures, tables and equations that do not exist."""
    text = "\n".join(parts.draft.texts)
    known = [f"fig:{figure.label}" for figure in parts.figures] + [f"tab:{table.label}" for table in parts.tables]
    known += _EQUATION_LABEL.findall(text)
    found = [rf"\ref{{{label}}} does not exist" for label in unknown_references(text, known)]
    if parts.figures and not parts.referenced_figures:
        found.append("the text refers to no figure")
    return tuple(found)


_EQUATION_LABEL = re.compile(r"\\label\{(eq:[^{}]*)\}")
