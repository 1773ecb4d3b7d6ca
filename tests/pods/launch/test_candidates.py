"""The order of candidates, the price ceiling, and what is learned from refusals."""

from __future__ import annotations

from dataclasses import replace

from pod_worker.core.clock import ManualClock
from pod_worker.pods.catalogue import Catalogue, GpuOffer, StockLevel, Volume
from pod_worker.pods.launch.candidates import Candidate, Cooldowns, PlacementPreferences, rank_candidates
from pod_worker.pods.pod import Cloud, PodSpec

BOTH = (Cloud.SECURE, Cloud.COMMUNITY)


def offer(gpu: str, secure: float, stock: StockLevel = StockLevel.HIGH, **by_center: StockLevel) -> GpuOffer:
    centers = {name.replace("_", "-"): level for name, level in by_center.items()}
    return GpuOffer(
        id=gpu,
        name=gpu.lower(),
        memory_gb=24,
        price_per_hour={Cloud.SECURE: secure, Cloud.COMMUNITY: secure / 2},
        max_count={Cloud.SECURE: 8, Cloud.COMMUNITY: 2},
        stock={Cloud.SECURE: stock, Cloud.COMMUNITY: StockLevel.HIGH},
        stock_by_data_center=centers,
    )


def words(found: tuple[Candidate, ...]) -> list[tuple[str, str, str | None]]:
    return [(c.gpu_id, c.cloud.value, c.data_center_id) for c in found]


def test_the_wished_order_with_the_unpinned_request_last() -> None:
    preferences = PlacementPreferences(("A", "B"), data_centers=("EU-1", "US-1"))
    assert words(rank_candidates(preferences, None)) == [
        ("A", "SECURE", "EU-1"),
        ("A", "SECURE", "US-1"),
        ("A", "SECURE", None),
        ("B", "SECURE", "EU-1"),
        ("B", "SECURE", "US-1"),
        ("B", "SECURE", None),
    ]


def test_places_known_to_be_empty_come_last_but_stay() -> None:
    catalogue = Catalogue((offer("A", 0.5, EU_1=StockLevel.NONE, US_1=StockLevel.LOW), offer("B", 0.5)))
    preferences = PlacementPreferences(("A", "B"), data_centers=("EU-1", "US-1"), allow_any_data_center=False)
    assert words(rank_candidates(preferences, catalogue))[-1] == ("A", "SECURE", "EU-1")
    assert len(rank_candidates(preferences, catalogue)) == 4


def test_a_volume_fixes_cloud_and_data_center() -> None:
    preferences = PlacementPreferences(
        ("A",), clouds=BOTH, data_centers=("US-1",), volumes=(Volume("v1", "data", 100, "EU-1"),)
    )
    (only,) = rank_candidates(preferences, None)
    assert (only.cloud, only.data_center_id, only.volume_id) == (Cloud.SECURE, "EU-1", "v1")


def test_the_ceiling_counts_all_gpus_of_the_pod() -> None:
    catalogue = Catalogue((offer("A", 0.5),))
    cheap = rank_candidates(PlacementPreferences(("A",), gpu_count=2, clouds=BOTH, price_ceiling=0.6), catalogue)
    assert words(cheap) == [("A", "COMMUNITY", None)]
    assert cheap[0].price_per_hour == 0.5


def test_more_gpus_than_one_machine_has_is_no_candidate() -> None:
    catalogue = Catalogue((offer("A", 0.5),))
    assert words(rank_candidates(PlacementPreferences(("A",), gpu_count=4, clouds=BOTH), catalogue)) == [
        ("A", "SECURE", None)
    ]


def test_a_gpu_is_found_by_id_then_by_name_in_any_case() -> None:
    catalogue = Catalogue((offer("NVIDIA RTX A4500", 0.3), offer("NVIDIA  RTX A4500", 0.3)))
    found = catalogue.gpu("NVIDIA  RTX A4500")
    assert found is not None
    assert found.id == "NVIDIA  RTX A4500", "the twin with two spaces is another GPU"
    by_name = catalogue.gpu("Nvidia RTX a4500")
    assert by_name is not None
    assert by_name.id == "NVIDIA RTX A4500"
    assert catalogue.gpu("RTX 9999") is None


def test_a_candidate_places_a_spec() -> None:
    placed = Candidate("B", 2, Cloud.SECURE, "EU-1", "v1").apply_to(PodSpec("n", "i", "A", env={"X": "1"}))
    assert (placed.gpu_id, placed.gpu_count, placed.data_center_id, placed.volume_id) == ("B", 2, "EU-1", "v1")
    assert placed.env == {"X": "1"}


def test_cool_downs_double_up_to_the_longest_and_end() -> None:
    clock = ManualClock()
    memory = Cooldowns(clock, first_seconds=60.0, longest_seconds=200.0)
    here = Candidate("A", data_center_id="EU-1")
    lefts = []
    for _ in range(4):
        memory.record_refusal(here)
        lefts.append(memory.seconds_left(here))
        clock.advance(lefts[-1])
    assert lefts == [60.0, 120.0, 200.0, 200.0]
    assert memory.seconds_left(here) == 0.0
    memory.record_success(here)
    memory.record_refusal(here)
    assert memory.seconds_left(here) == 60.0


def test_a_refusal_without_a_data_center_covers_all_of_them_but_not_the_other_way_round() -> None:
    memory = Cooldowns(ManualClock())
    here = Candidate("A", data_center_id="EU-1")
    memory.record_refusal(here)
    assert memory.seconds_left(replace(here, data_center_id=None)) == 0.0
    memory.record_refusal(Candidate("B"))
    assert memory.seconds_left(Candidate("B", data_center_id="EU-1")) > 0
    assert memory.seconds_left(Candidate("B", cloud=Cloud.COMMUNITY)) == 0.0
