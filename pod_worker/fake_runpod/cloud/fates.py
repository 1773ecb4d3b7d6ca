"""What the fault rules have in store for a new pod, read once at its birth."""

from __future__ import annotations

from collections.abc import Iterator

from pod_worker.fake_runpod.cloud.faults import FaultBook, FaultKind, Occasion, Rule
from pod_worker.fake_runpod.cloud.pod import Fate, Pod
from pod_worker.fake_runpod.cloud.timers import Due
from pod_worker.fake_runpod.timestamps import from_seconds


def draw_fate(pod: Pod, faults: FaultBook, occasion: Occasion, now_ns: int) -> Iterator[tuple[int, Due]]:
    """Writes the pod's fate and visibility; yields (instant, what) for troubles that have a time of their own."""

    def strike(kind: FaultKind) -> Rule | None:
        return faults.strike(kind, occasion, now_ns)

    def later(rule: Rule) -> int:
        return now_ns + from_seconds(rule.seconds)

    pod.fate = Fate(
        stuck=strike(FaultKind.STUCK_PROVISIONING) is not None,
        never_ready=strike(FaultKind.NEVER_READY) is not None,
        zero_gpu_on_start=strike(FaultKind.ZERO_GPU) is not None,
    )
    if rule := strike(FaultKind.SLOW_PULL):
        pod.fate.pull_seconds = rule.seconds
    if rule := strike(FaultKind.BOOT_ERROR):
        pod.fate.error = rule.message or "error creating container: image not found"
    if rule := strike(FaultKind.READ_LAG):
        pod.visible_ns = later(rule)
    if rule := strike(FaultKind.SPOT_INTERRUPT):
        pod.fate.notice_seconds = rule.notice_seconds
        yield later(rule), Due.INTERRUPT
    if rule := strike(FaultKind.VANISH):
        yield later(rule), Due.VANISH
