"""Candidate placements of a pod in the order to try, and their cool-downs.

Stock figures sort the list but remove nothing: they are advisory, and an unpinned request may succeed where a
pinned data center fails. The price ceiling removes candidates. Nothing here uses the network.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from pod_worker.core.clock import Clock
from pod_worker.pods.catalogue import Catalogue, GpuOffer, StockLevel, Volume
from pod_worker.pods.pod import Cloud, PodSpec


@dataclass(frozen=True, slots=True)
class Candidate:
    gpu_id: str
    gpu_count: int = 1
    cloud: Cloud = Cloud.SECURE
    data_center_id: str | None = None
    volume_id: str | None = None
    price_per_hour: float | None = None
    """USD for the whole pod by list price; None where the catalogue does not say."""

    def __str__(self) -> str:
        where = self.data_center_id or "any data center"
        volume = f", volume {self.volume_id}" if self.volume_id else ""
        price = f" at ${self.price_per_hour:.2f}/h" if self.price_per_hour is not None else ""
        return f"{self.gpu_count} x {self.gpu_id} in {self.cloud} / {where}{volume}{price}"

    def apply_to(self, spec: PodSpec) -> PodSpec:
        return replace(
            spec,
            gpu_id=self.gpu_id,
            gpu_count=self.gpu_count,
            cloud=self.cloud,
            data_center_id=self.data_center_id,
            volume_id=self.volume_id,
        )


@dataclass(frozen=True, slots=True)
class PlacementPreferences:
    """Acceptable placements, best first.

    One of `volumes` must be mounted; it fixes cloud and data center.
    """

    gpus: tuple[str, ...]
    gpu_count: int = 1
    clouds: tuple[Cloud, ...] = (Cloud.SECURE,)
    data_centers: tuple[str, ...] = ()
    allow_any_data_center: bool = True
    """After the named data centers, also try without naming one."""
    volumes: tuple[Volume, ...] = ()
    price_ceiling: float | None = None
    """USD per hour for the whole pod."""


def rank_candidates(preferences: PlacementPreferences, catalogue: Catalogue | None) -> tuple[Candidate, ...]:
    """All placements in order of preference.

    Placements without stock come last; those over the price ceiling are removed. Without a catalogue none is
    removed; the ceiling is then enforced on the created pod's price.
    """
    offers = {offer.id: offer for offer in catalogue.gpus} if catalogue else {}
    found = [
        (_is_empty(option, offers.get(option.gpu_id)), option)
        for option in _placements(preferences, offers)
        if _is_affordable(option, preferences.price_ceiling) and _fits(option, offers.get(option.gpu_id))
    ]
    return tuple(
        option for _, option in sorted(found, key=lambda pair: pair[0])
    )  # stable: keeps the order of preference


def _placements(preferences: PlacementPreferences, offers: dict[str, GpuOffer]) -> Iterator[Candidate]:
    for gpu in preferences.gpus:
        for cloud, center, volume in _places(preferences):
            unit = offers[gpu].price_per_hour.get(cloud) if gpu in offers else None
            price = None if unit is None else unit * preferences.gpu_count
            yield Candidate(gpu, preferences.gpu_count, cloud, center, volume, price)


def _places(preferences: PlacementPreferences) -> Iterator[tuple[Cloud, str | None, str | None]]:
    if preferences.volumes:
        yield from ((Cloud.SECURE, volume.data_center_id, volume.id) for volume in preferences.volumes)
        return
    for cloud in preferences.clouds:
        yield from ((cloud, center, None) for center in preferences.data_centers)
        if preferences.allow_any_data_center or not preferences.data_centers:
            yield cloud, None, None


def _is_affordable(option: Candidate, ceiling: float | None) -> bool:
    return ceiling is None or option.price_per_hour is None or option.price_per_hour <= ceiling


def _fits(option: Candidate, offer: GpuOffer | None) -> bool:
    """Whether the cloud offers that many of the GPU on one machine."""
    return offer is None or option.gpu_count <= offer.max_count.get(option.cloud, 0)


def _is_empty(option: Candidate, offer: GpuOffer | None) -> bool:
    if offer is None:
        return False
    if option.data_center_id and option.cloud is Cloud.SECURE and offer.stock_by_data_center:
        return offer.stock_by_data_center.get(option.data_center_id, StockLevel.NONE) is StockLevel.NONE
    return offer.stock.get(option.cloud) is StockLevel.NONE


class Cooldowns:
    """Cool-down per placement after a failure: 60 s, doubled up to 30 min.

    A failure of the unpinned request also covers the pinned ones of the same GPU and cloud.
    """

    def __init__(self, clock: Clock, *, first_seconds: float = 60.0, longest_seconds: float = 1800.0) -> None:
        self._clock = clock
        self._first = first_seconds
        self._longest = longest_seconds
        self._until: dict[tuple[str, int, Cloud, str | None], tuple[float, float]] = {}

    def record_refusal(self, candidate: Candidate) -> None:
        key = _place(candidate)
        _, last = self._until.get(key, (0.0, self._first / 2))
        pause = min(self._longest, last * 2)
        self._until[key] = (self._clock.monotonic() + pause, pause)

    def record_success(self, candidate: Candidate) -> None:
        self._until.pop(_place(candidate), None)

    def seconds_left(self, candidate: Candidate) -> float:
        """0 when the candidate may be tried."""
        now = self._clock.monotonic()
        keys = {_place(candidate), _place(replace(candidate, data_center_id=None))}
        return max((self._until[key][0] - now for key in keys if key in self._until), default=0.0)


def _place(candidate: Candidate) -> tuple[str, int, Cloud, str | None]:
    return candidate.gpu_id, candidate.gpu_count, candidate.cloud, candidate.data_center_id
