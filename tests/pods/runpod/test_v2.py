"""The v2 adapter with the documented replies, malformed replies, and every error reply."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from pod_worker.core.clock import ManualClock
from pod_worker.pods import errors
from pod_worker.pods.catalogue import StockLevel
from pod_worker.pods.errors import ProviderError, ServerError
from pod_worker.pods.pod import Cloud, PodSpec, PodStatus, SshAddress
from pod_worker.pods.provider import Absent, Known, Unknown
from pod_worker.pods.runpod.transport import Transport
from pod_worker.pods.runpod.v2 import RunpodV2
from tests.pods.scripted_server import Answer, ScriptedServer

GPU = "NVIDIA GeForce RTX 4090"
RUNNING: dict[str, Any] = {
    "id": "7h9k2m4n6p",
    "name": "worker-1",
    "status": "RUNNING",
    "actions": ["stop", "restart", "terminate"],
    "image": "runpod/pytorch:2.8.0",
    "args": "",
    "disk": 50,
    "ports": ["22/tcp"],
    "env": {"A": "1"},
    "registry": None,
    "mounts": {"network": [{"volumeId": "vol1", "path": "/workspace"}]},
    "gpu": {"id": GPU, "count": 2},
    "cloud": "SECURE",
    "dataCenterId": "EU-RO-1",
    "ssh": {
        "proxy": {"host": "ssh.runpod.io", "port": 22, "username": "x", "command": "ssh x"},
        "direct": {"host": "1.2.3.4", "port": 12345, "username": "root", "command": "ssh"},
    },
    "cost": 0.88,
    "runtime": {"uptime": 61, "ports": [{"private": 22, "public": 12345, "type": "tcp", "ip": "1.2.3.4"}]},
    "createdAt": "2026-11-22T10:00:00Z",
    "startedAt": None,
}


@pytest.fixture
def cloud(server: ScriptedServer) -> Iterator[RunpodV2]:
    clock = ManualClock()
    cloud = RunpodV2(Transport(server.url, "rpa_key", clock=clock, sleep=clock.advance, rng=random.Random(1)))
    yield cloud
    cloud.close()


def test_a_pod_in_full(server: ScriptedServer, cloud: RunpodV2) -> None:
    server.script = [Answer(200, RUNNING)]
    read = cloud.get("7h9k2m4n6p")
    assert isinstance(read, Known)
    pod = read.value
    assert (pod.status, pod.gpu_id, pod.gpu_count, pod.cloud) == (PodStatus.RUNNING, GPU, 2, Cloud.SECURE)
    assert (pod.volume_id, pod.data_center_id, pod.cost_per_hour) == ("vol1", "EU-RO-1", 0.88)
    assert pod.ssh == SshAddress("1.2.3.4", 12345, "root")
    assert pod.uptime_seconds == 61
    assert pod.created_at == datetime(2026, 11, 22, 10, tzinfo=UTC)
    assert pod.env == {"A": "1"}


def test_the_shell_only_proxy_is_no_ssh_address(server: ScriptedServer, cloud: RunpodV2) -> None:
    server.script = [Answer(200, {**RUNNING, "ssh": {**RUNNING["ssh"], "direct": None}})]
    read = cloud.get("p")
    assert isinstance(read, Known)
    assert read.value.ssh is None


def test_an_unknown_word_for_the_status_is_no_error_and_no_guess(server: ScriptedServer, cloud: RunpodV2) -> None:
    server.script = [Answer(200, {"id": "p", "status": "HIBERNATING", "cost": "0.5", "gpu": None})]
    read = cloud.get("p")
    assert isinstance(read, Known)
    assert read.value.status is PodStatus.UNRECOGNISED
    assert read.value.status_word == "HIBERNATING"
    assert not read.value.status.is_gone


def test_pages_are_followed_to_the_end(server: ScriptedServer, cloud: RunpodV2) -> None:
    server.script = [
        Answer(200, {"pods": [{"id": "a"}], "pagination": {"hasNextPage": True, "nextCursor": "c1"}}),
        Answer(200, {"pods": [{"id": "b"}], "pagination": {"hasNextPage": False, "nextCursor": None}}),
    ]
    listing = cloud.list()
    assert isinstance(listing, Known)
    assert [pod.id for pod in listing.value] == ["a", "b"]
    assert server.asked[1].params == {"cursor": "c1"}


@pytest.mark.parametrize(
    "body",
    [
        {"pods": [{"id": "a"}, {"name": "no id"}]},
        {"pods": [{"id": "a"}, "x"]},
        {"pods": None},
        {},
        [],
        "text",
        None,
    ],
)
def test_a_listing_that_cannot_be_decoded_whole_is_unknown(
    server: ScriptedServer, cloud: RunpodV2, body: object
) -> None:
    server.script = [Answer(200, body)]
    assert isinstance(cloud.list(), Unknown)


def test_reads_are_three_valued(server: ScriptedServer, cloud: RunpodV2) -> None:
    missing = {"title": "Not Found", "status": 404, "detail": "pod not found"}
    server.script = [Answer(404, missing), Answer(401, {"detail": "bad token"}), *[Answer(502)] * 4]
    assert cloud.get("p") == Absent()
    unauthorized, broken = cloud.get("p"), cloud.get("p")
    assert isinstance(unauthorized, Unknown)
    assert isinstance(unauthorized.error, errors.UnauthorizedError)
    assert isinstance(broken, Unknown)
    server.script = [Answer(404, missing)]
    assert isinstance(cloud.list(), Unknown), "a list that does not exist is not an empty account"


def test_find_by_name_gives_every_pod_of_that_name(server: ScriptedServer, cloud: RunpodV2) -> None:
    pods = [{"id": "a", "name": "x"}, {"id": "b", "name": "xy"}, {"id": "c", "name": "x"}]
    server.routes["GET", "/v2/pods"] = lambda asked: Answer(200, {"pods": pods})
    found = cloud.find_by_name("x")
    assert isinstance(found, Known)
    assert [pod.id for pod in found.value] == ["a", "c"]
    assert cloud.find_by_name("z") == Absent()


def test_the_create_body(server: ScriptedServer, cloud: RunpodV2) -> None:
    server.script = [Answer(201, RUNNING)]
    spec = PodSpec(
        name="worker-1",
        image="img",
        gpu_id=GPU,
        data_center_id="EU-RO-1",
        volume_id="vol1",
        env={"A": 'quote " and \\'},
        start_command=("bash", "-c", "run it"),
        min_cuda_version="12.4",
    )
    assert cloud.create(spec).id == "7h9k2m4n6p"
    assert server.asked[0].body == {
        "name": "worker-1",
        "image": "img",
        "gpu": {"id": GPU, "count": 1, "minCudaVersion": "12.4"},
        "cloud": "SECURE",
        "dataCenterIds": ["EU-RO-1"],
        "disk": 50,
        "env": {"A": 'quote " and \\'},
        "ports": ["22/tcp"],
        "startSsh": True,
        "args": "bash -c 'run it'",
        "mounts": {"network": [{"volumeId": "vol1", "path": "/workspace"}]},
    }


def test_a_pod_volume_is_a_persistent_mount(server: ScriptedServer, cloud: RunpodV2) -> None:
    server.script = [Answer(201, RUNNING)]
    cloud.create(PodSpec("n", "i", GPU, pod_volume_gb=20, ports=()))
    body = server.asked[0].body
    assert isinstance(body, dict)
    assert body["mounts"] == {"persistent": {"size": 20, "path": "/workspace"}}
    assert body["startSsh"] is False


def test_a_created_pod_without_an_id_is_an_unclear_outcome(server: ScriptedServer, cloud: RunpodV2) -> None:
    server.script = [Answer(201, {"status": "PROVISIONING"})]
    with pytest.raises(ServerError):
        cloud.create(PodSpec("n", "i", GPU))


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (
            400,
            {"detail": "There are no longer any instances available with the requested specifications."},
            "NoCapacityError",
        ),
        (400, {"detail": "no instances currently available"}, "NoCapacityError"),
        (400, {"detail": "network volume is in another data center"}, "RequestRejectedError"),
        (400, {"detail": "Insufficient balance"}, "InsufficientBalanceError"),
        (401, {"detail": "missing bearer token"}, "UnauthorizedError"),
        (402, {"detail": "balance too low"}, "InsufficientBalanceError"),
        (403, {"detail": "access denied"}, "ForbiddenError"),
        (404, {"detail": "template not found"}, "PodNotFoundError"),
        (405, {"detail": "no"}, "InvalidRequestError"),
        (409, {"detail": "not valid for status"}, "StateConflictError"),
        (410, {"detail": "gone"}, "ApiRetiredError"),
        (422, {"detail": "Request validation failed.", "errors": ["$: bogus"]}, "InvalidRequestError"),
        (500, {"error": "create pod: There are no instances currently available"}, "NoCapacityError"),
        (500, None, "ServerError"),
        (302, None, "ServerError"),
    ],
)
def test_every_refusal_has_its_class_and_keeps_the_words(
    server: ScriptedServer, cloud: RunpodV2, status: int, body: dict[str, Any] | None, kind: str
) -> None:
    server.script = [Answer(status, body)]
    with pytest.raises(ProviderError) as error:
        cloud.create(PodSpec("n", "i", GPU))
    assert type(error.value).__name__ == kind
    for words in (body or {}).values():
        assert (words[0] if isinstance(words, list) else words) in str(error.value)


def test_actions_and_terminate(server: ScriptedServer, cloud: RunpodV2) -> None:
    server.script = [Answer(200, RUNNING), Answer(200, RUNNING), Answer(204)]
    cloud.stop("p 1")
    cloud.start("p 1")
    cloud.terminate("p 1")
    assert [(a.method, a.path, a.body) for a in server.asked] == [
        ("POST", "/v2/pods/p%201/action", {"action": "stop"}),
        ("POST", "/v2/pods/p%201/action", {"action": "start"}),
        ("DELETE", "/v2/pods/p%201", None),
    ]


def test_the_catalogue_joins_both_clouds_and_drops_placeholder_prices(
    server: ScriptedServer, cloud: RunpodV2
) -> None:
    base = {"id": GPU, "name": "RTX 4090", "memory": 24, "secure": True, "community": True}
    prices = {"price": {"secure": 0.69, "community": 0.34}, "maxCount": {"secure": 8, "community": 4}}
    only_secure = {**base, "id": "B", "community": False, **prices, "availability": "NONE"}

    def gpus(asked: Any) -> Answer:
        assert asked.params["product"] == "POD"
        level = "LOW" if asked.params["cloud"] == "SECURE" else "HIGH"
        first = {**base, **prices, "availability": level}
        if asked.params["cloud"] == "SECURE":
            first["dataCenters"] = [{"id": "EU-RO-1", "name": "x", "availability": "LOW"}]
        return Answer(200, {"gpus": [first, only_secure]})

    server.routes["GET", "/v2/catalog/gpus"] = gpus
    server.routes["GET", "/v2/catalog/datacenters"] = lambda asked: Answer(
        200, {"dataCenters": [{"id": "EU-RO-1", "name": "Romania", "region": "EU"}]}
    )
    read = cloud.catalogue()
    assert isinstance(read, Known)
    first, second = read.value.gpus
    assert first.price_per_hour == {Cloud.SECURE: 0.69, Cloud.COMMUNITY: 0.34}
    assert first.stock == {Cloud.SECURE: StockLevel.LOW, Cloud.COMMUNITY: StockLevel.HIGH}
    assert first.stock_by_data_center == {"EU-RO-1": StockLevel.LOW}
    assert second.price_per_hour == {Cloud.SECURE: 0.69}
    assert second.stock == {Cloud.SECURE: StockLevel.NONE}
    assert [center.id for center in read.value.data_centers] == ["EU-RO-1"]


def test_volumes_and_bills(server: ScriptedServer, cloud: RunpodV2) -> None:
    volume = {"id": "v1", "name": "Peter", "size": 100, "dataCenter": "EU-RO-1", "type": "STANDARD"}
    record = {"podId": "p", "startTime": "2026-06-01T00:00:00Z", "totalAmount": 0.1, "gpuAmount": 0.07}
    server.script = [Answer(200, {"networkVolumes": [volume]}), Answer(200, {"records": [record, record]})]
    volumes = cloud.volumes()
    assert isinstance(volumes, Known)
    assert (volumes.value[0].name, volumes.value[0].data_center_id) == ("Peter", "EU-RO-1")
    start, end = datetime(2026, 6, 1, tzinfo=UTC), datetime(2026, 6, 2, tzinfo=UTC)
    bills = cloud.billing(start=start, end=end, pod_id="p")
    assert isinstance(bills, Known)
    assert sum(bill.total_usd for bill in bills.value) == Decimal("0.2"), "decimal sums, no float dust"
    assert server.asked[1].params == {
        "startTime": "2026-06-01T00:00:00Z",
        "endTime": "2026-06-02T00:00:00Z",
        "bucketSize": "hour",
        "podId": "p",
    }
