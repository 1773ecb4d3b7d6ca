"""Tables of a paper, made from the ledger of numbers; no model writes one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pod_worker.core.stage import stage_title
from pod_worker.paper.evidence.numbers import RecordedNumber, ablation_key, stage_key
from pod_worker.paper.evidence.results import RecordedNode, RecordedResults, identical_rows
from pod_worker.paper.typesetting.latex_text import escape

LABEL_LIMIT = 64
ABLATION_ROWS_LIMIT = 14
_LABEL_COLUMN = r">{\raggedright\arraybackslash}p{0.40\columnwidth}"
_SELF_REPORTED = r"$^{\ast}$"
_IDENTICAL = r"$^{\dagger}$"
_SINGLE = r"$^{\ddagger}$"


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperTable:
    label: str  # without the prefix tab:
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]  # LaTeX cells; the same texts without commands are in `texts`
    texts: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    @property
    def latex(self) -> str:
        head = " & ".join(self.columns)
        body = "\n".join(" & ".join(row) + r" \\" for row in self.rows)
        notes = "".join(rf"\par {note}" for note in self.notes)
        return "\n".join(
            [
                r"\begin{table}[t]\centering\small\setlength{\tabcolsep}{4pt}",
                rf"\caption{{{escape(self.caption)}}}\label{{tab:{self.label}}}",
                rf"\begin{{tabular}}{{@{{}}{_LABEL_COLUMN}{'r' * (len(self.columns) - 1)}@{{}}}}",
                rf"\toprule {head} \\ \midrule",
                body,
                r"\bottomrule\end{tabular}",
                rf"\par\vspace{{2pt}}\begin{{minipage}}{{\columnwidth}}\footnotesize{notes}\end{{minipage}}"
                if notes
                else "",
                r"\end{table}",
            ]
        )


def build_tables(results: RecordedResults, numbers: Mapping[str, RecordedNumber]) -> tuple[PaperTable, ...]:
    found = [_results_table(results, numbers)] if results.method_stages else []
    return (*found, _ablation_table(results, numbers)) if results.ablations else tuple(found)


def _results_table(results: RecordedResults, numbers: Mapping[str, RecordedNumber]) -> PaperTable:
    pairs = [
        (stage_key(stage) + ".best", stage_title(stage), results.best_of(stage)) for stage in results.method_stages
    ]
    baseline = results.baseline
    if baseline is not None and baseline.node_id not in {node.node_id for _, _, node in pairs if node}:
        pairs.insert(0, ("baseline", "baseline", baseline))
    entries = [(key, f"{title}: {results.label_of(node)}", node) for key, title, node in pairs if node is not None]
    columns = ("Stage: change", _metric(results), "search", "seeds")
    rows = [_row(label, node, numbers, (key, f"{key}.search", f"{key}.seeds")) for key, label, node in entries]
    caption = (
        f"Best node of each stage on {results.task}. {_capital(_metric(results))} on the hidden split (mean and "
        f"95 % confidence interval; {results.metric.direction} is better) and on the search split (mean)."
    )
    notes = [*_notes([node for _, _, node in entries]), *_excluded(results)]
    return _table("results", caption, columns, rows, notes)


def _ablation_table(results: RecordedResults, numbers: Mapping[str, RecordedNumber]) -> PaperTable:
    full = results.full_method
    nodes = results.ablations[:ABLATION_ROWS_LIMIT]
    flagged = flagged_ablations(results)
    rows: list[tuple[tuple[str, str], ...]] = []
    if full is not None:
        key = "baseline" if full.node_id == results.baseline_id else f"{stage_key(full.stage)}.best"
        rows.append(_row(f"full method: {results.label_of(full)}", full, numbers, (key,), ("", "")))
    for index, node in enumerate(nodes, 1):
        key = ablation_key(index)
        mark = (_IDENTICAL, " [identical]") if node.node_id in flagged else ("", "")
        rows.append(_row(results.label_of(node), node, numbers, (key, f"{key}.change"), mark))
    width = max(len(row) for row in rows)
    padded = [row + (("", ""),) * (width - len(row)) for row in rows]
    columns = ("Ablation", _metric(results), "difference")[:width]
    notes = [*_notes(list(nodes))]
    if flagged:
        notes.append(f"{_IDENTICAL} Same program or same scores as another row: the ablation shows nothing.")
    if len(results.ablations) > len(nodes):
        notes.append(f"{len(results.ablations) - len(nodes)} further ablations are in the journal.")
    caption = f"Ablations on the hidden split of {results.task}, and the difference from the full method."
    return _table("ablations", caption, columns, padded, notes)


def flagged_ablations(results: RecordedResults) -> frozenset[str]:
    """Ablations that equal another row or the full method."""
    full = results.full_method
    rows = [*([full] if full is not None else []), *results.ablations]
    return frozenset(node_id for group in identical_rows(rows) for node_id in group) - (
        {full.node_id} if full is not None else set()
    )


def _row(
    label: str,
    node: RecordedNode,
    numbers: Mapping[str, RecordedNumber],
    keys: tuple[str, ...],
    mark: tuple[str, str] = ("", ""),
) -> tuple[tuple[str, str], ...]:
    """(LaTeX, text) of each cell. A number that is not in the ledger stays empty."""
    short = label if len(label) <= LABEL_LIMIT else f"{label[: LABEL_LIMIT - 1]}…"
    signs = [(_SELF_REPORTED, " [self-reported]")] if node.is_self_reported else []
    signs += [(_SINGLE, " [one seed]")] if len(node.scores) == 1 else []
    signs.append(mark)
    name = (escape(short) + "".join(sign for sign, _ in signs), short + "".join(text for _, text in signs))
    cells = [numbers.get(key) for key in keys]
    return (name, *((number.latex, number.text) if number else ("--", "–") for number in cells))


def _table(
    label: str,
    caption: str,
    columns: tuple[str, ...],
    rows: list[tuple[tuple[str, str], ...]],
    notes: list[str],
) -> PaperTable:
    return PaperTable(
        label=label,
        caption=caption,
        columns=tuple(escape(column) for column in columns),
        rows=tuple(tuple(cell for cell, _ in row) for row in rows),
        texts=tuple(tuple(text for _, text in row) for row in rows),
        notes=tuple(notes),
    )


def _notes(nodes: list[RecordedNode]) -> list[str]:
    notes = []
    if any(node.is_self_reported for node in nodes):
        notes.append(f"{_SELF_REPORTED} Self-reported and confirmed by a clean repetition; no evaluator.")
    if any(len(node.scores) == 1 for node in nodes):
        notes.append(f"{_SINGLE} One seed: no interval.")
    return notes


def _excluded(results: RecordedResults) -> list[str]:
    count = len(results.excluded)
    return [f"{count} self-reported results without a confirming repetition are left out."] if count else []


def _metric(results: RecordedResults) -> str:
    return results.metric.name.replace("_", " ")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
