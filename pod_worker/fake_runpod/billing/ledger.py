"""Charges per billed item, in integers without rounding drift.

Rates are piecewise constant on the virtual clock. A `UsageMeter` gives the pico-dollars charged up to an
instant. A bill is the difference of two such sums, so records add up to their totals exactly for any bucket size
and grouping. Rates are nano-dollars per 720 hours (a RunPod month), which makes GB-months and GPU-hours both
whole numbers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise

from pod_worker.fake_runpod import timestamps
from pod_worker.fake_runpod.billing.money import PICO_PER_NANO
from pod_worker.fake_runpod.timestamps import DAY, HOUR

MONTH_HOURS = 720
PER_MONTH = MONTH_HOURS * HOUR
CONTAINER_GB_MONTH = 100_000_000
VOLUME_GB_MONTH = {True: 100_000_000, False: 200_000_000}
"""A pod's volume disk costs double while the pod is stopped."""
NETWORK_GB_MONTH = {"STANDARD": 70_000_000, "HIGH_PERFORMANCE": 140_000_000}
BUCKETS = ("hour", "day", "week", "month", "year")


@dataclass(frozen=True, slots=True)
class Rates:
    """Nano-dollars per 720 hours: compute (GPU or CPU) and disk.

    The result also says whether the time counts as billed.
    """

    compute: int = 0
    disk: int = 0
    on: bool = False


@dataclass(frozen=True, slots=True)
class Amounts:
    """Pico-dollars and milliseconds."""

    compute: int = 0
    disk: int = 0
    millis: int = 0

    def __add__(self, other: Amounts) -> Amounts:
        return Amounts(self.compute + other.compute, self.disk + other.disk, self.millis + other.millis)

    def __sub__(self, other: Amounts) -> Amounts:
        return Amounts(self.compute - other.compute, self.disk - other.disk, self.millis - other.millis)

    @property
    def total(self) -> int:
        return self.compute + self.disk


ZERO = Amounts()
OFF = Rates()


@dataclass(slots=True)
class UsageMeter:
    """Break points of three step functions, and their exact integrals."""

    at: list[int] = field(default_factory=list)
    rates: list[Rates] = field(default_factory=list)
    sums: list[tuple[int, int, int]] = field(default_factory=list)

    def set(self, now: int, rates: Rates) -> None:
        """Charge `rates` from `now` on. Instants must not decrease."""
        if self.at and rates == self.rates[-1]:
            return
        self.sums.append(self._integrals(now))
        self.at.append(now)
        self.rates.append(rates)

    def usage_until(self, instant: int) -> Amounts:
        """All charges up to `instant`, rounded down to pico-dollars and milliseconds."""
        compute, disk, on = self._integrals(instant)
        return Amounts(compute * PICO_PER_NANO // PER_MONTH, disk * PICO_PER_NANO // PER_MONTH, on // 1_000_000)

    @property
    def current(self) -> Rates:
        return self.rates[-1] if self.rates else OFF

    def _integrals(self, instant: int) -> tuple[int, int, int]:
        i = bisect_right(self.at, instant) - 1
        if i < 0:
            return (0, 0, 0)
        span, rates, (compute, disk, on) = instant - self.at[i], self.rates[i], self.sums[i]
        return (compute + rates.compute * span, disk + rates.disk * span, on + span * rates.on)


@dataclass(slots=True)
class BilledItem:
    """One billed pod or volume.

    `group` is the GPU type id, a CPU flavor id or a volume tier.
    """

    id: str
    group: str
    is_cpu: bool
    disk_gb: int
    is_closed: bool = False
    usage: UsageMeter = field(default_factory=UsageMeter)


@dataclass(frozen=True, slots=True)
class Charge:
    start_ns: int
    end_ns: int
    item: BilledItem
    amounts: Amounts


@dataclass(slots=True)
class Archive:
    """Closed items of one group as pico-dollars per day, without break points.

    A day's charges are recorded at its start: buckets of a day or more stay exact, hour buckets do not."""

    item: BilledItem
    days: dict[int, Amounts] = field(default_factory=dict)

    def fold(self, usage: UsageMeter) -> None:
        for day in range(usage.at[0] // DAY, usage.at[-1] // DAY + 1):
            charged = usage.usage_until((day + 1) * DAY) - usage.usage_until(day * DAY)
            if charged != ZERO:
                self.days[day] = self.days.get(day, ZERO) + charged

    def usage_until(self, instant: int) -> Amounts:
        return sum((charged for day, charged in self.days.items() if day * DAY < instant), ZERO)


class Ledger:
    """All billed items of one kind (pods or network volumes).

    Beyond `keep` closed items the oldest is folded into the archive of its group: totals stay exact, memory
    bounded.
    """

    def __init__(self, keep: int = 5_000) -> None:
        self._keep = keep
        self._closed: deque[str] = deque()
        self._rate = OFF
        self.entries: dict[str, BilledItem] = {}
        self.archives: dict[str, Archive] = {}
        self.total = UsageMeter()
        """The account's running total. Its break points are dropped from time to time, because only the total is
        read.
        """

    def open(self, item: BilledItem, now: int, rates: Rates) -> None:
        self.entries[item.id] = item
        self.set_rates(item.id, now, rates)

    def set_rates(self, item_id: str, now: int, rates: Rates) -> None:
        usage, all_rates = self.entries[item_id].usage, self._rate
        compute = all_rates.compute + rates.compute - usage.current.compute
        disk = all_rates.disk + rates.disk - usage.current.disk
        usage.set(now, rates)
        self._rate = Rates(compute, disk)
        self.total.set(now, self._rate)
        if len(self.total.at) > 1024:
            self.total = UsageMeter(self.total.at[-1:], self.total.rates[-1:], self.total.sums[-1:])

    def close(self, item_id: str, now: int) -> None:
        self.set_rates(item_id, now, OFF)
        self.entries[item_id].is_closed = True
        self._closed.append(item_id)
        if len(self._closed) > self._keep:
            self._fold(self.entries.pop(self._closed.popleft()))

    @property
    def rate(self) -> int:
        """Nano-dollars per 720 hours that all items cost now."""
        return self._rate.compute + self._rate.disk

    def restore(self, entries: list[BilledItem], archives: list[Archive], total: UsageMeter) -> None:
        self.entries = {item.id: item for item in entries}
        self.archives = {archive.item.id: archive for archive in archives}
        self.total = total
        self._rate = Rates(total.current.compute, total.current.disk)
        self._closed = deque(item.id for item in entries if item.is_closed)

    def charges(
        self, start: int, end: int, bucket: str, until: int, item_id: str | None = None
    ) -> Iterator[Charge]:
        """Charges per bucket and item within [start, end) and not after `until`.

        Zero charges are left out.

        `start` and `end` are widened to bucket edges.
        """
        sources: list[tuple[BilledItem, UsageMeter | Archive]] = [
            (item, item.usage) for item in self.entries.values()
        ]
        sources += [(archive.item, archive) for archive in self.archives.values()]
        if item_id is not None:
            sources = [(item, book) for item, book in sources if item.id == item_id]
        edges = list(bucket_edges(start, end, bucket))
        for low, high in pairwise(edges):
            for item, book in sources:
                amounts = book.usage_until(min(high, until)) - book.usage_until(min(low, until))
                if amounts != ZERO:
                    yield Charge(low, high, item, amounts)

    def _fold(self, item: BilledItem) -> None:
        key = f"archived-{item.group}"
        empty = Archive(BilledItem(key, item.group, item.is_cpu, 0))
        self.archives.setdefault(key, empty).fold(item.usage)


def bucket_edges(start: int, end: int, bucket: str) -> Iterator[int]:
    edge = bucket_start(start, bucket)
    while edge < end:
        yield edge
        edge = bucket_next(edge, bucket)
    yield edge


def bucket_start(instant: int, bucket: str) -> int:
    """The start of the UTC hour, day, week (Monday), month or year of `instant`."""
    moment = timestamps.as_datetime(instant).replace(minute=0, second=0)
    if bucket != "hour":
        moment = moment.replace(hour=0)
    if bucket == "week":
        moment -= timedelta(days=moment.weekday())
    if bucket in ("month", "year"):
        moment = moment.replace(day=1)
    if bucket == "year":
        moment = moment.replace(month=1)
    return timestamps.from_datetime(moment)


def bucket_next(edge: int, bucket: str) -> int:
    if bucket in ("hour", "day", "week"):
        return edge + {"hour": HOUR, "day": DAY, "week": 7 * DAY}[bucket]
    moment = timestamps.as_datetime(edge)
    later: datetime = moment + timedelta(days=32 if bucket == "month" else 366)
    return bucket_start(timestamps.from_datetime(later), bucket)
