"""Collects what the report of a run shows, wherever the run ended."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pod_worker.core.failure import RunError
from pod_worker.core.research.idea import Idea
from pod_worker.paper.checks import CheckedPaper
from pod_worker.paper.evidence.numbers import build_numbers, by_key
from pod_worker.paper.evidence.results import RecordedResults, read_json
from pod_worker.paper.report import ReportTable, RunReport, reference_text
from pod_worker.paper.typesetting.document import plain_text
from pod_worker.paper.typesetting.figures import FigureSet
from pod_worker.paper.typesetting.tables import PaperTable, build_tables
from pod_worker.paper.verdict import ReviewVerdict, StoredReview


def build_report(
    idea: Idea,
    results: RecordedResults,
    folder: Path,
    *,
    checked: CheckedPaper | None = None,
    reviews: Sequence[StoredReview] = (),
    verdict: ReviewVerdict | None = None,
    tables: Sequence[ReportTable] = (),
    cards: Sequence[tuple[str, str]] = (),
    notices: Sequence[str] = (),
    rerun: Sequence[str] = (),
) -> RunReport:
    """The report from the recorded results and what there is of a paper.

    `folder` is the folder of the paper. `tables` (cost, seeds …) follow the tables of results; `cards` (dollars,
    calls …) follow the cards of the search.
    """
    numbers = by_key(build_numbers(results))
    own_tables = [_table(table) for table in build_tables(results, numbers)]
    draft = checked.paper.draft if checked else None
    figures = _figures(folder)
    found = [*notices, *([figures.note] if figures.note else [])]
    if results.is_scripted or (draft is not None and draft.is_scripted):
        found.insert(0, "The scripted model wrote programs or texts of this run. It is not a language model.")
    if any(node.is_self_reported for node in results.nodes):
        found.append("Results marked [self-reported] come from the programs; the task has no evaluator.")
    return RunReport(
        run_id=results.run_id,
        title=plain_text(draft.title, numbers) if draft else idea.title,
        task=results.task,
        models=results.models,
        notices=tuple(found),
        abstract=plain_text(draft.abstract, numbers) if draft else idea.abstract,
        figures_of_merit=(*_cards(results, checked), *cards),
        tables=(*own_tables, *tables),
        figures=figures.figures,
        checks=checked.checks if checked else (),
        reviews=tuple(reviews),
        verdict=verdict,
        references=tuple(reference_text(each) for each in checked.parts.citations) if checked else (),
        rerun=tuple(rerun),
    )


def _figures(folder: Path) -> FigureSet:
    try:
        return read_json(folder / "figures.json", FigureSet)
    except RunError:  # the run ended before its plots
        return FigureSet(figures=())


def _table(table: PaperTable) -> ReportTable:
    columns = tuple(re.sub(r"\\(.)", r"\1", column) for column in table.columns)
    title = {"results": "Results by stage", "ablations": "Ablations"}.get(table.label, table.label)
    return ReportTable(title=title, columns=columns, rows=table.texts, caption=table.caption)


def _cards(results: RecordedResults, checked: CheckedPaper | None) -> list[tuple[str, str]]:
    numbers = by_key(build_numbers(results))
    full = results.full_method
    cards = []
    if full is not None:
        key = next((each.key for each in numbers.values() if each.node_id == full.node_id), "")
        cards.append((f"Best {results.metric.name.replace('_', ' ')}", numbers[key].text if key else "–"))
    good, total = results.outcomes.get("scored", 0), sum(results.outcomes.values())
    cards.append(("Programs scored", f"{good} of {total}"))
    if checked:
        cards.append(
            ("Checks that hold", f"{sum(each.holds for each in checked.checks)} of {len(checked.checks)}")
        )
    return cards
