"""Virtual time, an intent log in a dict, and a cloud in memory that loses, delays and doubles requests.

The cloud obeys the provider port; every fault it makes is drawn from a seeded generator, so that a failing
schedule can be run again by its number.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from pod_worker.core.clock import ManualClock
from pod_worker.core.pod_intent import INTENT_TRANSITIONS, IntentConflictError, IntentState, PodIntent
from pod_worker.pods.catalogue import BillingRecord, Catalogue, LogLine, Volume
from pod_worker.pods.errors import (
    ForbiddenError,
    InsufficientBalanceError,
    InvalidRequestError,
    NoCapacityError,
    PodNotFoundError,
    ProviderError,
    RateLimitedError,
    ServerError,
    UnreachableError,
    UnsupportedError,
)
from pod_worker.pods.pod import Pod, PodSpec, PodStatus
from pod_worker.pods.provider import Absent, Known, ListResult, ReadResult, Unknown
from pod_worker.pods.read_results import all_named


class Died(BaseException):
    """The launching process was killed at this call."""


class DictLog:
    """The intent log's promises, as plainly as they can be written."""

    def __init__(self, before_call: Callable[[], None] = lambda: None) -> None:
        self.intents: dict[str, PodIntent] = {}
        self.before_call = before_call

    def record(self, intent: PodIntent) -> None:
        self.before_call()
        taken = any((i.order_id, i.attempt) == (intent.order_id, intent.attempt) for i in self.intents.values())
        if taken or intent.name in self.intents:
            raise IntentConflictError(intent.order_id, intent.attempt)
        self.intents[intent.name] = intent

    def advance(
        self,
        name: str,
        *,
        expect: Collection[IntentState],
        to: IntentState,
        pod_id: str | None = None,
        note: str = "",
    ) -> bool:
        self.before_call()
        intent = self.intents.get(name)
        if intent is None or intent.state not in expect or to not in INTENT_TRANSITIONS[intent.state]:
            return False
        if to is IntentState.CREATED and any(
            other.order_id == intent.order_id and other.state is to for other in self.intents.values()
        ):
            return False
        self.intents[name] = replace(intent, state=to, pod_id=pod_id or intent.pod_id, note=note)
        return True

    def of_order(self, order_id: str) -> Sequence[PodIntent]:
        self.before_call()
        return sorted((i for i in self.intents.values() if i.order_id == order_id), key=lambda i: i.attempt)

    def named(self, names: Collection[str]) -> Mapping[str, PodIntent]:
        return {name: self.intents[name] for name in names if name in self.intents}

    def of_pod(self, pod_id: str) -> PodIntent | None:
        return next((i for i in self.intents.values() if i.pod_id == pod_id), None)


@dataclass
class Weather:
    """Chances per call, and bounds in virtual seconds."""

    lost_request: float = 0.0
    lost_reply: float = 0.0
    server_error_done: float = 0.0
    server_error_not_done: float = 0.0
    delayed: float = 0.0
    longest_delay: float = 30.0
    doubled: float = 0.0
    refused: float = 0.0
    rate_limited: float = 0.0
    unreadable: float = 0.0
    blackout_from: float = float("inf")
    blackout_seconds: float = 0.0
    longest_lag: float = 0.0
    lost_terminate: float = 0.0
    vanish: float = 0.0


REFUSALS: tuple[Callable[[], ProviderError], ...] = (
    lambda: NoCapacityError("no instances"),
    lambda: NoCapacityError("no instances"),
    lambda: NoCapacityError("no instances"),
    lambda: ForbiddenError("not here"),
    lambda: InvalidRequestError("bad body"),
    lambda: InsufficientBalanceError("no credit"),
)


@dataclass
class CloudPod:
    pod: Pod
    visible_at: float
    gone_at: float = float("inf")
    """When reads stop showing it: a terminated pod lingers in lists for a moment."""


@dataclass
class ChaoticCloud:
    clock: ManualClock
    rng: random.Random
    weather: Weather
    before_call: Callable[[], None] = lambda: None
    pods: dict[str, CloudPod] = field(default_factory=dict)
    due: list[tuple[float, int, PodSpec]] = field(default_factory=list)
    creates_sent: int = 0
    calls: int = 0
    api: str = "memory"
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def create(self, spec: PodSpec) -> Pod:
        self._step()
        self.creates_sent += 1
        w, roll = self.weather, self.rng.random
        if roll() < w.rate_limited:
            raise RateLimitedError("slow down", wait_seconds=self.rng.uniform(1, 20))
        if roll() < w.refused:
            raise self.rng.choice(REFUSALS)()
        if roll() < w.lost_request:
            raise UnreachableError("connection lost", sent=self.rng.random() < 0.7)
        if roll() < w.server_error_not_done:
            raise ServerError("500", status=500)
        if roll() < w.doubled:
            self._later(spec)
        if roll() < w.delayed:
            self._later(spec)
            self.clock.advance(self.rng.uniform(0, 5))
            raise UnreachableError("timed out", sent=True)
        pod = self._make(spec)
        if roll() < w.lost_reply:
            raise UnreachableError("reply lost", sent=True)
        if roll() < w.server_error_done:
            raise ServerError("500 after the fact", status=500)
        return pod

    def list(self) -> ListResult[Pod]:
        self._step()
        if self._is_dark():
            return Unknown(ServerError("503", status=503))
        return Known(tuple(p.pod for p in self.pods.values() if self._is_shown(p)))

    def find_by_name(self, name: str) -> ReadResult[tuple[Pod, ...]]:
        return all_named(name, self.list())

    def get(self, pod_id: str) -> ReadResult[Pod]:
        self._step()
        if self._is_dark():
            return Unknown(ServerError("503", status=503))
        found = self.pods.get(pod_id)
        return Known(found.pod) if found is not None and self._is_shown(found) else Absent()

    def terminate(self, pod_id: str) -> None:
        self._step()
        if self.rng.random() < self.weather.lost_terminate:
            raise UnreachableError("lost", sent=False)
        found = self.pods.get(pod_id)
        if found is None or not self._is_shown(found):
            raise PodNotFoundError("no such pod")
        self._end(found)
        if self.rng.random() < self.weather.lost_terminate:
            raise ServerError("500 after the fact")

    def vanish(self, pod_id: str) -> None:
        self._end(self.pods[pod_id])

    def living(self) -> tuple[Pod, ...]:
        """The truth, which no client sees."""
        return tuple(p.pod for p in self.pods.values() if p.gone_at == float("inf"))

    def settle(self) -> None:
        """Fair weather from here on; everything under way arrives."""
        self.weather = Weather()
        self.clock.advance(3600.0)
        self._step()

    def _step(self) -> None:
        self.before_call()
        self.calls += 1
        now = self.clock.monotonic()
        while self.due and self.due[0][0] <= now:
            self._make(heapq.heappop(self.due)[2])

    def _later(self, spec: PodSpec) -> None:
        at = self.clock.monotonic() + self.rng.uniform(0, self.weather.longest_delay)
        heapq.heappush(self.due, (at, next(self._numbers), spec))

    def _make(self, spec: PodSpec) -> Pod:
        pod_id = f"pod-{next(self._numbers)}"
        pod = Pod(pod_id, spec.name, PodStatus.PROVISIONING, "PROVISIONING", gpu_id=spec.gpu_id, cost_per_hour=0.5)
        self.pods[pod_id] = CloudPod(pod, self.clock.monotonic() + self.rng.uniform(0, self.weather.longest_lag))
        return pod

    def _end(self, found: CloudPod) -> None:
        if found.gone_at == float("inf"):
            found.gone_at = self.clock.monotonic() + self.rng.uniform(0, self.weather.longest_lag)

    def _is_shown(self, p: CloudPod) -> bool:
        return p.visible_at <= self.clock.monotonic() < p.gone_at

    def _is_dark(self) -> bool:
        since = self.clock.monotonic() - self.weather.blackout_from
        return 0 <= since < self.weather.blackout_seconds or self.rng.random() < self.weather.unreadable

    def start(self, pod_id: str) -> None: ...

    def stop(self, pod_id: str) -> None: ...

    def logs(
        self, pod_id: str, *, tail: int = 100, since: str | None = None, follow: bool = False
    ) -> Iterator[LogLine]:
        raise UnsupportedError("no logs")

    def catalogue(self) -> Known[Catalogue] | Unknown:
        return Unknown(UnsupportedError("no catalogue"))

    def volumes(self) -> ListResult[Volume]:
        return Unknown(UnsupportedError("no volumes"))

    def billing(self, *, start: datetime, end: datetime, pod_id: str | None = None) -> ListResult[BillingRecord]:
        return Unknown(UnsupportedError("no billing"))

    def close(self) -> None: ...
