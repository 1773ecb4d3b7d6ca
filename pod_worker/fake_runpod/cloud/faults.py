"""Fault injection by rule: which fault, where, how often, with what values.

A rule is data: JSON on `POST /_fake/faults`, or YAML. `FaultRules` holds the rules in order, decides whether one
applies, and counts how often it did. The gateway, the simulator and the API surfaces carry the faults out.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import msgspec

from pod_worker.fake_runpod.cloud.pod import InjectedFaults, Pod
from pod_worker.fake_runpod.cloud.timers import TimerKind
from pod_worker.fake_runpod.timestamps import from_seconds


class FaultKind(StrEnum):
    NO_CAPACITY = "no_capacity"
    """Creates and starts find no machine (by gpu, data_center, cloud); the catalogue shows NONE."""
    STUCK_PROVISIONING = "stuck_provisioning"
    NEVER_READY = "never_ready"
    """RUNNING, but without an IP, a port or a line in the container log."""
    BOOT_ERROR = "boot_error"
    """v2 shows ERROR and a system log line (`message`); v1 and GraphQL still show RUNNING."""
    SLOW_PULL = "slow_pull"
    """The image takes `seconds` to pull."""
    VANISH = "vanish"
    """The pod disappears `seconds` after its creation, without a trace."""
    ZERO_GPU = "zero_gpu_on_start"
    """A stopped pod starts again with no GPU at all."""
    CREATE_THEN_500 = "create_then_500"
    """The pod is created and billed, and the response is a 500."""
    READ_LAG = "read_after_write_lag"
    """A new pod is 404 and missing from lists for `seconds`; a delete in that time is a 404 too."""
    SPOT_INTERRUPT = "spot_interrupt"
    """`seconds` after creation the container gets SIGTERM, and SIGKILL `notice_seconds` (0 to 5) later."""
    TOO_MANY_REQUESTS = "too_many_requests"
    HTTP_ERROR = "http_error"
    """Any `status`, before the request has an effect; `html: true` responds as a proxy does."""
    SLOW = "slow"
    """The request waits `seconds` (real time): before its effect, or with `after_acting: true` after it."""
    GONE = "gone"
    """410 for a retired surface (surface: v1 or graphql)."""


Surface = Annotated[str, msgspec.Meta(pattern="^(v1|v2|graphql)$")]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]


class FaultRule(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Omitted fields match everything; `path` and `name` are shell patterns.

    `id`, `triggered` and `since_ns` are set by `FaultRules` and ignored on input."""

    kind: FaultKind
    surface: Surface | None = None
    method: str | None = None
    path: str | None = None
    gpu: str | None = None
    data_center: str | None = None
    cloud: str | None = None
    name: str | None = None
    pod: str | None = None

    times: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Apply this often; None: always."""
    skip: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Skip this many matches first."""
    probability: Share = 1.0
    from_seconds: Seconds = 0.0
    until_seconds: Seconds | None = None
    """Active window, in virtual seconds after the rule was added."""

    seconds: Seconds = 0.0
    notice_seconds: Annotated[float, msgspec.Meta(ge=0, le=5)] = 5.0
    status: Annotated[int, msgspec.Meta(ge=400, le=599)] = 503
    retry_after: Annotated[int, msgspec.Meta(ge=0)] = 1
    message: str | None = None
    html: bool = False
    after_acting: bool = False

    id: int = 0
    triggered: int = 0
    since_ns: int = 0


@dataclass(frozen=True, slots=True)
class FaultContext:
    """The request or pod that rules are matched against.

    None: not known at this point; only rules without that field match."""

    surface: str | None = None
    method: str | None = None
    path: str | None = None
    gpu: str | None = None
    data_center: str | None = None
    cloud: str | None = None
    name: str | None = None
    pod: str | None = None


class FaultRules:
    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._rules: list[FaultRule] = []
        self._next_id = 1

    @property
    def rules(self) -> list[FaultRule]:
        return list(self._rules)

    def add(self, rule: FaultRule, now_ns: int) -> FaultRule:
        kept = msgspec.structs.replace(rule, id=self._next_id, triggered=0, since_ns=now_ns)
        self._next_id += 1
        self._rules.append(kept)
        return kept

    def restore(self, rules: list[FaultRule]) -> None:
        self._rules = list(rules)
        self._next_id = max((rule.id for rule in rules), default=0) + 1

    def remove(self, rule_id: int | None = None) -> int:
        """Remove one rule, or all; returns how many were removed."""
        kept = [] if rule_id is None else [rule for rule in self._rules if rule.id != rule_id]
        removed = len(self._rules) - len(kept)
        self._rules = kept
        return removed

    def trigger(self, kind: FaultKind, context: FaultContext, now_ns: int) -> FaultRule | None:
        """The first rule that applies here, counted as triggered; None where none applies."""
        for rule in self._rules:
            if self._is_due(rule, kind, now_ns) and _fits(rule, context):
                if rule.skip:
                    rule.skip -= 1
                elif self._passes_probability(rule):
                    rule.triggered += 1
                    return rule
        return None

    def capacity_shortage(self, context: FaultContext, now_ns: int) -> CapacityShortage:
        """The no-capacity rules in force for one create or start.

        Each draws its probability once.
        """
        rules = []
        for rule in self._rules:
            if self._is_due(rule, FaultKind.NO_CAPACITY, now_ns) and _fits(rule, context, places=False):
                if rule.skip:
                    rule.skip -= 1
                elif self._passes_probability(rule):
                    rules.append(rule)
        return CapacityShortage(rules)

    def advertised_shortage(self, now_ns: int) -> CapacityShortage:
        """The shortages that the catalogue shows: only certain ones.

        Stock is advisory, as at RunPod.
        """
        certain = (r for r in self._rules if r.probability == 1 and not r.skip and r.name is None)
        return CapacityShortage([r for r in certain if self._is_due(r, FaultKind.NO_CAPACITY, now_ns)])

    def _passes_probability(self, rule: FaultRule) -> bool:
        return rule.probability == 1 or self._rng.random() < rule.probability

    def _is_due(self, rule: FaultRule, kind: FaultKind, now_ns: int) -> bool:
        if rule.kind is not kind or (rule.times is not None and rule.triggered >= rule.times):
            return False
        age = now_ns - rule.since_ns
        if age < from_seconds(rule.from_seconds):
            return False
        return rule.until_seconds is None or age < from_seconds(rule.until_seconds)


class CapacityShortage:
    """The placements that some rules exclude.

    Counts each rule that excluded at least one.
    """

    def __init__(self, rules: list[FaultRule]) -> None:
        self._rules = rules
        self._used: set[int] = set()

    def __call__(self, resource_id: str, data_center_id: str, cloud: str) -> bool:
        is_excluded = False
        for rule in self._rules:
            wanted = ((rule.gpu, resource_id), (rule.data_center, data_center_id), (rule.cloud, cloud))
            if all(asked is None or asked == actual for asked, actual in wanted):
                self._used.add(rule.id)
                is_excluded = True
        return is_excluded

    def record_triggers(self) -> None:
        for rule in self._rules:
            rule.triggered += rule.id in self._used


def _fits(rule: FaultRule, at: FaultContext, *, places: bool = True) -> bool:
    exact = [(rule.surface, at.surface), (rule.method, at.method), (rule.pod, at.pod)]
    if places:
        exact += [(rule.gpu, at.gpu), (rule.data_center, at.data_center), (rule.cloud, at.cloud)]
    patterns = ((rule.path, at.path), (rule.name, at.name))
    return all(asked is None or asked == actual for asked, actual in exact) and all(
        asked is None or (actual is not None and fnmatchcase(actual, asked)) for asked, actual in patterns
    )


def inject_pod_faults(
    pod: Pod, faults: FaultRules, context: FaultContext, now_ns: int
) -> Iterator[tuple[int, TimerKind]]:
    """Set a new pod's injected faults and visibility.

    Yields (instant, kind) of faults that happen later.
    """

    def trigger(kind: FaultKind) -> FaultRule | None:
        return faults.trigger(kind, context, now_ns)

    def due_ns(rule: FaultRule) -> int:
        return now_ns + from_seconds(rule.seconds)

    pod.injected_faults = InjectedFaults(
        stuck=trigger(FaultKind.STUCK_PROVISIONING) is not None,
        never_ready=trigger(FaultKind.NEVER_READY) is not None,
        zero_gpu_on_start=trigger(FaultKind.ZERO_GPU) is not None,
    )
    if rule := trigger(FaultKind.SLOW_PULL):
        pod.injected_faults.pull_seconds = rule.seconds
    if rule := trigger(FaultKind.BOOT_ERROR):
        pod.injected_faults.error = rule.message or "error creating container: image not found"
    if rule := trigger(FaultKind.READ_LAG):
        pod.visible_ns = due_ns(rule)
    if rule := trigger(FaultKind.SPOT_INTERRUPT):
        pod.injected_faults.notice_seconds = rule.notice_seconds
        yield due_ns(rule), TimerKind.INTERRUPT
    if rule := trigger(FaultKind.VANISH):
        yield due_ns(rule), TimerKind.VANISH


def parse_rules(text: bytes, *, yaml: bool = False) -> list[FaultRule]:
    """One rule or a list of rules.

    Raises msgspec.ValidationError that names the invalid field.
    """
    raw = msgspec.yaml.decode(text) if yaml else msgspec.json.decode(text)
    return msgspec.convert(raw if isinstance(raw, list) else [raw], type=list[FaultRule], strict=False)


def read_rules(path: Path) -> list[FaultRule]:
    return parse_rules(path.read_bytes(), yaml=True)
