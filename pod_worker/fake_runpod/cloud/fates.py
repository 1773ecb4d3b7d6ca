"""What the fault rules have in store for a new pod, read once at its birth."""

from __future__ import annotations

from collections.abc import Iterator

from pod_worker.fake_runpod.cloud.faults import FaultContext, FaultKind, FaultRule, FaultRules
from pod_worker.fake_runpod.cloud.pod import InjectedFaults, Pod
from pod_worker.fake_runpod.cloud.timers import TimerKind
from pod_worker.fake_runpod.timestamps import from_seconds


def inject_pod_faults(
    pod: Pod, faults: FaultRules, occasion: FaultContext, now_ns: int
) -> Iterator[tuple[int, TimerKind]]:
    """Writes the pod's fate and visibility; yields (instant, what) for troubles that have a time of their own."""

    def strike(kind: FaultKind) -> FaultRule | None:
        return faults.trigger(kind, occasion, now_ns)

    def later(rule: FaultRule) -> int:
        return now_ns + from_seconds(rule.seconds)

    pod.fate = InjectedFaults(
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
        yield later(rule), TimerKind.INTERRUPT
    if rule := strike(FaultKind.VANISH):
        yield later(rule), TimerKind.VANISH
