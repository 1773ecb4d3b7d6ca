"""Fills the HTML report of a run."""

from __future__ import annotations

from pathlib import Path

from pod_worker.core.stage import Context
from pod_worker.paper.checks import CheckedPaper
from pod_worker.paper.evidence.results import RecordedResults, read_json
from pod_worker.paper.report import ReportTable, render_report
from pod_worker.paper.report_contents import build_report
from pod_worker.paper.verdict import ReviewVerdict, StoredReview
from pod_worker.search.reports.tree_svg import tree_svg
from pod_worker.search.tree.journal import read_state
from pod_worker.stages.language_models import cost_of
from pod_worker.stages.research.search_session import SearchSession


def write_report(
    context: Context,
    session: SearchSession,
    folder: Path,
    results: RecordedResults,
    checked: CheckedPaper,
    verdict: ReviewVerdict,
) -> Path:
    cost = cost_of(session.client)
    report = build_report(
        session.idea,
        results,
        folder,
        checked=checked,
        reviews=[read_json(path, StoredReview) for path in sorted((folder / "reviews").glob("review-*.json"))],
        verdict=verdict,
        tables=(_cost_table(session),),
        cards=(("Model calls", str(cost["calls"])), ("Dollars", f"{cost['usd']:.2f}")),
        notices=(f"Sandbox layers that were proved: {', '.join(session.runner.layers)}.",),
        rerun=(
            f"pod-worker runs replay {context.run.id}",
            f"pod-worker runs retry-stage {context.run.id} paper",
        ),
    )
    path = session.folder / "report.html"
    path.write_text(render_report(report, folder / "figures", tree_svg(read_state(session.folder))))
    return path


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
