"""What the fake cloud offers: GPUs, CPUs, data centers, public templates.

Read once from `catalogue.yaml` beside this module, or from a file of the same form. `inventory.py` counts what
is free.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from pathlib import Path

import msgspec

from pod_worker.fake_runpod.billing.money import NANO

GpuRow = tuple[str, str, int, str | None, Decimal | None, Decimal | None, int, int]
DataCenterRow = tuple[str, str, str, str, bool, list[str]]
CpuRow = tuple[str, str, str, int, Decimal]
TemplateRow = tuple[str, str, str, str]


class CatalogueFile(msgspec.Struct, forbid_unknown_fields=True):
    gpus: list[GpuRow]
    data_centers: list[DataCenterRow]
    cpus: list[CpuRow]
    cuda_versions: list[str]
    templates: list[TemplateRow]
    gpus_per_data_center: int


@dataclass(frozen=True, slots=True)
class GpuType:
    """Prices are nano-dollars per GPU-hour; None = this cloud does not offer the type."""

    id: str
    name: str
    memory_gb: int
    pool: str | None
    price_nano: dict[str, int]
    max_count: dict[str, int]

    @property
    def manufacturer(self) -> str:
        return "AMD" if self.id.startswith("AMD") else "NVIDIA"


@dataclass(frozen=True, slots=True)
class CpuFlavor:
    id: str
    name: str
    group: str
    gb_per_vcpu: int
    price_nano_per_vcpu: int


@dataclass(frozen=True, slots=True)
class DataCenter:
    id: str
    name: str
    location: str
    region: str
    global_network: bool
    volume_types: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PublicTemplate:
    id: str
    name: str
    image: str
    category: str


class Catalogue:
    def __init__(self, source: CatalogueFile) -> None:
        self.gpus = {row[0]: _gpu(row) for row in source.gpus}
        self.cpus = {i: CpuFlavor(i, n, g, gb, int(usd * NANO)) for i, n, g, gb, usd in source.cpus}
        self.data_centers = {row[0]: DataCenter(*row[:5], tuple(row[5])) for row in source.data_centers}
        self.cuda_versions = tuple(source.cuda_versions)
        self.templates = tuple(PublicTemplate(*row) for row in source.templates)
        self.gpus_per_data_center = source.gpus_per_data_center

    @cached_property
    def data_center_ids(self) -> tuple[str, ...]:
        return tuple(self.data_centers)


def load_catalogue(path: Path | None = None) -> Catalogue:
    """The catalogue in `path`, or the bundled one.

    Raises msgspec.ValidationError that names the invalid row.
    """
    text = (path or Path(__file__).with_name("catalogue.yaml")).read_bytes()
    return Catalogue(msgspec.yaml.decode(text, type=CatalogueFile, strict=False))


def _gpu(row: GpuRow) -> GpuType:
    gpu_id, name, memory, pool, secure, community, max_secure, max_community = row
    prices = {"SECURE": secure, "COMMUNITY": community}
    return GpuType(
        gpu_id,
        name,
        memory,
        pool,
        {cloud: int(usd * NANO) for cloud, usd in prices.items() if usd is not None},
        {"SECURE": max_secure, "COMMUNITY": max_community},
    )
