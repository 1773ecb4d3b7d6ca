"""The scripted model writes a paper that passes the checks, and a negative result for a negative search."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pod_worker.core.research.idea import Idea
from pod_worker.core.research.measure import Metric
from pod_worker.literature.recorded import RecordedSearch
from pod_worker.llm.scripted import paper as scripted_paper
from pod_worker.llm.scripted.client import ScriptedClient
from pod_worker.paper.checks import check_paper
from pod_worker.paper.citations import ReferenceList, collect_references
from pod_worker.paper.evidence.results import RecordedResults
from pod_worker.paper.prompts import build_request
from pod_worker.paper.sources import PaperSources, draft_problems
from pod_worker.paper.typesetting.document import Draft, DraftSection
from pod_worker.paper.typesetting.latex import LatexTools
from pod_worker.paper.writing import WRITE_SCHEMA, write_paper, writing_facts
from tests.paper.conftest import NoStop, PlainRunner, make_node

STOP = NoStop()


def write(sources: PaperSources) -> Draft:
    request = build_request("paper.write", "", writing_facts(sources), WRITE_SCHEMA, stage="paper")
    value = ScriptedClient().complete(request).value
    sections = tuple(DraftSection(heading=each["heading"], body=each["body"]) for each in value["sections"])
    return Draft(title=value["title"], abstract=value["abstract"], sections=sections, is_scripted=True)


def test_the_scripted_paper_holds_every_check(
    sources: PaperSources, drawn: Path, latex_tools: LatexTools, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(drawn, tmp_path / "paper"))
    references = collect_references(sources.idea, ScriptedClient(), RecordedSearch(), STOP)
    assert len(references.citations) >= 4
    given = replace(sources, references=references)
    paper = write_paper(given, folder, latex_tools, ScriptedClient(), PlainRunner(), STOP)
    checked = check_paper(
        given.idea, given.results, folder, latex_tools, PlainRunner(), STOP, 4, search=RecordedSearch()
    )
    assert [(each.name, each.findings) for each in checked.checks if not each.holds] == []
    assert paper.draft.is_scripted
    assert "scripted model" in checked.text
    assert len(checked.parts.referenced_figures) == len(given.figures)


def test_related_work_is_prose() -> None:
    works = [
        {"key": "a1", "authors": ["A", "B"], "title": "T", "abstract": "Relates losses and shows when one helps."},
        {"key": "b2", "authors": ["C"], "title": "T", "abstract": "Trains a small network. More text."},
        {"key": "c3", "authors": ["D"], "title": "T", "abstract": "This paper is about 5 things."},
        {"key": "d4", "authors": ["E"], "title": "T", "abstract": ""},
    ]
    assert scripted_paper._related_work(works) == (
        r"\citet{a1} relate losses and show when one helps. \citet{b2} trains a small network. "
        r"The search also found \citet{c3} and \citet{d4}."
    )
    assert scripted_paper._related_work(works[2:3]) == r"The search found \citet{c3}."


def test_no_sentence_of_the_abstract_is_in_the_introduction(sources: PaperSources) -> None:
    draft = write(sources)
    introduction = next(each.body for each in draft.sections if each.heading == "Introduction")
    sentences = [each for each in re.split(r"(?<=[.])\s+", draft.abstract) if len(each) > 30]
    assert sentences
    assert not [each for each in sentences if each in introduction]


NASTY = Idea(
    title="Does 10% noise & $x_1$ in CIFAR-10 matter by 5 points?",
    short_hypothesis=r"Accuracy rises by 5\% with \input{x}. It is twofold. Smoothing helps.",
    abstract="We gain ninety percent. A 3x speed-up of #2 {braces} is half. Plain sentence about ResNet-18 here.",
    experiments=("Train for 10 epochs.", "Compare a_b with c^d."),
    risks=("It may fail in 50 % of runs.", "Noise could hide it."),
)
LOWER = Metric("log_loss", "lower", "nats")


@pytest.mark.parametrize("has_references", [False, True])
@pytest.mark.parametrize("case", ["full", "baseline only", "no ablation", "labels", "one seed", "lower", "empty"])
def test_every_search_gives_a_text_without_problems(
    sources: PaperSources, case: str, has_references: bool
) -> None:
    results = sources.results
    nodes = results.nodes
    cases = {
        "full": results,
        "baseline only": replace(results, nodes=nodes[:1]),
        "no ablation": replace(results, nodes=nodes[:4]),
        "labels": replace(results, nodes=(
            nodes[0], make_node("x", "Stage_2", "accuracy 0.99 wins", 0.95, is_best=True),
            make_node("y", "Stage_3", "lr 1e-3 & 5 % drop_out", 0.97, is_best=True),
            make_node("z", "Stage_4", "w" * 300, 0.9))),
        "one seed": replace(results, nodes=tuple(replace(n, scores=n.scores[:1], seeds=n.seeds[:1]) for n in nodes)),
        "lower": replace(results, metric=LOWER),
        "empty": replace(results, nodes=(), baseline_id=None, task_facts=()),
    }  # fmt: skip
    figures = sources.figures if case in ("full", "labels", "one seed", "lower") else ()
    for idea in (sources.idea, NASTY):
        given = replace(
            sources,
            idea=idea,
            results=cases[case],
            figures=figures,
            references=sources.references if has_references else ReferenceList(),
        )
        draft = write(given)
        assert draft_problems(draft, given) == (), draft


def test_a_search_without_a_gain_is_reported_as_negative(sources: PaperSources) -> None:
    results: RecordedResults = replace(sources.results, noise_band=0.5)
    text = " ".join(write(replace(sources, results=results)).texts)
    assert "negative result" in text
    assert "is beyond the noise" not in text
    assert "is beyond the noise" in " ".join(write(sources).texts)
