"""One suite for every provider: each adapter, over HTTP, against the fake that also serves other people's clients.

What an API cannot do is part of the suite: it must say so (Unknown or Unsupported), never pretend.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from pod_worker.pods.catalogue import StockLevel
from pod_worker.pods.errors import (
    ApiRetiredError,
    InsufficientBalanceError,
    InvalidRequestError,
    NoCapacityError,
    PodNotFoundError,
    ProviderError,
    RateLimitedError,
    RequestRejectedError,
    ServerError,
    StateConflictError,
    UnauthorizedError,
    UnsupportedError,
)
from pod_worker.pods.launch.candidates import Candidate, Cooldowns
from pod_worker.pods.launch.launcher import Launched, Launcher, LaunchRequest
from pod_worker.pods.pod import Cloud as Tier
from pod_worker.pods.pod import Pod, PodSpec, PodStatus
from pod_worker.pods.provider import Absent, Known, PodProvider, Unknown
from tests.pods.cloud import CENTER, GPU, Cloud, until
from tests.pods.stepped import DictLog

SPEC = PodSpec("worker-1", "runpod/pytorch", GPU, env={"A": "1", "QUOTE": 'a"b\\c\n$x'})


@pytest.fixture(params=["v2", "v1", "graphql"])
def provider(request: pytest.FixtureRequest, cloud: Cloud) -> Iterator[PodProvider]:
    provider = cloud.provider(request.param)
    yield provider
    provider.close()


def pod_of(provider: PodProvider, pod_id: str) -> Pod:
    read = provider.get(pod_id)
    assert isinstance(read, Known), read
    return read.value


def test_a_pod_is_created_booted_and_terminated(provider: PodProvider, cloud: Cloud) -> None:
    pod = provider.create(SPEC)
    assert pod.id
    assert pod.name == "worker-1"
    assert not pod.status.is_gone
    assert pod.ssh is None
    cloud.step(60)
    up = pod_of(provider, pod.id)
    assert up.status is PodStatus.RUNNING
    assert up.ssh is not None
    assert up.ssh.port > 0
    assert up.cost_per_hour == 0.69
    assert up.gpu_count == 1
    provider.terminate(pod.id)
    until(cloud, lambda: provider.get(pod.id) == Absent())
    assert cloud.living() == []


def test_running_is_not_shown_before_the_pod_runs(provider: PodProvider, cloud: Cloud) -> None:
    """REST v1 and GraphQL say RUNNING while the image is still being pulled; the port does not."""
    pod = provider.create(SPEC)
    for _ in range(5):
        assert pod_of(provider, pod.id).status in (PodStatus.PROVISIONING, PodStatus.STARTING)
        cloud.step(1)
    cloud.step(60)
    assert pod_of(provider, pod.id).status is PodStatus.RUNNING


def test_env_arrives_unharmed(provider: PodProvider) -> None:
    pod = provider.create(SPEC)
    env = pod_of(provider, pod.id).env
    assert {name: env[name] for name in SPEC.env} == dict(SPEC.env)


def test_the_list_and_the_look_up_by_name(provider: PodProvider) -> None:
    assert provider.list() == Known(())
    assert provider.find_by_name("worker-1") == Absent()
    first, second = provider.create(SPEC), provider.create(SPEC)
    provider.create(replace(SPEC, name="worker-11"))
    listing, found = provider.list(), provider.find_by_name("worker-1")
    assert isinstance(listing, Known)
    assert len(listing.value) == 3
    assert isinstance(found, Known)
    assert {pod.id for pod in found.value} == {first.id, second.id}


def test_an_unknown_pod_is_absent_and_cannot_be_terminated(provider: PodProvider) -> None:
    assert provider.get("no-such-pod") == Absent()
    with pytest.raises(PodNotFoundError):
        provider.terminate("no-such-pod")
    with pytest.raises(PodNotFoundError):
        provider.start("no-such-pod")


def test_stop_and_start(provider: PodProvider, cloud: Cloud) -> None:
    pod = provider.create(SPEC)
    cloud.step(60)
    provider.stop(pod.id)
    until(cloud, lambda: pod_of(provider, pod.id).status is PodStatus.EXITED)
    assert pod_of(provider, pod.id).ssh is None, "the old address of a stopped pod leads nowhere"
    provider.start(pod.id)
    until(cloud, lambda: pod_of(provider, pod.id).ssh is not None)
    assert pod_of(provider, pod.id).status is PodStatus.RUNNING


def test_no_machine_is_a_capacity_error(provider: PodProvider, cloud: Cloud) -> None:
    cloud.fault("no_capacity", gpu=GPU)
    with pytest.raises(NoCapacityError):
        provider.create(SPEC)
    assert cloud.living() == []


def test_a_wrong_key_is_unauthorized_and_tells_nothing(cloud: Cloud, provider: PodProvider) -> None:
    wrong = Cloud(cloud.url, "rpa_wrong_key", cloud.clock).provider(provider.api)
    with pytest.raises(UnauthorizedError) as error:
        wrong.create(SPEC)
    assert "rpa_wrong_key" not in str(error.value)
    listing = wrong.list()
    assert isinstance(listing, Unknown)
    assert isinstance(listing.error, UnauthorizedError)
    wrong.close()


def test_an_unknown_gpu_is_refused_without_a_pod(provider: PodProvider, cloud: Cloud) -> None:
    with pytest.raises((InvalidRequestError, RequestRejectedError, NoCapacityError)):
        provider.create(replace(SPEC, gpu_id="NVIDIA RTX 9999"))
    assert cloud.living() == []


def test_no_credit_stops_everything(provider: PodProvider, cloud: Cloud) -> None:
    cloud.account(balance_usd=0.1)
    try:
        with pytest.raises(InsufficientBalanceError):
            provider.create(SPEC)
    finally:
        cloud.account(balance_usd=1e6)
    assert cloud.living() == []


def test_a_rate_limit_is_waited_out_also_for_a_create(provider: PodProvider, cloud: Cloud) -> None:
    cloud.fault("too_many_requests", times=2, retry_after=7)
    before = cloud.clock.monotonic()
    provider.create(SPEC)
    assert cloud.clock.monotonic() - before >= 14
    assert len(cloud.living()) == 1


def test_a_long_rate_limit_is_handed_on(provider: PodProvider, cloud: Cloud) -> None:
    cloud.fault("too_many_requests", retry_after=3600)
    with pytest.raises(RateLimitedError) as limited:
        provider.create(SPEC)
    assert limited.value.wait_seconds == 3600


def test_a_server_error_is_retried_for_reads_and_never_for_a_create(provider: PodProvider, cloud: Cloud) -> None:
    cloud.fault("http_error", status=503, times=2)
    assert provider.list() == Known(())
    cloud.fault("http_error", status=503, times=1)
    with pytest.raises(ServerError):
        provider.create(SPEC)
    assert cloud.living() == []


def test_a_proxys_html_is_an_unclear_outcome(provider: PodProvider, cloud: Cloud) -> None:
    cloud.fault("http_error", status=502, html=True, times=1)
    with pytest.raises(ServerError):
        provider.create(SPEC)


def test_created_then_500_is_found_by_name(provider: PodProvider, cloud: Cloud) -> None:
    cloud.fault("create_then_500", times=1)
    with pytest.raises(ServerError):
        provider.create(SPEC)
    found = provider.find_by_name(SPEC.name)
    assert isinstance(found, Known)
    assert [pod.id for pod in found.value] == cloud.living()


def test_the_launcher_gets_one_pod_out_of_a_bad_hour(provider: PodProvider, cloud: Cloud) -> None:
    """A shortage, a create that is answered with 500 after the fact, a pod that shows up late, a 429, a 503."""
    cloud.fault("no_capacity", gpu=GPU, data_center=CENTER)
    cloud.fault("create_then_500", times=1)
    cloud.fault("read_after_write_lag", seconds=20)
    cloud.fault("too_many_requests", times=1, retry_after=3)
    cloud.fault("http_error", status=503, method="GET", times=1)
    log, numbers = DictLog(), itertools.count()
    launcher = Launcher(
        provider,
        log,
        clock=cloud.clock,
        sleep=cloud.sleep,
        new_id=lambda: f"{next(numbers):010d}",
        cooldowns=Cooldowns(cloud.clock),
    )
    places = (Candidate(GPU, data_center_id=CENTER), Candidate(GPU))
    launched = launcher.launch(LaunchRequest("order", SPEC, places))
    assert isinstance(launched, Launched)
    assert cloud.living() == [launched.pod.id]
    assert [failed.candidate for failed in launched.failed_candidates] == [places[0]]
    assert launcher.launch(LaunchRequest("order", SPEC, places)).pod.id == launched.pod.id  # type: ignore[union-attr]
    launcher.retire("order")
    assert cloud.living() == []


def test_v1_and_v2_agree_on_the_bill(cloud: Cloud) -> None:
    first, second = cloud.provider("v1"), cloud.provider("v2")
    for count in (1, 2):
        pod = second.create(replace(SPEC, gpu_count=count, pod_volume_gb=20))
        cloud.step(3600 * count)
        second.terminate(pod.id)
    start = datetime.now(UTC) - timedelta(days=2)
    bills = [each.billing(start=start, end=start + timedelta(days=25)) for each in (first, second)]
    sums = [sum(record.total_usd for record in bill.value) for bill in bills if isinstance(bill, Known)]
    assert len(sums) == 2
    assert sums[0] == sums[1] > Decimal("3.4")
    first.close()
    second.close()


def test_a_new_pod_may_lag_behind(provider: PodProvider, cloud: Cloud) -> None:
    cloud.fault("read_after_write_lag", seconds=20)
    pod = provider.create(SPEC)
    assert provider.get(pod.id) == Absent()
    assert provider.find_by_name(SPEC.name) == Absent()
    with pytest.raises(PodNotFoundError):
        provider.terminate(pod.id)
    assert cloud.living() == [pod.id], "a 404 on terminate proves nothing"
    cloud.step(21)
    assert isinstance(provider.find_by_name(SPEC.name), Known)


def test_a_pod_with_a_volume_runs_where_the_volume_is(provider: PodProvider, cloud: Cloud) -> None:
    volume_id = cloud.make_volume("Peter")
    listing = provider.volumes()
    assert isinstance(listing, Known)
    (volume,) = listing.value
    assert (volume.id, volume.name, volume.size_gb, volume.data_center_id) == (volume_id, "Peter", 20, CENTER)
    provider.create(replace(SPEC, volume_id=volume_id, data_center_id=CENTER))
    assert [pod["data_center"] for pod in cloud.truth()] == [CENTER]


def test_the_placement_is_obeyed(provider: PodProvider, cloud: Cloud) -> None:
    provider.create(replace(SPEC, cloud=Tier.COMMUNITY, gpu_count=2))
    (truth,) = cloud.truth()
    assert truth["gpu_count"] == 2
    assert truth["cost_usd_per_hour"] == pytest.approx(0.68)


def test_the_catalogue_has_prices_and_stock(provider: PodProvider, cloud: Cloud) -> None:
    cloud.fault("no_capacity", gpu=GPU, cloud="SECURE")
    read = provider.catalogue()
    assert isinstance(read, Known)
    offer = read.value.gpu("RTX 4090")
    assert offer is not None
    assert (offer.id, offer.memory_gb) == (GPU, 24)
    assert offer.price_per_hour == {Tier.SECURE: 0.69, Tier.COMMUNITY: 0.34}
    assert offer.stock[Tier.SECURE] in (StockLevel.NONE, StockLevel.UNKNOWN)
    assert offer.stock[Tier.COMMUNITY] not in (StockLevel.NONE,)
    assert CENTER in {center.id for center in read.value.data_centers}
    ids = [each.id for each in read.value.gpus]
    assert "NVIDIA RTX A4500" in ids
    assert "NVIDIA  RTX A4500" in ids


def test_the_bill(provider: PodProvider, cloud: Cloud) -> None:
    pod = provider.create(replace(SPEC, pod_volume_gb=0))
    cloud.step(7200)
    accrued = next(each["accrued_usd"] for each in cloud.truth() if each["id"] == pod.id)
    # The fake began at the real time; its clock has been stepped a good way since.
    start = datetime.now(UTC) - timedelta(days=2)
    listing = provider.billing(start=start, end=start + timedelta(days=25), pod_id=pod.id)
    if provider.api == "graphql":
        assert isinstance(listing, Unknown)
        assert isinstance(listing.error, UnsupportedError)
        return
    assert isinstance(listing, Known)
    assert {record.pod_id for record in listing.value} == {pod.id}
    total = sum((record.total_usd for record in listing.value), Decimal(0))
    assert float(total) == pytest.approx(accrued, abs=1e-6)
    assert float(total) == pytest.approx(2 * 0.69, rel=0.05)


def test_logs_or_the_word_that_there_are_none(provider: PodProvider, cloud: Cloud) -> None:
    pod = provider.create(SPEC)
    cloud.step(60)
    if provider.api != "v2":
        with pytest.raises(UnsupportedError, match="v2"):
            list(provider.logs(pod.id))
        return
    cloud.say(pod.id, "first", "second", "third")
    lines = [each for each in provider.logs(pod.id) if each.source == "container"]
    assert [each.line for each in lines][-3:] == ["first", "second", "third"]
    rest = [each for each in provider.logs(pod.id, since=lines[-2].at) if each.source == "container"]
    assert [each.line for each in rest] == ["third"]


def test_following_a_log_ends_with_the_pod(cloud: Cloud) -> None:
    provider = cloud.provider("v2")
    pod = provider.create(SPEC)
    cloud.step(60)
    seen = []
    for number in range(1000):
        cloud.say(pod.id, f"line {number}")
    for entry in provider.logs(pod.id, tail=1000, follow=True):
        seen.append(entry.line)
        if len(seen) == 1000:
            provider.terminate(pod.id)
            cloud.step(60)
    assert [line for line in seen if line.startswith("line")] == [f"line {n}" for n in range(1000)]
    provider.close()


def test_a_retired_api_says_what_to_change(provider: PodProvider, cloud: Cloud) -> None:
    if provider.api == "v2":
        cloud.fault("gone", surface="v1")
        cloud.fault("gone", surface="graphql")
        assert provider.create(SPEC).id, "v2 does not care"
        assert isinstance(provider.catalogue(), Known)
        return
    cloud.fault("gone", surface=provider.api)
    with pytest.raises(ApiRetiredError, match="RUNPOD_REST_VERSION=v2"):
        provider.create(SPEC)
    listing = provider.list()
    assert isinstance(listing, Unknown)
    assert isinstance(listing.error, ApiRetiredError)


def test_an_illegal_action_is_a_conflict(cloud: Cloud) -> None:
    provider = cloud.provider("v2")
    pod = provider.create(SPEC)
    cloud.step(60)
    with pytest.raises(StateConflictError):
        provider.start(pod.id)
    provider.close()


def test_every_refusal_says_what_to_do() -> None:
    def kinds(kind: type[ProviderError]) -> Iterator[type[ProviderError]]:
        for each in kind.__subclasses__():
            yield each
            yield from kinds(each)

    for kind in kinds(ProviderError):
        assert kind.remedy, kind
        assert kind.__doc__, kind
