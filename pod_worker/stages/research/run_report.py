"""Fills the HTML report of a run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from pod_worker.core.stage import Context
from pod_worker.paper.checks import CheckedPaper
from pod_worker.paper.numbers import RecordedNumber, by_key
from pod_worker.paper.report import ReportTable, RunReport, reference_text, render_report
from pod_worker.paper.results import read_json
from pod_worker.paper.verdict import ReviewVerdict, StoredReview
from pod_worker.search.journal import read_state
from pod_worker.search.tree_svg import tree_svg
from pod_worker.stages.language_models import cost_of
from pod_worker.stages.research.search_session import SearchSession

_RESULT = re.compile(r"\\result\{([^}]*)\}")


def write_report(
    context: Context, session: SearchSession, folder: Path, checked: CheckedPaper, verdict: ReviewVerdict
) -> Path:
    state = read_state(session.folder)
    executed = [node for node in state.nodes.values() if node.outcome is not None]
    reviews = [read_json(path, StoredReview) for path in sorted((folder / "reviews").glob("review-*.json"))]
    cost = cost_of(session.client)
    report = RunReport(
        run_id=context.run.id,
        title=checked.paper.draft.title,
        task=session.task.task.title,
        models=(session.model,),
        notices=tuple(_notices(session, any(node.is_scripted for node in executed))),
        abstract=_with_numbers(checked.paper.draft.abstract, checked.parts.numbers),
        figures_of_merit=(
            ("nodes executed", str(len(executed))),
            ("with a score", str(sum(node.is_scored for node in executed))),
            ("model calls", str(cost["calls"])),
            ("dollars", f"{cost['usd']:.2f}"),
        ),
        tables=(*(_paper_tables(checked)), _cost_table(session)),
        figures=checked.parts.figures,
        checks=checked.checks,
        reviews=tuple(reviews),
        verdict=verdict,
        references=tuple(reference_text(citation) for citation in checked.parts.citations),
        rerun=(
            f"pod-worker runs replay {context.run.id}",
            f"pod-worker runs retry-stage {context.run.id} paper",
        ),
    )
    path = session.folder / "report.html"
    path.write_text(render_report(report, folder / "figures", tree_svg(state)))
    return path


def _with_numbers(text: str, numbers: Iterable[RecordedNumber]) -> str:
    """The text with the ledger's numbers in the place of their keys."""
    known = by_key(numbers)
    return _RESULT.sub(lambda match: known[match[1]].text if match[1] in known else match[0], text)


def _notices(session: SearchSession, is_scripted: bool) -> Iterator[str]:
    if is_scripted:
        yield "A scripted model wrote the programs and texts of this run. The programs were really executed."
    if not session.task.task.has_evaluator:
        yield "The task has no evaluator: its scores are self-reported."
    yield f"Sandbox layers that were proved: {', '.join(session.runner.layers)}."


def _paper_tables(checked: CheckedPaper) -> Iterator[ReportTable]:
    for table in checked.parts.tables:
        yield ReportTable(title=table.caption, columns=table.columns, rows=table.texts)


def _cost_table(session: SearchSession) -> ReportTable:
    operations = session.client.operations()
    rows = tuple(
        (name, str(each.calls), f"{each.input_tokens:,}", f"{each.output_tokens:,}", f"{each.micro_usd / 1e6:.4f}")
        for name, each in sorted(operations.items())
    )
    return ReportTable(
        title="Calls of language models",
        columns=("operation", "calls", "tokens in", "tokens out", "USD"),
        rows=rows,
    )
