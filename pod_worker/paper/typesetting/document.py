"""The LaTeX document of a paper, built from a draft and recorded parts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pod_worker.paper.evidence.numbers import RecordedNumber, by_key
from pod_worker.paper.typesetting.bibliography import Citation, cited_keys
from pod_worker.paper.typesetting.figures import OWN, PaperFigure
from pod_worker.paper.typesetting.latex_text import escape, sanitize
from pod_worker.paper.typesetting.tables import PaperTable

TEMPLATE = Path(__file__).with_name("template.tex")
DEFAULT_PAGE_LIMIT = 4
_RESULT = re.compile(r"\\result\{([^{}]*)\}")
_REFERENCE = re.compile(r"\\(?:eq)?ref\{([^{}]*)\}")
_BIBLIOGRAPHY = r"{\small\bibliographystyle{plainnat}\bibliography{references}}"
UNKNOWN = r"\textbf{??}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftSection:
    heading: str
    body: str  # LaTeX of the writer, not yet sanitized


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What a writer returned: text in which numbers are keys of the ledger."""

    title: str
    abstract: str
    sections: tuple[DraftSection, ...]
    model: str = ""
    is_scripted: bool = False
    problems: tuple[str, ...] = ()  # of the last version, which no rewriting removed

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.title, self.abstract, *(text for each in self.sections for text in (each.heading, each.body)))


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentParts:
    run_id: str
    draft: Draft
    numbers: tuple[RecordedNumber, ...]
    figures: tuple[PaperFigure, ...]
    tables: tuple[PaperTable, ...]
    citations: tuple[Citation, ...]
    notices: tuple[str, ...] = ()  # plain sentences for the foot of page one
    is_plain: bool = False  # leave the writer's own LaTeX out, because it does not compile

    @property
    def referenced_figures(self) -> tuple[PaperFigure, ...]:
        wanted = {label for text in self.draft.texts for label in _REFERENCE.findall(text)}
        return tuple(figure for figure in self.figures if f"fig:{figure.label}" in wanted)


def render(parts: DocumentParts) -> str:
    """The document; the same parts give the same text."""
    numbers = by_key(parts.numbers)
    draft = parts.draft
    values = {
        "PLAIN_TITLE": re.sub(r"[^A-Za-z0-9 ,.:;()-]", "", draft.title),
        "TITLE": _inline(draft.title, numbers),
        "RUN": escape(parts.run_id),
        "WARNING": _warning(draft),
        "NOTICE": escape(" ".join(parts.notices)),
        "ABSTRACT": _text(draft.abstract, numbers, parts.is_plain),
        "BODY": _body(parts, numbers),
        "REFERENCES": _BIBLIOGRAPHY if used_citations(parts) else "",
    }
    template = TEMPLATE.read_text(encoding="utf-8")
    return re.sub(r"@@([A-Z_]+)@@", lambda match: values[match[1]], template)


def used_citations(parts: DocumentParts) -> tuple[Citation, ...]:
    """The references that the text cites."""
    keys = {key for text in parts.draft.texts for key in cited_keys(text)}
    return tuple(citation for citation in parts.citations if citation.key in keys)


def plain_text(text: str, numbers: Mapping[str, RecordedNumber]) -> str:
    """The words of a draft's text with its numbers, for a page that is no LaTeX."""
    shown = _RESULT.sub(lambda match: numbers[match[1]].text if match[1] in numbers else "??", text)
    shown = re.sub(r"\\cite[a-z]*\*?(?:\[[^\]]*\]){0,2}\{([^{}]*)\}", r"[\1]", shown)
    return " ".join(
        re.sub(r"\\([%&#_$])", r"\1", re.sub(r"\\[A-Za-z]+\*?|[{}]", " ", shown)).replace("~", " ").split()
    )


def unknown_results(text: str, numbers: Mapping[str, RecordedNumber]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(key for key in _RESULT.findall(text) if key not in numbers))


def unknown_references(text: str, known: Iterable[str]) -> tuple[str, ...]:
    labels = set(known)
    return tuple(dict.fromkeys(label for label in _REFERENCE.findall(text) if label not in labels))


def _warning(draft: Draft) -> str:
    if not draft.is_scripted:
        return ""
    return (
        r"\\[4pt]\fbox{\parbox{0.86\textwidth}{\centering\footnotesize The \textbf{scripted model} of pod\_worker "
        r"wrote this text. It is not a language model, and no person wrote it. The experiments were executed.}}"
    )


def _body(parts: DocumentParts, numbers: Mapping[str, RecordedNumber]) -> str:
    """Sections, each followed by the floats that it refers to first."""
    floats = {f"fig:{figure.label}": _figure(figure, numbers) for figure in parts.referenced_figures}
    floats |= {f"tab:{table.label}": table.latex for table in parts.tables}
    lines: list[str] = []
    for section in parts.draft.sections:
        wanted = [label for label in dict.fromkeys(_REFERENCE.findall(section.body)) if label in floats]
        lines += [floats.pop(label) for label in wanted]
        lines += [
            rf"\section{{{_inline(section.heading, numbers)}}}",
            _text(section.body, numbers, parts.is_plain),
        ]
    return "\n".join([*lines, *floats.values()])


def _figure(figure: PaperFigure, numbers: Mapping[str, RecordedNumber]) -> str:
    caption = escape(figure.caption) if figure.source == OWN else _inline(figure.caption, numbers)
    return "\n".join(
        [
            r"\begin{figure}[t]\centering",
            rf"\includegraphics[width=\columnwidth]{{figures/{figure.image}}}",
            rf"\caption{{{caption}}}\label{{fig:{figure.label}}}",
            r"\end{figure}",
        ]
    )


def _text(text: str, numbers: Mapping[str, RecordedNumber], is_plain: bool) -> str:
    latex = _plain(text) if is_plain else sanitize(text).latex
    return _RESULT.sub(lambda match: numbers[match[1]].latex if match[1] in numbers else UNKNOWN, latex)


def _inline(text: str, numbers: Mapping[str, RecordedNumber]) -> str:
    """A title, a heading or a caption: one line."""
    return _text(" ".join(text.split()), numbers, is_plain=False)


_KEPT = re.compile(r"\\(?:cite[pt]?|ref|result)\{[A-Za-z0-9._:,\s-]*\}")


def _plain(text: str) -> str:
    """The words of a text with its numbers, citations and references only."""
    kept = _KEPT.findall(text)
    words = [re.sub(r"\\[A-Za-z]+\*?|[{}$\\]", " ", part) for part in _KEPT.split(text)]
    pieces = [escape(words[0])]
    for command, following in zip(kept, words[1:], strict=True):
        pieces += [command, escape(following)]
    return "".join(pieces)
