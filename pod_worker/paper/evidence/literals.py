"""Finds literal numbers in a text that only the ledger of numbers may supply.

Harmless are references to parts of the paper, list counts, years of cited works, names with digits from the idea
or the references, labels of changes, and small constants in formulas. Any other number has no source.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pod_worker.core.research.idea import Idea
from pod_worker.core.research.literature import Work, family_name, normalized
from pod_worker.paper.evidence.results import RecordedResults

_NUMBER = re.compile(r"\d(?:[\d.,]*\d)?")
_TENS = (
    "eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty"
)
_WORDS = re.compile(
    rf"\b(?:{'|'.join(_TENS.split())}|sixty|seventy|eighty|ninety|hundreds?|thousands?|millions?|billions?)\b"
    r"|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|half|quarter|third)(?:[ -]+)"
    r"(?:and a half |of a )?(?:per ?cent|percentage|points?|times|fold|\\?%)",
    re.IGNORECASE,
)
_COMMANDS = re.compile(r"\\(?:cite[a-z]*|ref|eqref|result)\*?(?:\[[^\]]*\]){0,2}\{[^{}]*\}")
_PARTS = re.compile(
    r"\b(?:Sections?|Secs?\.|Figures?|Figs?\.|Tables?|Equations?|Eqs?\.|Stages?|Steps?|Appendix|Algorithms?)"
    r"(?:[~\s]|\\_|_)+\d{1,2}\b(?![.,]\d)(?:(?:\s*(?:,|and|to|--?|–)\s*)[1-9]\b(?!\s*(?:[.,]\d|\\?%|per)))*",
    re.IGNORECASE,
)
_LIST_COUNT = re.compile(r"(?m)(?:^\s*\d{1,2}[.)]\s)|\(\d\)")
_CONFIDENCE = re.compile(
    r"\b95\s*(?:\\,)?\s*\\?%[~\s-]*(?:two-sided\s+)?(?:confidence|CI\b|interval)", re.IGNORECASE
)
_TERMS = re.compile(r"\b(?:[LlFP][0-9]|[1-3]D|[Tt]op-[15]|R\^?2|k-1)\b(?![.\d])")
_FORMULA = re.compile(
    r"\$[^$]+\$|\\\(.+?\\\)|\\\[.+?\\\]"
    r"|\\begin\{(equation|align|gather|multline)\*?\}.+?\\end\{\1\*?\}",
    re.DOTALL,
)
_SMALL = re.compile(r"(?<![\d.,])[012](?!\d|[.,]\d|\s*\\?%)")
_SYMBOL = re.compile(r"[A-Za-z]")
_UNIT_COMMANDS = re.compile(r"\\(?:pm|mp|times|cdot|approx|sim|text\w*|mathrm|mathbf|ensuremath|left|right|,|;|!)")
_NAME = re.compile(r"[A-Za-z][A-Za-z]*[-_]?\d[\w-]*")
PHRASE_LIMIT = 80


@dataclass(frozen=True, slots=True)
class LiteralNumber:
    text: str
    context: str  # some words on both sides


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """What may contain digits without being a result."""

    names: frozenset[str] = frozenset()  # CIFAR-10, ResNet-18: from the idea, the task and the references
    phrases: tuple[str, ...] = ()  # labels of changes, such as "weight decay 0.01"
    constants: frozenset[str] = frozenset()  # numbers of the idea's own formulas, allowed inside formulas
    cited_years: frozenset[tuple[str, int]] = field(default_factory=frozenset)  # (family name, year)


def build_vocabulary(idea: Idea, results: RecordedResults, works: Iterable[Work]) -> Vocabulary:
    cited = tuple(works)
    idea_text = " ".join((idea.title, idea.short_hypothesis, idea.abstract, *idea.experiments, *idea.risks))
    sources = " ".join((idea_text, results.task, *(f"{work.title} {work.venue}" for work in cited)))
    # "macro f1" and "top-5 accuracy" are names, whatever joins their words.
    measures = {results.metric.name, results.metric.name.replace("_", " "), results.metric.name.replace("_", "-")}
    labels = {results.label_of(node) for node in results.nodes} | measures
    phrases = {label for label in labels if re.search(r"\d", label) and len(label) <= PHRASE_LIMIT}
    return Vocabulary(
        names=frozenset(_NAME.findall(sources)),
        phrases=tuple(sorted(phrases, key=len, reverse=True)),
        constants=frozenset(
            number for span in _FORMULA.finditer(idea_text) for number in _NUMBER.findall(span[0])
        ),
        cited_years=frozenset(
            (family_name(author), work.year) for work in cited if work.year for author in work.authors
        ),
    )


def find_literals(text: str, vocabulary: Vocabulary) -> tuple[LiteralNumber, ...]:
    """Numbers of a LaTeX text that have no source."""
    masked = _COMMANDS.sub(_blank, text)
    for phrase in vocabulary.phrases:
        masked = re.sub(_phrase(phrase), _blank, masked, flags=re.IGNORECASE)
    for name in sorted(vocabulary.names, key=len, reverse=True):
        masked = re.sub(rf"(?<![\w.]){_phrase(name)}(?![\w])", _blank, masked)
    masked = _FORMULA.sub(_formula_mask(vocabulary.constants), masked)
    for pattern in (_PARTS, _LIST_COUNT, _CONFIDENCE, _TERMS):
        masked = pattern.sub(_blank, masked)
    masked = _mask_years(masked, vocabulary.cited_years)
    found = [*_NUMBER.finditer(masked), *_WORDS.finditer(masked)]
    return tuple(
        LiteralNumber(match[0], _context(text, match)) for match in sorted(found, key=lambda each: each.start())
    )


def _blank(match: re.Match[str]) -> str:
    return " " * len(match[0])


def _phrase(text: str) -> str:
    """The phrase as a pattern; LaTeX may escape its special characters."""
    return r"\s+".join(
        "".join(
            rf"\\?{re.escape(character)}" if character in "_%&#$" else re.escape(character) for character in word
        )
        for word in text.split()
    )


def _formula_mask(constants: frozenset[str]) -> Callable[[re.Match[str]], str]:
    def mask(match: re.Match[str]) -> str:
        formula = match[0]
        if not _SYMBOL.search(_UNIT_COMMANDS.sub("", re.sub(r"\\(?:begin|end)\{[^}]*\}", "", formula))):
            return formula  # a bare number in dollars is no formula
        formula = _SMALL.sub(_blank, formula)
        return _NUMBER.sub(lambda number: _blank(number) if number[0] in constants else number[0], formula)

    return mask


def _mask_years(text: str, cited: frozenset[tuple[str, int]]) -> str:
    """Blank a year that follows an author of a work of that year."""

    def mask(match: re.Match[str]) -> str:
        before = set(normalized(text[max(0, match.start() - 60) : match.start()]).split())
        is_cited = any(year == int(match[0]) and name in before for name, year in cited)
        return _blank(match) if is_cited else match[0]

    return re.sub(r"(?<![\d.])(?:18|19|20)\d\d(?![\d]|[.,]\d)", mask, text)


def _context(text: str, match: re.Match[str]) -> str:
    return " ".join(text[max(0, match.start() - 40) : match.end() + 40].split())
