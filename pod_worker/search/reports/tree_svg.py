"""The search tree as an SVG picture.

One band a stage. A node's form shows its outcome, so the picture needs no colours to be read; the colours are
legible on light and on dark pages. Text is escaped and the file refers to nothing outside itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from xml.sax.saxutils import escape

from pod_worker.core.failure import truncate
from pod_worker.core.stage import stage_title
from pod_worker.core.terminal_text import one_line
from pod_worker.search.tree.node import NodeOutcome, SearchNode
from pod_worker.search.tree.state import SearchState

_COLUMN, _ROW, _RADIUS = 66, 92, 13
_LEFT, _TITLE, _GAP, _LEGEND = 28, 40, 14, 44
_SMALLEST_WIDTH = 780  # the legend's
_CHANGE_LIMIT = 10
_TEXT, _LINE, _BAND = "#7d8590", "#8b949e", "#8b949e"
_GOOD, _BAD, _BEST = "#2da160", "#d1584f", "#d29922"
_STYLE = (
    "text{font-family:ui-sans-serif,system-ui,'Segoe UI',Helvetica,Arial,sans-serif;fill:#7d8590}"
    ".title{font-size:14px;font-weight:600}.label{font-size:11px}.step{font-size:10px;font-weight:600}"
    ".small{font-size:10px}"
)


@dataclass(frozen=True, slots=True)
class _Place:
    node: SearchNode
    x: float
    y: float


def tree_svg(state: SearchState) -> str:
    """A complete SVG document of every stage in the journal."""
    bands: list[str] = []
    top, width = 0.0, float(_SMALLEST_WIDTH)
    for stage in dict.fromkeys(node.stage for node in state.nodes.values()):
        places = _layout(state, stage, top + _TITLE + _RADIUS + 8)
        bottom = max(place.y for place in places) + 54 if places else top + _TITLE
        right = max((place.x for place in places), default=0.0) + _COLUMN
        width = max(width, right)
        bands.append(_band(state, stage, places, top, bottom))
        top = bottom + _GAP
    height = top + _LEGEND
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img"><title>Search tree</title><style>{_STYLE}</style>'
    )
    frames = "".join(bands).replace("{width}", f"{width - 8:.0f}")
    return f"{head}{frames}{_legend(top + 16)}</svg>\n"


def _layout(state: SearchState, stage: str, top: float) -> list[_Place]:
    """Leaves side by side, each parent above the middle of its children."""
    nodes = state.written(stage)
    known = {node.id for node in nodes}
    places: dict[str, _Place] = {}
    columns = iter(range(len(nodes)))

    def put(node: SearchNode, depth: int) -> float:
        children = [child for child in nodes if child.parent == node.id]
        ends = [put(child, depth + 1) for child in children]
        x = (ends[0] + ends[-1]) / 2 if ends else _LEFT + _RADIUS + next(columns) * _COLUMN
        places[node.id] = _Place(node, x, top + depth * _ROW)
        return x

    for node in nodes:
        if node.parent not in known:
            put(node, 0)
    return list(places.values())


def _band(state: SearchState, stage: str, places: list[_Place], top: float, bottom: float) -> str:
    nodes = [place.node for place in places]
    scored = sum(node.is_scored for node in nodes)
    title = f"{stage} · {stage_title(stage)} · {scored} of {len(nodes)} scored"
    if start := state.incumbent(stage):
        title += f" · starts from {start.id}"
    parts = [
        f'<rect x="4" y="{top + 4:.0f}" width="{{width}}" height="{bottom - top - 4:.0f}" rx="8" fill="{_BAND}" '
        f'fill-opacity="0.08"/>',
        _text(_LEFT - 10, top + 26, title, "title", anchor="start"),
        *_edges(places),
        *(_drawn(state, place) for place in places),
    ]
    return "".join(parts)


def _edges(places: list[_Place]) -> Iterator[str]:
    at = {place.node.id: place for place in places}
    for place in places:
        if parent := at.get(place.node.parent or ""):
            yield (
                f'<path d="M{parent.x:.1f} {parent.y + 47:.1f}C{parent.x:.1f} {parent.y + 64:.1f} '
                f'{place.x:.1f} {place.y - 36:.1f} {place.x:.1f} {place.y - 19:.1f}" fill="none" '
                f'stroke="{_LINE}" stroke-width="1.2"/>'
            )


def _drawn(state: SearchState, place: _Place) -> str:
    node, x, y = place.node, place.x, place.y
    selection = state.selections.get(node.stage)
    is_best = selection is not None and selection.candidate == node.id
    parts = [f"<g><title>{_attribute(_description(state, node))}</title>"]
    if is_best:
        is_noise = selection is not None and selection.reference is not None and not selection.is_better
        dash = ' stroke-dasharray="4 3"' if is_noise else ""
        parts.append(_circle(x, y, _RADIUS + 5, "none", _BEST, extra=f' stroke-width="2.5"{dash}'))
    parts.append(_form(node, x, y))
    parts.append(_text(x, y + _RADIUS + 17, _result(node), "label"))
    if label := _label(state, node):
        parts.append(_text(x, y + _RADIUS + 29, label, "small"))
    return "".join([*parts, "</g>"])


def _form(node: SearchNode, x: float, y: float) -> str:
    """The form of an outcome: disc, square, triangle, ring or dashed ring."""
    number = _text(x, y + 3.5, str(node.step), "step", fill="#ffffff")
    hollow = _text(x, y + 3.5, str(node.step), "step")
    r = _RADIUS
    if node.outcome is NodeOutcome.SCORED:
        return _circle(x, y, r, _GOOD, "none") + number
    if node.outcome is NodeOutcome.BUGGY:
        square = f'<rect x="{x - 11:.1f}" y="{y - 11:.1f}" width="22" height="22" rx="3" fill="{_BAD}"/>'
        return square + number
    if node.outcome is NodeOutcome.TIMED_OUT:
        points = f"{x:.1f},{y - r - 2:.1f} {x - r - 2:.1f},{y + r - 2:.1f} {x + r + 2:.1f},{y + r - 2:.1f}"
        return f'<polygon points="{points}" fill="{_BAD}"/>{number}'
    if node.outcome is NodeOutcome.NO_SCORE:
        return _circle(x, y, r - 1, "none", _BAD, extra=' stroke-width="2"') + hollow
    return _circle(x, y, r - 1, "none", _LINE, extra=' stroke-width="1.2" stroke-dasharray="2 3"') + hollow


def _label(state: SearchState, node: SearchNode) -> str:
    replicas = sum(replica.stage == node.stage for replica in state.replicas(node.id))
    if replicas:
        return f"× {replicas} seeds"
    return truncate_label(one_line(node.change)) or node.operation.value


def truncate_label(text: str) -> str:
    return text if len(text) <= _CHANGE_LIMIT else f"{text[: _CHANGE_LIMIT - 1]}…"


def _result(node: SearchNode) -> str:
    if node.search_score is not None:
        return f"{node.search_score:.4g}"
    if node.declined:
        return "declined"
    return truncate_label(node.error_kind) if node.outcome else "…"


def _description(state: SearchState, node: SearchNode) -> str:
    outcome = node.outcome.value if node.outcome else node.declined or "not finished"
    parts = [f"{node.id}: {node.operation.value}, {outcome} {node.error_kind}".strip()]
    parts += [one_line(part) for part in (node.change, truncate(node.plan, 300)) if part]
    scores = [
        f"{replica.search_score:.4g}" for replica in state.replicas(node.id) if replica.search_score is not None
    ]
    return " | ".join([*parts, *([f"other seeds: {', '.join(scores)}"] if scores else [])])


def _legend(y: float) -> str:
    entries = (
        (_circle(0, 0, 7, _GOOD, "none"), "scored"),
        (f'<rect x="-6" y="-6" width="12" height="12" rx="2" fill="{_BAD}"/>', "error"),
        (f'<polygon points="0,-7 -8,6 8,6" fill="{_BAD}"/>', "timed out"),
        (_circle(0, 0, 6, "none", _BAD, extra=' stroke-width="2"'), "no score"),
        (_circle(0, 0, 6, "none", _LINE, extra=' stroke-width="1.2" stroke-dasharray="2 3"'), "no program"),
        (_circle(0, 0, 7, "none", _BEST, extra=' stroke-width="2.5"'), "best of the stage"),
        (
            _circle(0, 0, 7, "none", _BEST, extra=' stroke-width="2.5" stroke-dasharray="4 3"'),
            "best, not beyond the noise",
        ),
    )
    parts, x = [], float(_LEFT)
    for form, text in entries:
        parts.append(f'<g transform="translate({x:.0f} {y:.0f})">{form}{_text(12, 4, text, "label", "start")}</g>')
        x += 36 + 6.1 * len(text)
    return "".join(parts)


def _circle(x: float, y: float, r: float, fill: str, stroke: str, extra: str = "") -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}" fill="{fill}" stroke="{stroke}"{extra}/>'


def _text(x: float, y: float, text: str, kind: str, anchor: str = "middle", fill: str = _TEXT) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}" style="fill:{fill}">'
        f"{_attribute(text)}</text>"
    )


def _attribute(text: str) -> str:
    return escape(one_line(text), {'"': "&quot;"})
