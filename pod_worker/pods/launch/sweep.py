"""Terminating what nobody wants: pods whose intent is not, or no longer, theirs to live by.

A sweep acts only on a full listing and only on pods whose name is in the intent log; a pod that the log does not
know is reported and left alone. It repeats itself until the provider stops showing the pod, so that neither a lost
terminate nor a create that was carried out late can keep a pod billing.
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
    """Pods that were found and should not be; termination was asked for up to the limit."""
    unknown_pods: tuple[Pod, ...] = ()
    """Pods that no intent names: somebody else's, or made by hand. Never touched."""
    failures: tuple[str, ...] = ()
    list_error: str = ""
    """Why the provider could not be listed; then nothing at all was done."""

    @property
    def is_clean(self) -> bool:
        return not (self.unwanted or self.list_error)


def sweep(
    provider: PodProvider,
    log: IntentLog,
    *,
    clock: Clock,
    abandon_seconds: float = 1800.0,
    limit: int = 10,
) -> SweepReport:
    """One pass. `abandon_seconds`: an intent still OPEN after that has lost its launcher. `limit` bounds what one
    pass may terminate, so that a mistake costs a few pods and not the fleet."""
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
    """Retire before terminating, so that a launcher which finds the pod at this moment cannot adopt it."""
    is_double = intent.state is IntentState.CREATED
    if not is_double and intent.state is not IntentState.RETIRED:
        retired = log.advance(pod.name, expect={intent.state}, to=IntentState.RETIRED, note=f"swept {pod.id}")
        if not retired:
            return f"{pod.name}: its intent changed just now; left for the next sweep"
    try:
        provider.terminate(pod.id)
    except PodNotFoundError:
        return ""
    except ProviderError as refused:
        return f"{pod.name}: {refused}"
    return ""
