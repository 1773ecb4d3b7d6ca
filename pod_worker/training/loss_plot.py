"""The loss curve as a small SVG, written by hand.

A plotting library is too much for two lines and two axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from pod_worker.training.checkpoints.checkpoint import EvalPoint, LossPoint

WIDTH, HEIGHT, MARGIN = 720, 360, 56
MOST_POINTS = 1000
TRAIN, HELD_OUT, INK = "#3467c8", "#c8532e", "#555"

Scale = Callable[[float], float]


def loss_svg(curve: Sequence[LossPoint], evals: Sequence[EvalPoint]) -> str:
    """Step to the right, loss upward; held-out losses as a line with dots."""
    points: list[LossPoint | EvalPoint] = [*curve, *evals]
    losses = [point.loss for point in points]
    if not losses:
        return _frame(["<text x='50%' y='50%' text-anchor='middle'>no step was taken</text>"])
    steps = [point.step for point in points]
    low, high = min(losses), max(losses)
    across = _scale(min(steps), max(steps), MARGIN, WIDTH - 16)
    up = _scale(low, high, HEIGHT - MARGIN, 40)
    every = max(1, math.ceil(len(curve) / MOST_POINTS))
    train = [(across(point.step), up(point.loss)) for point in curve[::every]]
    held = [(across(point.step), up(point.loss)) for point in evals]
    dots = [f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3' fill='{HELD_OUT}'/>" for x, y in held]
    return _frame(
        [
            *_axis_labels(low, high, min(steps), max(steps)),
            _line(train, TRAIN),
            _line(held, HELD_OUT),
            *dots,
            _label(MARGIN, 24, "training loss", TRAIN),
            _label(MARGIN + 120, 24, "held-out loss", HELD_OUT),
        ]
    )


def _scale(low: float, high: float, start: float, end: float) -> Scale:
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def _axis_labels(low: float, high: float, first: int, last: int) -> list[str]:
    base = HEIGHT - MARGIN
    return [
        f"<path d='M{MARGIN} 40V{base}H{WIDTH - 16}' fill='none' stroke='{INK}'/>",
        _label(8, base, f"{low:.3f}", INK),
        _label(8, 46, f"{high:.3f}", INK),
        _label(MARGIN, base + 20, str(first), INK),
        _label(WIDTH - 60, base + 20, f"step {last}", INK),
    ]


def _line(points: Sequence[tuple[float, float]], colour: str) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='1.5'/>"


def _label(x: float, y: float, text: str, colour: str) -> str:
    return f"<text x='{x}' y='{y}' fill='{colour}'>{escape(text)}</text>"


def _frame(parts: Sequence[str]) -> str:
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' font-family='sans-serif' "
        f"font-size='12' role='img' aria-label='loss by step'>\n<rect width='100%' height='100%' fill='white'/>\n"
        + "\n".join(parts)
        + "\n</svg>\n"
    )
