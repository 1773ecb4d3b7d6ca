"""Getting exactly one pod for an order over an API without idempotency keys, whatever is lost on the way.

Before each create an intent with a never-used pod name is stored; after any unclear outcome the pod is looked up
by that name, and no other create is sent until the provider has answered. What still slips through (a request
carried out after we stopped looking) is terminated by sweeping.py, because its intent says that nobody wants it.
This module never waits for a pod to boot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from pod_worker.core.clock import Clock
from pod_worker.core.pod_intent import IntentConflictError, IntentLog, IntentState, PodIntent
from pod_worker.pods.errors import ProviderError, RateLimitedError, RecoveryAction, UnreachableError
from pod_worker.pods.launch.candidates import Candidate, Cooldowns
from pod_worker.pods.pod import MAX_NAME_LENGTH, Pod, PodSpec, problems_of
from pod_worker.pods.provider import Absent, Known, PodProvider, Unknown

PENDING = frozenset({IntentState.PENDING, IntentState.UNCERTAIN})
LIVE = PENDING | {IntentState.CREATED}
NOT_RETIRED = frozenset(IntentState) - {IntentState.RETIRED}
SUFFIX_LENGTH = 10


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """One wanted pod. Launching the same `id` again, also after a crash, gives the same pod."""

    id: str
    spec: PodSpec
    """`name` is the prefix of the pod's name; the placement fields are taken from the candidates."""
    candidates: tuple[Candidate, ...]
    price_ceiling: float | None = None
    """USD per hour, checked against the price that the created pod itself shows."""


@dataclass(frozen=True, slots=True)
class LaunchTimeouts:
    visibility_timeout_seconds: float = 45.0
    """How long a pod may stay invisible after an unclear create before we go on without it."""
    poll_seconds: float = 3.0
    lookup_timeout_seconds: float = 300.0
    """How long to go on asking a provider that cannot be read."""
    tries_per_candidate: int = 3


DEFAULT_PATIENCE = LaunchTimeouts()


class LaunchFailureReason(Enum):
    NO_CANDIDATE = "no candidate is left: all are cooling down or over the price ceiling"
    NO_CAPACITY = "no candidate has a machine"
    INVALID = "the request is wrong"
    STOPPED = "the account cannot launch anything now"
    UNCLEAR = "the provider cannot be read, so it is not known whether a pod exists"
    TAKEN = "another launcher works on this order"


@dataclass(frozen=True, slots=True)
class FailedCandidate:
    candidate: Candidate
    name: str
    message: str


@dataclass(frozen=True, slots=True)
class Launched:
    pod: Pod
    intent_name: str
    candidate: Candidate | None = None
    """None where the pod was found from an earlier launch of the order."""
    failed_candidates: tuple[FailedCandidate, ...] = ()


@dataclass(frozen=True, slots=True)
class LaunchFailed:
    reason: LaunchFailureReason
    detail: str
    failed_candidates: tuple[FailedCandidate, ...] = ()
    error: ProviderError | None = None
    """The refusal that ended the launch, where it was one."""


@dataclass(frozen=True, slots=True)
class _RetryCandidate:
    """The same candidate deserves another try."""

    message: str


@dataclass(frozen=True, slots=True)
class _NextCandidate:
    """The next candidate is due."""

    message: str
    is_capacity_error: bool = False


_Step = Launched | LaunchFailed | _RetryCandidate | _NextCandidate


class Launcher:
    def __init__(
        self,
        provider: PodProvider,
        log: IntentLog,
        *,
        clock: Clock,
        sleep: Callable[[float], None],
        new_id: Callable[[], str],
        cooldowns: Cooldowns,
        patience: LaunchTimeouts = DEFAULT_PATIENCE,
    ) -> None:
        self._provider = provider
        self._log = log
        self._clock = clock
        self._sleep = sleep
        self._new_id = new_id
        self._cooldowns = cooldowns
        self._patience = patience

    def launch(self, order: LaunchRequest) -> Launched | LaunchFailed:
        """One live pod for the order, or the reason why there is none. Raises only what the intent log raises."""
        if problems := problems_of(replace(order.spec, name=_name(order.spec.name, "x" * SUFFIX_LENGTH))):
            return LaunchFailed(LaunchFailureReason.INVALID, "; ".join(problems))
        intents = self._log.of_order(order.id)
        earlier = self._resume_earlier_launch(order, intents)
        return earlier if earlier is not None else self._launch_new(order, {intent.name for intent in intents})

    def _launch_new(self, order: LaunchRequest, settled: set[str]) -> Launched | LaunchFailed:
        """`settled` names the intents that this launch has answered for; anybody else's stops it."""
        trials: list[FailedCandidate] = []
        had_capacity_error = False
        for candidate in order.candidates:
            for _ in range(self._patience.tries_per_candidate):
                if self._cooldowns.seconds_left(candidate) > 0:
                    break
                name = _name(order.spec.name, self._new_id())
                step = self._try(order, candidate, name, settled)
                settled.add(name)
                if isinstance(step, Launched | LaunchFailed):
                    return replace(step, failed_candidates=(*trials, *step.failed_candidates))
                trials.append(FailedCandidate(candidate, name, step.message))
                if isinstance(step, _NextCandidate):
                    had_capacity_error = had_capacity_error or step.is_capacity_error
                    break
        reason = LaunchFailureReason.NO_CAPACITY if had_capacity_error else LaunchFailureReason.NO_CANDIDATE
        return LaunchFailed(reason, trials[-1].message if trials else reason.value, tuple(trials))

    def _try(self, order: LaunchRequest, candidate: Candidate, name: str, settled: set[str]) -> _Step:
        intents = self._log.of_order(order.id)
        if any(intent.state in LIVE and intent.name not in settled for intent in intents):
            return LaunchFailed(LaunchFailureReason.TAKEN, LaunchFailureReason.TAKEN.value)
        attempt = max((intent.attempt for intent in intents), default=0) + 1
        try:
            self._log.record(PodIntent(name, order.id, attempt, self._clock.now(), str(candidate)))
        except IntentConflictError as taken:
            return LaunchFailed(LaunchFailureReason.TAKEN, str(taken))
        try:
            pod = self._provider.create(replace(candidate.apply_to(order.spec), name=name))
        except ProviderError as refused:
            return self._refused(order, candidate, name, refused)
        return self._accept(order, candidate, name, pod)

    def _refused(self, order: LaunchRequest, candidate: Candidate, name: str, refused: ProviderError) -> _Step:
        said = str(refused)
        if refused.remedy is RecoveryAction.CHECK_BY_NAME and not (
            isinstance(refused, UnreachableError) and not refused.sent
        ):
            return self._find_after_unclear_create(order, candidate, name, said)
        self._log.advance(name, expect={IntentState.PENDING}, to=IntentState.FAILED, note=said)
        if isinstance(refused, RateLimitedError):
            self._sleep(refused.wait_seconds)
            return _RetryCandidate(said)
        match refused.remedy:
            case RecoveryAction.NEXT_CANDIDATE:
                self._cooldowns.record_refusal(candidate)
                return _NextCandidate(said, is_capacity_error=True)
            case RecoveryAction.SKIP_CANDIDATE:
                self._cooldowns.record_refusal(candidate)
                return _NextCandidate(said)
            case RecoveryAction.CHECK_BY_NAME:
                self._sleep(self._patience.poll_seconds)
                return _RetryCandidate(said)
            case RecoveryAction.STOP | RecoveryAction.REFRESH:
                return LaunchFailed(LaunchFailureReason.INVALID, said, error=refused)
        return LaunchFailed(LaunchFailureReason.STOPPED, said, error=refused)

    def _find_after_unclear_create(
        self, order: LaunchRequest, candidate: Candidate, name: str, said: str
    ) -> _Step:
        """The create may or may not have happened: nothing else is sent until the provider has said which."""
        found = self._find(name, self._patience.visibility_timeout_seconds)
        if isinstance(found, Known):
            return self._accept(order, candidate, name, found.value[0])
        self._log.advance(name, expect={IntentState.PENDING}, to=IntentState.UNCERTAIN, note=said)
        if isinstance(found, Unknown):
            return LaunchFailed(LaunchFailureReason.UNCLEAR, f"{said}; then {found.error}")
        return _RetryCandidate(said)

    def _find(self, name: str, visibility_timeout_seconds: float) -> Known[tuple[Pod, ...]] | Absent | Unknown:
        """Absent only when each look within `visibility_timeout_seconds` said so: new pods show up with a lag."""
        start = self._clock.monotonic()
        while True:
            read = self._provider.find_by_name(name)
            waited = self._clock.monotonic() - start
            if isinstance(read, Known):
                return read
            if waited >= (
                self._patience.lookup_timeout_seconds if isinstance(read, Unknown) else visibility_timeout_seconds
            ):
                return read
            self._sleep(self._patience.poll_seconds)

    def _accept(self, order: LaunchRequest, candidate: Candidate | None, name: str, pod: Pod) -> _Step:
        """Make the pod the order's one pod, or get rid of it."""
        if not self._log.advance(name, expect=PENDING, to=IntentState.CREATED, pod_id=pod.id):
            return self._lost_race(order, name, pod)
        price, ceiling = pod.cost_per_hour, order.price_ceiling
        if price is not None and ceiling is not None and price > ceiling:
            self.retire_and_terminate(name, pod.id)
            if candidate is not None:
                self._cooldowns.record_refusal(candidate)
            return _NextCandidate(
                f"pod {pod.id} costs ${price:.2f}/h, over the ceiling of ${ceiling:.2f}/h; terminated"
            )
        if candidate is not None:
            self._cooldowns.record_success(candidate)
        return Launched(pod, name, candidate)

    def _lost_race(self, order: LaunchRequest, name: str, pod: Pod) -> Launched | LaunchFailed:
        intent = self._log.named({name}).get(name)
        if intent is not None and intent.state is IntentState.CREATED:
            if intent.pod_id == pod.id:  # another launcher of this order found our pod before our reply came
                return Launched(pod, name)
            self._terminate(pod.id)  # a second pod of the same name; the intent's own one stays
        else:
            self.retire_and_terminate(name, pod.id)
        return LaunchFailed(
            LaunchFailureReason.TAKEN, f"order {order.id} has another pod by now; pod {pod.id} is terminated"
        )

    def retire_and_terminate(self, name: str, pod_id: str) -> None:
        """Retire the intent first: should the terminate get lost, sweeping repeats it until the pod is gone."""
        self._log.advance(name, expect=NOT_RETIRED, to=IntentState.RETIRED, note=f"dispose of {pod_id}")
        self._terminate(pod_id)

    def retire(self, order_id: str) -> None:
        """Give up an order: its pod is terminated now or, if that gets lost, by a sweep."""
        for intent in self._log.of_order(order_id):
            self._log.advance(intent.name, expect=NOT_RETIRED, to=IntentState.RETIRED, note="order given up")
            if intent.pod_id is not None:
                self._terminate(intent.pod_id)

    def _terminate(self, pod_id: str) -> None:
        try:
            self._provider.terminate(pod_id)
        except ProviderError:
            pass  # the sweep's job now; PodNotFoundError proves nothing this early either

    def _resume_earlier_launch(
        self, order: LaunchRequest, intents: Sequence[PodIntent]
    ) -> Launched | LaunchFailed | None:
        """What is left of earlier launches of this order: a pod to take over, a doubt to wait out, or nothing."""
        for intent in intents:
            if intent.state is IntentState.CREATED and (kept := self._existing_pod(intent)) is not None:
                return kept
        for intent in reversed(intents):
            if intent.state in PENDING and (taken := self._taken_over(order, intent)) is not None:
                return taken
        return None

    def _existing_pod(self, intent: PodIntent) -> Launched | LaunchFailed | None:
        assert intent.pod_id is not None, "a CREATED intent names its pod"
        start = self._clock.monotonic()
        while True:
            read = self._provider.get(intent.pod_id)
            waited = self._clock.monotonic() - start
            if isinstance(read, Known) and not read.value.status.is_gone:
                return Launched(read.value, intent.name)
            if isinstance(read, Unknown) and waited >= self._patience.lookup_timeout_seconds:
                return LaunchFailed(LaunchFailureReason.UNCLEAR, str(read.error))
            # One "not found" is no proof; a pod is given up when the provider keeps saying so.
            if isinstance(read, Known) or (
                isinstance(read, Absent) and waited >= self._patience.visibility_timeout_seconds
            ):
                self._log.advance(intent.name, expect={IntentState.CREATED}, to=IntentState.RETIRED, note="gone")
                return None
            self._sleep(self._patience.poll_seconds)

    def _taken_over(self, order: LaunchRequest, intent: PodIntent) -> Launched | LaunchFailed | None:
        is_open = intent.state is IntentState.PENDING
        found = self._find(intent.name, self._patience.visibility_timeout_seconds if is_open else 0.0)
        if isinstance(found, Unknown):
            return LaunchFailed(LaunchFailureReason.UNCLEAR, str(found.error))
        if isinstance(found, Absent):
            self._log.advance(
                intent.name, expect={IntentState.PENDING}, to=IntentState.UNCERTAIN, note="not found"
            )
            return None
        step = self._accept(order, None, intent.name, found.value[0])
        return step if isinstance(step, Launched | LaunchFailed) else None


def _name(prefix: str, suffix: str) -> str:
    return f"{prefix[: MAX_NAME_LENGTH - SUFFIX_LENGTH - 1]}-{suffix[-SUFFIX_LENGTH:].lower()}"
