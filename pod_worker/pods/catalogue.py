"""The provider's offers: GPU types, data centers, volumes, billing records.

Stock is advisory: a create may fail with stock and succeed without. Prices are in USD.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from pod_worker.pods.pod import Cloud


class StockLevel(StrEnum):
    NONE = "NONE"
    LOW = "LOW"
    MEDIUM = "MEDIUM"
    HIGH = "HIGH"
    UNKNOWN = "UNKNOWN"


def stock_of(word: str) -> StockLevel:
    """Total.

    GraphQL writes High/Medium/Low, REST v2 upper case; an absent value is UNKNOWN.
    """
    try:
        return StockLevel(word.strip().upper())
    except ValueError:
        return StockLevel.UNKNOWN


@dataclass(frozen=True, slots=True)
class GpuOffer:
    """One GPU type.

    Its `id` is used unchanged: RunPod has ids that differ only by a space.
    """

    id: str
    name: str
    memory_gb: int
    price_per_hour: Mapping[Cloud, float] = field(default_factory=dict)
    """USD per hour for one GPU, only for clouds that offer it."""
    max_count: Mapping[Cloud, int] = field(default_factory=dict)
    stock: Mapping[Cloud, StockLevel] = field(default_factory=dict)
    stock_by_data_center: Mapping[str, StockLevel] = field(default_factory=dict)
    """Secure Cloud stock by data center id; a data center that is not listed does not offer this GPU."""


@dataclass(frozen=True, slots=True)
class DataCenter:
    id: str
    name: str = ""
    region: str = ""


@dataclass(frozen=True, slots=True)
class Catalogue:
    gpus: tuple[GpuOffer, ...]
    data_centers: tuple[DataCenter, ...] = ()

    def gpu(self, wanted: str) -> GpuOffer | None:
        """By exact id first, then by display name, then by either without regard to case."""
        for fold in (str, str.casefold):
            for offer in self.gpus:
                if fold(wanted) in (fold(offer.id), fold(offer.name)):
                    return offer
        return None


@dataclass(frozen=True, slots=True)
class Volume:
    id: str
    name: str
    size_gb: int
    data_center_id: str
    """A pod that mounts the volume must run here, in the Secure Cloud."""


@dataclass(frozen=True, slots=True)
class BillingRecord:
    """The cost of one pod in one time bucket. Amounts are decimals, so sums are exact."""

    pod_id: str
    start: datetime | None
    total_usd: Decimal
    gpu_usd: Decimal = Decimal(0)
    cpu_usd: Decimal = Decimal(0)
    disk_usd: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class LogLine:
    source: str
    line: str
    at: str
    """Timestamp as the provider wrote it; also the resume cursor."""
