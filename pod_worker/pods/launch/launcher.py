"""Exactly one pod per launch request, over an API without idempotency keys.

An intent with a unique pod name is stored before each create. After an unclear outcome the pod is looked up by
that name, and no other create is sent until the provider has answered. A create that takes effect after the
lookup ended is terminated by `sweep.py`, because its intent is not CREATED. This module does not wait for a pod
to boot.
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
    """A request for one pod.

    The same `id` again, also after a crash, gives the same pod.
    """

    id: str
    spec: PodSpec
    """`name` is the prefix of the pod's name; the placement fields come from the candidates."""
    candidates: tuple[Candidate, ...]
    price_ceiling: float | None = None
    """USD per hour, checked against the price of the created pod."""


@dataclass(frozen=True, slots=True)
class LaunchTimeouts:
    visibility_timeout_seconds: float = 45.0
    """How long a pod may stay invisible after an unclear create before it counts as not created."""
    poll_seconds: float = 3.0
    lookup_timeout_seconds: float = 300.0
    """How long to retry a provider that cannot be read."""
    tries_per_candidate: int = 3


DEFAULT_TIMEOUTS = LaunchTimeouts()


class LaunchFailureReason(Enum):
    NO_CANDIDATE = "no candidate is left: all are cooling down or over the price ceiling"
    NO_CAPACITY = "no candidate has a machine"
    INVALID = "the request is wrong"
    STOPPED = "the account cannot launch anything now"
    UNCLEAR = "the provider cannot be read, so it is not known whether a pod exists"
    TAKEN = "another launcher is working on this launch request"


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
    """None where the pod comes from an earlier launch of the request."""
    failed_candidates: tuple[FailedCandidate, ...] = ()


@dataclass(frozen=True, slots=True)
class LaunchFailed:
    reason: LaunchFailureReason
    detail: str
    failed_candidates: tuple[FailedCandidate, ...] = ()
    error: ProviderError | None = None
    """The provider error that ended the launch, if any."""


@dataclass(frozen=True, slots=True)
class _RetryCandidate:
    """Try the same candidate again."""

    message: str


@dataclass(frozen=True, slots=True)
class _NextCandidate:
    """Try the next candidate."""

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
        timeouts: LaunchTimeouts = DEFAULT_TIMEOUTS,
    ) -> None:
        self._provider = provider
        self._log = log
        self._clock = clock
        self._sleep = sleep
        self._new_id = new_id
        self._cooldowns = cooldowns
        self._timeouts = timeouts

    def launch(self, request: LaunchRequest) -> Launched | LaunchFailed:
        """One live pod for the request, or the reason for having none.

        Raises only errors of the intent log.
        """
        if problems := problems_of(replace(request.spec, name=_name(request.spec.name, "x" * SUFFIX_LENGTH))):
            return LaunchFailed(LaunchFailureReason.INVALID, "; ".join(problems))
        intents = self._log.of_order(request.id)
        earlier = self._resume_earlier_launch(request, intents)
        return earlier if earlier is not None else self._launch_new(request, {intent.name for intent in intents})

    def _launch_new(self, request: LaunchRequest, handled_names: set[str]) -> Launched | LaunchFailed:
        """`handled_names`: intents that this launch has dealt with.

        Any other live intent stops it.
        """
        failed_candidates: list[FailedCandidate] = []
        had_capacity_error = False
        for candidate in request.candidates:
            for _ in range(self._timeouts.tries_per_candidate):
                if self._cooldowns.seconds_left(candidate) > 0:
                    break
                name = _name(request.spec.name, self._new_id())
                step = self._try(request, candidate, name, handled_names)
                handled_names.add(name)
                if isinstance(step, Launched | LaunchFailed):
                    return replace(step, failed_candidates=(*failed_candidates, *step.failed_candidates))
                failed_candidates.append(FailedCandidate(candidate, name, step.message))
                if isinstance(step, _NextCandidate):
                    had_capacity_error = had_capacity_error or step.is_capacity_error
                    break
        reason = LaunchFailureReason.NO_CAPACITY if had_capacity_error else LaunchFailureReason.NO_CANDIDATE
        detail = failed_candidates[-1].message if failed_candidates else reason.value
        return LaunchFailed(reason, detail, tuple(failed_candidates))

    def _try(self, request: LaunchRequest, candidate: Candidate, name: str, handled_names: set[str]) -> _Step:
        intents = self._log.of_order(request.id)
        if any(intent.state in LIVE and intent.name not in handled_names for intent in intents):
            return LaunchFailed(LaunchFailureReason.TAKEN, LaunchFailureReason.TAKEN.value)
        attempt = max((intent.attempt for intent in intents), default=0) + 1
        try:
            self._log.record(PodIntent(name, request.id, attempt, self._clock.now(), str(candidate)))
        except IntentConflictError as taken:
            return LaunchFailed(LaunchFailureReason.TAKEN, str(taken))
        try:
            pod = self._provider.create(replace(candidate.apply_to(request.spec), name=name))
        except ProviderError as error:
            return self._refused(request, candidate, name, error)
        return self._accept(request, candidate, name, pod)

    def _refused(self, request: LaunchRequest, candidate: Candidate, name: str, error: ProviderError) -> _Step:
        message = str(error)
        if error.remedy is RecoveryAction.CHECK_BY_NAME and not (
            isinstance(error, UnreachableError) and not error.sent
        ):
            return self._find_after_unclear_create(request, candidate, name, message)
        self._log.advance(name, expect={IntentState.PENDING}, to=IntentState.FAILED, note=message)
        if isinstance(error, RateLimitedError):
            self._sleep(error.wait_seconds)
            return _RetryCandidate(message)
        match error.remedy:
            case RecoveryAction.NEXT_CANDIDATE:
                self._cooldowns.record_refusal(candidate)
                return _NextCandidate(message, is_capacity_error=True)
            case RecoveryAction.SKIP_CANDIDATE:
                self._cooldowns.record_refusal(candidate)
                return _NextCandidate(message)
            case RecoveryAction.CHECK_BY_NAME:
                self._sleep(self._timeouts.poll_seconds)
                return _RetryCandidate(message)
            case RecoveryAction.STOP | RecoveryAction.REFRESH:
                return LaunchFailed(LaunchFailureReason.INVALID, message, error=error)
        return LaunchFailed(LaunchFailureReason.STOPPED, message, error=error)

    def _find_after_unclear_create(
        self, request: LaunchRequest, candidate: Candidate, name: str, message: str
    ) -> _Step:
        """Find out whether the create took effect.

        Until the provider answers, send nothing else.
        """
        found = self._find(name, self._timeouts.visibility_timeout_seconds)
        if isinstance(found, Known):
            return self._accept(request, candidate, name, found.value[0])
        self._log.advance(name, expect={IntentState.PENDING}, to=IntentState.UNCERTAIN, note=message)
        if isinstance(found, Unknown):
            return LaunchFailed(LaunchFailureReason.UNCLEAR, f"{message}; then {found.error}")
        return _RetryCandidate(message)

    def _find(self, name: str, visibility_timeout_seconds: float) -> Known[tuple[Pod, ...]] | Absent | Unknown:
        """Find the pod; Absent only after `visibility_timeout_seconds` of Absent reads.

        New pods appear with a lag.
        """
        start = self._clock.monotonic()
        while True:
            read = self._provider.find_by_name(name)
            waited = self._clock.monotonic() - start
            if isinstance(read, Known):
                return read
            if waited >= (
                self._timeouts.lookup_timeout_seconds if isinstance(read, Unknown) else visibility_timeout_seconds
            ):
                return read
            self._sleep(self._timeouts.poll_seconds)

    def _accept(self, request: LaunchRequest, candidate: Candidate | None, name: str, pod: Pod) -> _Step:
        """Make the pod the request's only pod, or terminate it."""
        if not self._log.advance(name, expect=PENDING, to=IntentState.CREATED, pod_id=pod.id):
            return self._lost_race(request, name, pod)
        price, ceiling = pod.cost_per_hour, request.price_ceiling
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

    def _lost_race(self, request: LaunchRequest, name: str, pod: Pod) -> Launched | LaunchFailed:
        intent = self._log.named({name}).get(name)
        if intent is not None and intent.state is IntentState.CREATED:
            if intent.pod_id == pod.id:  # another launcher of this request found the pod first
                return Launched(pod, name)
            self._terminate(pod.id)  # a second pod of the same name; the intent's pod stays
        else:
            self.retire_and_terminate(name, pod.id)
        return LaunchFailed(
            LaunchFailureReason.TAKEN, f"launch request {request.id} has another pod; pod {pod.id} is terminated"
        )

    def retire_and_terminate(self, name: str, pod_id: str) -> None:
        """Retire the intent, then terminate the pod; a sweep repeats a lost terminate."""
        self._log.advance(name, expect=NOT_RETIRED, to=IntentState.RETIRED, note=f"terminate {pod_id}")
        self._terminate(pod_id)

    def retire(self, order_id: str) -> None:
        """Give up a launch request: terminate its pod now or, if that is lost, by a sweep."""
        for intent in self._log.of_order(order_id):
            self._log.advance(intent.name, expect=NOT_RETIRED, to=IntentState.RETIRED, note="request given up")
            if intent.pod_id is not None:
                self._terminate(intent.pod_id)

    def _terminate(self, pod_id: str) -> None:
        try:
            self._provider.terminate(pod_id)
        except ProviderError:
            pass  # the next sweep repeats it; this early even PodNotFoundError is no proof

    def _resume_earlier_launch(
        self, request: LaunchRequest, intents: Sequence[PodIntent]
    ) -> Launched | LaunchFailed | None:
        """The result of earlier launches of this request: a pod, a failure, or None."""
        for intent in intents:
            if intent.state is IntentState.CREATED and (kept := self._existing_pod(intent)) is not None:
                return kept
        for intent in reversed(intents):
            if intent.state in PENDING and (taken := self._take_over(request, intent)) is not None:
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
            if isinstance(read, Unknown) and waited >= self._timeouts.lookup_timeout_seconds:
                return LaunchFailed(LaunchFailureReason.UNCLEAR, str(read.error))
            # One "not found" is no proof; the pod counts as gone after repeated ones.
            if isinstance(read, Known) or (
                isinstance(read, Absent) and waited >= self._timeouts.visibility_timeout_seconds
            ):
                self._log.advance(intent.name, expect={IntentState.CREATED}, to=IntentState.RETIRED, note="gone")
                return None
            self._sleep(self._timeouts.poll_seconds)

    def _take_over(self, request: LaunchRequest, intent: PodIntent) -> Launched | LaunchFailed | None:
        is_open = intent.state is IntentState.PENDING
        found = self._find(intent.name, self._timeouts.visibility_timeout_seconds if is_open else 0.0)
        if isinstance(found, Unknown):
            return LaunchFailed(LaunchFailureReason.UNCLEAR, str(found.error))
        if isinstance(found, Absent):
            self._log.advance(
                intent.name, expect={IntentState.PENDING}, to=IntentState.UNCERTAIN, note="not found"
            )
            return None
        step = self._accept(request, None, intent.name, found.value[0])
        return step if isinstance(step, Launched | LaunchFailed) else None


def _name(prefix: str, suffix: str) -> str:
    return f"{prefix[: MAX_NAME_LENGTH - SUFFIX_LENGTH - 1]}-{suffix[-SUFFIX_LENGTH:].lower()}"
