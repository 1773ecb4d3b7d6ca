"""Figures of a paper, and those that are drawn from the recorded results.

Matplotlib is imported inside functions: only the run's child process draws.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pod_worker.core.research.measure import estimate
from pod_worker.core.stage import stage_title
from pod_worker.paper.evidence.results import RecordedCurve, RecordedNode, RecordedResults

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIGURE_LIMIT = 12
CURVE_FIGURES_LIMIT = 2
POINTS_LIMIT = 400
COLUMN_INCHES = 3.25
# Okabe and Ito, "Color Universal Design" (2008): told apart with every kind of colour vision.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LINES = ("-", "--", "-.", ":")
GREY = "#666666"
OWN = "pod_worker"


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperFigure:
    """One figure; its files are names in the folder of figures."""

    label: str  # without the prefix fig:
    caption: str
    image: str  # the file that LaTeX includes
    preview: str  # a PNG for pages and reviewers
    source: str = OWN  # who drew it: pod_worker, or the model whose code did


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureSet:
    figures: tuple[PaperFigure, ...]
    note: str = ""  # why figures of a model's code are not among them


def draw_figures(results: RecordedResults, folder: Path) -> tuple[PaperFigure, ...]:
    """The default figures, written to `folder`; the same results give the same files."""
    folder.mkdir(parents=True, exist_ok=True)
    found: list[PaperFigure] = []
    if results.method_stages:
        caption = (
            f"Best node of each stage, {_metric(results)}: mean with 95 % confidence interval, and every "
            "seed. The band is the interval of the baseline."
        )
        found.append(_draw("stages", caption, folder, lambda axes: _stages(axes, results)))
    for name in _curve_names(results)[:CURVE_FIGURES_LIMIT]:
        words = name.replace("_", " ")
        caption = (
            f"{words[:1].upper()}{words[1:]} of the best node of each stage: mean over seeds with 95 % interval."
        )
        found.append(_draw(f"curve-{_slug(name)}", caption, folder, _curve_drawer(results, name)))
    if results.ablations and results.full_method is not None:
        caption = (
            f"Ablations: {_metric(results)} without each component, mean with 95 % confidence interval. "
            "The dashed line and the band are the full method."
        )
        found.append(_draw("ablations", caption, folder, lambda axes: _ablations(axes, results)))
    return tuple(found)


def _draw(label: str, caption: str, folder: Path, fill: Callable[[Axes], None]) -> PaperFigure:
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context({"font.size": 8, "font.family": "serif", "pdf.fonttype": 42, "axes.linewidth": 0.6}):
        figure: Figure = Figure(figsize=(COLUMN_INCHES, 2.15), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        fill(axes)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="both", color="#dddddd", linewidth=0.5)
        axes.set_axisbelow(True)
        dates = {"CreationDate": None, "ModDate": None, "Creator": None, "Producer": None}
        figure.savefig(folder / f"{label}.pdf", metadata=dates)
        figure.savefig(folder / f"{label}.png", dpi=220, metadata={"Software": None})
    return PaperFigure(label=label, caption=caption, image=f"{label}.pdf", preview=f"{label}.png")


def _stages(axes: Axes, results: RecordedResults) -> None:
    baseline = results.baseline
    bests = [(stage_title(stage), node) for stage in results.method_stages if (node := results.best_of(stage))]
    if baseline is not None and baseline.node_id not in {node.node_id for _, node in bests}:
        bests.insert(0, ("baseline", baseline))
    for position, (_, node) in enumerate(bests):
        _interval(axes, position, node, COLORS[position % len(COLORS)], is_vertical=True)
    if baseline is not None:
        _band(axes.axhspan, axes.axhline, baseline)
    axes.set_xticks(range(len(bests)), [title.replace(" ", "\n", 1) for title, _ in bests])
    axes.set_xlim(-0.6, len(bests) - 0.4)
    axes.set_ylabel(_metric(results))
    axes.grid(axis="x", visible=False)


def _ablations(axes: Axes, results: RecordedResults) -> None:
    full = results.full_method
    assert full is not None
    rows = results.ablations[-FIGURE_LIMIT:]
    for position, node in enumerate(rows):
        _interval(axes, position, node, COLORS[1], is_vertical=False)
    _band(axes.axvspan, axes.axvline, full)
    axes.set_yticks(range(len(rows)), [_shorten(results.label_of(node)) for node in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel(_metric(results))
    axes.locator_params(axis="x", nbins=5)


def _interval(axes: Axes, position: int, node: RecordedNode, color: str, is_vertical: bool) -> None:
    found = node.estimate
    width = found.half_width if math.isfinite(found.half_width) else 0.0
    places = [position + 0.14] * len(node.scores)
    seeds = (places, node.scores) if is_vertical else (node.scores, places)
    axes.plot(*seeds, ".", color=GREY, markersize=3, alpha=0.7)
    x, y = ([position], [found.mean]) if is_vertical else ([found.mean], [position])
    bars = (None, [width]) if is_vertical else ([width], None)
    axes.errorbar(x, y, xerr=bars[0], yerr=bars[1], fmt="o", color=color, markersize=4, capsize=3, linewidth=1.2)


def _band(span: Callable[..., object], line: Callable[..., object], node: RecordedNode) -> None:
    found = node.estimate
    line(found.mean, color=GREY, linewidth=0.8, linestyle="--")
    if math.isfinite(found.half_width):
        span(found.mean - found.half_width, found.mean + found.half_width, color=GREY, alpha=0.15, linewidth=0)


def _curve_names(results: RecordedResults) -> list[str]:
    """Names of curves of the selected nodes, those of most nodes first."""
    counts: dict[str, int] = defaultdict(int)
    for stage in results.method_stages:
        node = results.best_of(stage)
        for name in {curve.name for curve in node.curves if len(curve.steps) > 1} if node else ():
            counts[name] += 1
    return sorted(counts, key=lambda name: (-counts[name], name))


def _curve_drawer(results: RecordedResults, name: str) -> Callable[[Axes], None]:
    def fill(axes: Axes) -> None:
        for index, stage in enumerate(results.method_stages):
            node = results.best_of(stage)
            curves = [curve for curve in node.curves if curve.name == name] if node else []
            if curves:
                _mean_curve(axes, curves, stage_title(stage), index)
        axes.set_xlabel("step")
        axes.set_ylabel(name.replace("_", " "))
        axes.legend(frameon=False, fontsize=7)

    return fill


def _mean_curve(axes: Axes, curves: Sequence[RecordedCurve], title: str, index: int) -> None:
    """The mean over seeds at every step that each seed has, with its 95 % interval."""
    rows = [dict(zip(curve.steps, curve.values, strict=False)) for curve in curves]
    common = sorted(set(rows[0]).intersection(*rows[1:]))
    steps = [step for step in common if all(math.isfinite(row[step]) for row in rows)]
    steps = steps[:: -(-len(steps) // POINTS_LIMIT)] if steps else []
    found = [estimate([row[step] for row in rows]) for step in steps]
    means = [each.mean for each in found]
    color, line = COLORS[index % len(COLORS)], LINES[index % len(LINES)]
    axes.plot(steps, means, line, color=color, linewidth=1.2, label=title)
    if len(curves) > 1:
        low = [each.mean - each.half_width for each in found]
        high = [each.mean + each.half_width for each in found]
        axes.fill_between(steps, low, high, color=color, alpha=0.18, linewidth=0)


def _metric(results: RecordedResults) -> str:
    name = results.metric.name.replace("_", " ")
    return f"{name} ({results.metric.unit})" if results.metric.unit else name


def _shorten(label: str) -> str:
    return label if len(label) <= 24 else f"{label[:23]}…"


def _slug(name: str) -> str:
    return "".join(character if character.isalnum() else "-" for character in name.lower())[:40]
