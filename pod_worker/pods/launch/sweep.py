"""Terminates pods whose intent is not CREATED, or CREATED with another pod.

A sweep acts only on a complete listing and only on pods whose name is in the intent log; other pods are reported
and left alone. Each sweep repeats the terminate while the provider shows the pod, so neither a lost terminate
nor a late create keeps a pod billing.
"""

from __future__ import annotations

from dataclasses import dataclass

from pod_worker.core.clock import Clock
from pod_worker.core.pod_intent import IntentLog, IntentState, PodIntent
from pod_worker.pods.errors import PodNotFoundError, ProviderError
from pod_worker.pods.pod import Pod
from pod_worker.pods.provider import PodProvider, Unknown


@dataclass(frozen=True, slots=True)
class SweepReport:
    unwanted: tuple[Pod, ...] = ()
    """Pods that should not exist; termination was requested for them up to the limit."""
    unknown_pods: tuple[Pod, ...] = ()
    """Pods without an intent: created by other tools or by hand. They are never terminated."""
    failures: tuple[str, ...] = ()
    list_error: str = ""
    """Why the listing failed; the sweep then did nothing."""


def sweep(
    provider: PodProvider,
    log: IntentLog,
    *,
    clock: Clock,
    abandon_seconds: float = 1800.0,
    limit: int = 10,
) -> SweepReport:
    """One pass over all pods.

    `abandon_seconds`: an intent still PENDING after that has no launcher. `limit`: pods that one pass may
    terminate, so that a mistake costs a few pods and not the fleet.
    """
    listing = provider.list()
    if isinstance(listing, Unknown):
        return SweepReport(list_error=str(listing.error))
    living = tuple(pod for pod in listing.value if not pod.status.is_gone)
    intents = log.named({pod.name for pod in living})
    unwanted = tuple(
        pod
        for pod in living
        if pod.name in intents and not _may_live(pod, intents[pod.name], clock, abandon_seconds)
    )
    failures = [
        failure for pod in unwanted[:limit] if (failure := _terminate(provider, log, pod, intents[pod.name]))
    ]
    return SweepReport(unwanted, tuple(pod for pod in living if pod.name not in intents), tuple(failures))


def _may_live(pod: Pod, intent: PodIntent, clock: Clock, abandon_seconds: float) -> bool:
    if intent.state is IntentState.PENDING:
        return (clock.now() - intent.recorded_at).total_seconds() < abandon_seconds
    return intent.state is IntentState.CREATED and intent.pod_id == pod.id


def _terminate(provider: PodProvider, log: IntentLog, pod: Pod, intent: PodIntent) -> str:
    """Retire the intent, then terminate: a launcher then cannot accept the pod."""
    is_double = intent.state is IntentState.CREATED
    if not is_double and intent.state is not IntentState.RETIRED:
        retired = log.advance(pod.name, expect={intent.state}, to=IntentState.RETIRED, note=f"swept {pod.id}")
        if not retired:
            return f"{pod.name}: its intent has just changed; the next sweep handles it"
    try:
        provider.terminate(pod.id)
    except PodNotFoundError:
        return ""
    except ProviderError as error:
        return f"{pod.name}: {error}"
    return ""
