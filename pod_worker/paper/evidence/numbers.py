"""The ledger of numbers: the only source from which a number may enter a paper.

A writer names a number by its key (`\\result{stage2.best}`), and the renderer puts the recorded text in its place.
Every entry names its node and its artifact. The whole ledger follows from the recorded results, so a check can
compute it again and compare.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pod_worker.core.research.measure import Metric
from pod_worker.core.stage import stage_title
from pod_worker.paper.evidence.results import RecordedNode, RecordedResults, compare

KEY = re.compile(r"[a-z0-9][a-z0-9._-]*")
DECIMALS_LIMIT = 6
OTHER_NODES_LIMIT = 40
_DIGITS_WITHOUT_INTERVAL = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedNumber:
    key: str
    value: float
    text: str  # as a reader sees it: 0.913 ± 0.004
    meaning: str
    node_id: str  # empty: a count of the task or of the search
    artifact: str
    formula: str = ""  # of the numbers it is computed from

    @property
    def latex(self) -> str:
        """The text for a LaTeX document, in text and in formulas."""
        number, _, unit = self.text.partition("\u202f")
        formula = number.replace("±", r"\pm ").replace("−", "-")
        formula = re.sub(r"×10\^(-?\d+)", r"\\times 10^{\1}", formula)
        return rf"\ensuremath{{{formula}}}" + (rf"\,{_latex_unit(unit)}" if unit else "")


def _latex_unit(unit: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9%/_ .-]", "", unit)
    return r"\text{" + re.sub(r"([%_])", r"\\\1", plain) + "}"


def build_numbers(results: RecordedResults) -> tuple[RecordedNumber, ...]:
    """Every number that the paper may contain, by unique key."""
    return tuple({number.key: number for number in _numbers(results)}.values())


def by_key(numbers: Iterable[RecordedNumber]) -> dict[str, RecordedNumber]:
    return {number.key: number for number in numbers}


def stage_key(stage: str) -> str:
    """`stage2` for `Stage_2`."""
    return re.sub(r"[^a-z0-9]", "", stage.lower())


def ablation_key(index: int) -> str:
    return f"ablation{index}"


def _numbers(results: RecordedResults) -> Iterator[RecordedNumber]:
    metric, baseline = results.metric, results.baseline
    named: set[str] = set()
    if baseline is not None:
        named.add(baseline.node_id)
        yield from _scores("baseline", baseline, metric, "the baseline")
    for stage in results.stages:
        best = results.best_of(stage)
        assert best is not None
        named.add(best.node_id)
        key = stage_key(stage)
        subject = f"the best node of {stage_title(stage)} ({results.label_of(best)})"
        yield from _scores(f"{key}.best", best, metric, subject)
        if baseline is not None and best.node_id != baseline.node_id:
            yield _difference(f"{key}.gain", best, baseline, metric, f"{key}.best - baseline")
    full = results.full_method
    for index, node in enumerate(results.ablations, 1):
        named.add(node.node_id)
        key = ablation_key(index)
        yield from _scores(key, node, metric, f"the ablation {results.label_of(node)!r}")
        if full is not None:
            yield _difference(f"{key}.change", node, full, metric, f"{key} - full method ({full.node_id})")
    others = [node for node in results.usable if node.node_id not in named]
    for node in others[:OTHER_NODES_LIMIT]:
        subject = f"node {node.node_id} ({results.label_of(node)})"
        yield from _scores(f"node.{_node_key(node)}", node, metric, subject)
    yield from _counts(results)


def _node_key(node: RecordedNode) -> str:
    return re.sub(r"[^a-z0-9_-]", "-", node.node_id.lower())


def _scores(key: str, node: RecordedNode, metric: Metric, subject: str) -> Iterator[RecordedNumber]:
    found = node.estimate
    source = "self-reported, repeated" if node.is_self_reported else "hidden split"
    about = f"{metric.name} of {subject}, {source}"
    text = format_estimate(found.mean, found.half_width, metric.unit)
    place = {"node_id": node.node_id, "artifact": node.artifact}
    yield RecordedNumber(key=key, value=found.mean, text=text, meaning=f"{about}: {_spread(found.count)}", **place)
    yield RecordedNumber(
        key=f"{key}.mean",
        value=found.mean,
        text=format_value(found.mean, found.half_width, metric.unit),
        meaning=f"{about}: mean",
        **place,
    )
    count = float(found.count)
    yield RecordedNumber(
        key=f"{key}.seeds", value=count, text=f"{found.count}", meaning=f"seeds of {subject}", **place
    )
    if node.search_scores:
        mean = math.fsum(node.search_scores) / len(node.search_scores)
        text = format_value(mean, found.half_width, metric.unit)
        meaning = f"{metric.name} of {subject}, search split: mean"
        yield RecordedNumber(key=f"{key}.search", value=mean, text=text, meaning=meaning, **place)


def _spread(count: int) -> str:
    return f"mean and 95 % confidence interval over {count} seeds" if count > 1 else "one seed, no interval"


def _difference(
    key: str, node: RecordedNode, reference: RecordedNode, metric: Metric, formula: str
) -> RecordedNumber:
    difference, half_width = compare(node, reference)
    interval = "with the 95 % interval" if math.isfinite(half_width) else "without an interval"
    return RecordedNumber(
        key=key,
        value=difference,
        text=format_estimate(difference, half_width, metric.unit, is_signed=True),
        meaning=f"difference in {metric.name}, {interval}; {metric.direction} is better",
        node_id=node.node_id,
        artifact=node.artifact,
        formula=formula,
    )


def _counts(results: RecordedResults) -> Iterator[RecordedNumber]:
    journal = {"node_id": "", "artifact": "research/journal.ndjson"}
    counts = {"executed": sum(results.outcomes.values())} | results.outcomes
    for name, count in sorted(counts.items()):
        yield RecordedNumber(
            key=f"nodes.{name}", value=count, text=f"{count}", meaning=f"nodes of the search: {name}", **journal
        )
    for fact in results.task_facts:
        yield RecordedNumber(
            key=f"task.{fact.key}",
            value=fact.value,
            text=f"{fact.value}",
            meaning=fact.meaning,
            node_id="",
            artifact="research/task/public/task.json",
        )


def format_estimate(mean: float, half_width: float, unit: str = "", is_signed: bool = False) -> str:
    """`0.9130 ± 0.0043`; the mean alone where there is no interval."""
    if not math.isfinite(half_width):
        return format_value(mean, half_width, unit, is_signed)
    decimals = _decimals(mean, half_width)
    if decimals is None:
        return _with_unit(f"{_scientific(mean, is_signed)}±{_scientific(half_width)}", unit)
    return _with_unit(f"{_fixed(mean, decimals, is_signed)} ± {half_width:.{decimals}f}", unit)


def format_value(mean: float, half_width: float, unit: str = "", is_signed: bool = False) -> str:
    """The mean in the precision of its interval; four digits without one."""
    decimals = _decimals(mean, half_width)
    return _with_unit(
        _scientific(mean, is_signed) if decimals is None else _fixed(mean, decimals, is_signed), unit
    )


def _decimals(mean: float, half_width: float) -> int | None:
    """Decimals that show two digits of the interval; None: scientific notation."""
    if not math.isfinite(half_width) or half_width == 0:
        size = math.floor(math.log10(abs(mean))) if mean else 0
        decimals = _DIGITS_WITHOUT_INTERVAL - 1 - size
    else:
        decimals = 1 - math.floor(math.log10(half_width))
    if decimals > DECIMALS_LIMIT or abs(mean) >= 1e6:
        return None
    return max(0, decimals)


def _fixed(value: float, decimals: int, is_signed: bool) -> str:
    text = f"{value:{'+' if is_signed else ''}.{decimals}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def _scientific(value: float, is_signed: bool = False) -> str:
    digits, exponent = f"{value:{'+' if is_signed else ''}.2e}".split("e")
    return f"{digits.replace('-', '−')}×10^{int(exponent)}"


def _with_unit(number: str, unit: str) -> str:
    return f"{number}\u202f{unit}" if unit else number
