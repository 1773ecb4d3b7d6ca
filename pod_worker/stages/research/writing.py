"""The stages after the search: plots, paper and validation.

Each can be repeated alone. They execute no experiment: they read the journal. Their files are in `research/paper`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pod_worker.core.payload import PaperGenerated, PaperStarted, ValidationCompleted, ValidationStarted
from pod_worker.core.run import Json
from pod_worker.core.stage import ArtifactKind, Context
from pod_worker.paper.checks import CheckedPaper, check_paper
from pod_worker.paper.citations import collect_references
from pod_worker.paper.evidence.results import RecordedResults, read_json
from pod_worker.paper.plots import make_figures
from pod_worker.paper.review import collect_reviews
from pod_worker.paper.sources import PaperSources
from pod_worker.paper.typesetting.figures import FigureSet
from pod_worker.paper.verdict import PASS_OVERALL, ReviewVerdict, decide
from pod_worker.paper.writing import write_paper, writing_facts
from pod_worker.stages.literature_index import open_literature
from pod_worker.stages.research.record import FOLDER_MODE
from pod_worker.stages.research.recorded import recorded_results
from pod_worker.stages.research.run_report import write_report
from pod_worker.stages.research.search_session import SearchSession

FOLDER = "paper"
RUBRIC = "conference-1"


def run_plots(context: Context, session: SearchSession) -> dict[str, Json]:
    folder = _folder(session)
    results = recorded_results(session, context.run.id)
    found = make_figures(results, folder, session.client, session.runner, context.stop)
    for figure in found.figures:
        context.artifacts.publish(
            folder / "figures" / figure.preview, ArtifactKind.FIGURE, f"figures/{figure.preview}"
        )
    if found.note:
        context.log(f"figures of a model's code: {found.note}", "warning")
    session.save(context)
    return {"figures": [figure.label for figure in found.figures], "note": found.note, **session.state()}


def run_paper(context: Context, session: SearchSession) -> dict[str, Json]:
    context.emit(PaperStarted())
    folder = _folder(session)
    search = open_literature(context, session.params.literature, session.params.model)
    sources = PaperSources(
        idea=session.idea,
        results=recorded_results(session, context.run.id),
        figures=read_json(folder / "figures.json", FigureSet).figures,
        references=collect_references(session.idea, session.client, search, context.stop),
        page_limit=session.params.page_limit,
        notices=reach_notice(session.params.hosts),
    )
    paper = write_paper(sources, folder, session.tools, session.client, session.runner, context.stop)
    published = context.artifacts.publish(folder / "paper.pdf", ArtifactKind.PAPER, "paper/paper.pdf")
    for name in ("paper.tex", "numbers.json", "references.json"):
        context.artifacts.publish(folder / name, ArtifactKind.DATA, f"paper/{name}")
    words = sum(len(text.split()) for text in paper.draft.texts)
    context.emit(PaperGenerated(artifact_key=published.key, word_count=words))
    session.save(context)
    return {"key": published.key, "pages": paper.pages, "words": words, **session.state()}


def run_validation(context: Context, session: SearchSession) -> dict[str, Json]:
    folder = _folder(session)
    results = recorded_results(session, context.run.id)
    checked = _check(context, session, folder, results)
    context.emit(ValidationStarted(model=session.model, rubric_version=RUBRIC))
    verdict = _review(context, session, folder, results, checked)
    context.emit(
        ValidationCompleted(verdict=verdict.verdict, scores=dict(verdict.scores), notes=verdict.reason[:2_000])
    )
    report = write_report(context, session, folder, results, checked, verdict)
    context.artifacts.publish(report, ArtifactKind.REPORT, "report.html")
    session.save(context)
    return {
        "verdict": verdict.verdict,
        "reason": verdict.reason,
        "scores": dict(verdict.scores),
        "pass_mark": PASS_OVERALL,
        "reviews": verdict.valid_reviews,
        "checks": {check.name: check.holds for check in checked.checks},
        **session.state(),
    }


def _check(context: Context, session: SearchSession, folder: Path, results: RecordedResults) -> CheckedPaper:
    checked = check_paper(
        session.idea,
        results,
        folder,
        session.tools,
        session.runner,
        context.stop,
        session.params.page_limit,
    )
    context.artifacts.publish(folder / "checks.json", ArtifactKind.REPORT, "paper/checks.json")
    for check in checked.checks:
        if not check.holds:
            context.log(f"check {check.name} does not hold: {'; '.join(check.findings[:3])}", "warning")
    return checked


def _review(
    context: Context, session: SearchSession, folder: Path, results: RecordedResults, checked: CheckedPaper
) -> ReviewVerdict:
    sources_facts = writing_facts(
        PaperSources(
            idea=session.idea,
            results=results,
            figures=checked.parts.figures,
            page_limit=session.params.page_limit,
        )
    )
    reviews = collect_reviews(
        checked.text,
        checked.parts.referenced_figures,
        checked.checks,
        sources_facts["findings"],
        folder,
        session.client,
        context.stop,
        session.params.reviews,
    )
    for review in reviews:
        name = f"review-{review.sample}.json"
        context.artifacts.publish(folder / "reviews" / name, ArtifactKind.REPORT, f"paper/{name}")
    return decide(reviews, checked.checks)


def reach_notice(hosts: Sequence[str]) -> tuple[str, ...]:
    """What a reader must know of a run whose programs had a network."""
    return (f"Programs of the experiments could reach {', '.join(hosts)}.",) if hosts else ()


def _folder(session: SearchSession) -> Path:
    folder = session.folder / FOLDER
    folder.mkdir(exist_ok=True, mode=FOLDER_MODE)
    return folder
