from __future__ import annotations

from typing import Any

import pytest

from tests.fake_runpod.api_client import GPU, Api

BODY = {"name": "pod", "imageName": "img", "gpuTypeIds": [GPU], "ports": ["22/tcp"]}
ROOTS = ("/v1", "")


@pytest.mark.parametrize("root", ROOTS)
def test_the_life_of_a_pod(api: Api, root: str) -> None:
    made = api.post(f"{root}/pods", json=BODY)
    assert made.status_code == 201
    pod = made.json()
    path = f"{root}/pods/{pod['id']}"
    assert pod["desiredStatus"] == "RUNNING"
    assert (pod["publicIp"], pod["portMappings"]) == ("", None)
    api.step(20)
    up = api.get(path).json()
    assert up["publicIp"].startswith("203.0.113.")
    assert isinstance(up["portMappings"]["22"], int)
    stopped = api.post(f"{path}/stop")
    assert (stopped.status_code, stopped.json()["desiredStatus"]) == (200, "EXITED")
    assert stopped.json()["portMappings"] == up["portMappings"]  # stale, as at RunPod
    assert api.post(f"{path}/start").json()["desiredStatus"] == "RUNNING"
    api.step(20)
    assert api.get(path).json()["portMappings"] != up["portMappings"]
    assert api.post(f"{path}/restart").status_code == 200
    assert api.post(f"{path}/reset").status_code == 200
    gone = api.delete(path)
    assert (gone.status_code, gone.content, "content-type" in gone.headers) == (204, b"", False)
    missing_variables = api.get(path)
    assert (missing_variables.status_code, missing_variables.json()) == (
        404,
        {"error": "pod not found", "status": 404},
    )


def test_the_list_is_a_bare_array_with_filters(api: Api) -> None:
    api.post("/v1/pods", json=BODY | {"name": "a"}).raise_for_status()
    other = api.post("/v1/pods", json=BODY | {"name": "b", "gpuTypeIds": ["NVIDIA L4"]}).json()
    assert [pod["name"] for pod in api.get("/v1/pods").json()] == ["a", "b"]
    for query in ({"name": "b"}, {"gpuTypeId": ["NVIDIA L4", "NVIDIA L40"]}, {"id": other["id"]}):
        assert [pod["name"] for pod in api.get("/v1/pods", params=query).json()] == ["b"]
    assert api.get("/v1/pods?desiredStatus=EXITED").json() == []


def test_both_spellings_where_document_and_practice_differ(api: Api) -> None:
    pod = api.post("/v1/pods", json=BODY).json()
    assert pod["image"] == pod["imageName"] == "img"
    assert pod["createdAt"].endswith("+0000 UTC")
    assert pod["machine"]["dataCenterId"]
    assert "networkVolume" not in pod


def test_defaults(api: Api) -> None:
    pod = api.post("/v1/pods", json={"imageName": "img"}).json()
    assert (pod["name"], pod["containerDiskInGb"], pod["volumeInGb"]) == ("my pod", 50, 20)
    assert (pod["volumeMountPath"], pod["ports"]) == ("/workspace", ["8888/http", "22/tcp"])


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"gpuTypeId": GPU}, 'key "gpuTypeId" not in input schema'),
        ({"env": [{"key": "A", "value": "b"}]}, 'invalid value for key "env"'),
        ({"cloudType": "ALL"}, 'invalid value for key "cloudType"'),
        ({"imageName": None}, "imageName or templateId is required"),
    ],
)
def test_a_bad_body_is_400(api: Api, changes: dict[str, Any], error: str) -> None:
    answer = api.post("/v1/pods", json=BODY | changes)
    assert answer.status_code == 400
    assert answer.json()["status"] == 400
    assert answer.json()["error"].startswith(error)


def test_no_capacity_is_a_500_with_runpods_words(api: Api) -> None:
    api.fault("no_capacity")
    answer = api.post("/v1/pods", json=BODY)
    assert answer.status_code == 500
    assert answer.json() == {"error": "create pod: There are no instances currently available", "status": 500}


def test_the_server_falls_back_through_the_gpu_types(api: Api) -> None:
    api.fault("no_capacity", gpu=GPU)
    pod = api.post("/v1/pods", json=BODY | {"gpuTypeIds": [GPU, "NVIDIA L4"]}).json()
    assert pod["gpu"]["id"] == "NVIDIA L4"


def test_an_interruptible_pod_is_cheaper(api: Api) -> None:
    assert api.post("/v1/pods", json=BODY | {"interruptible": True}).json()["costPerHr"] == 0.345


def test_a_cpu_pod(api: Api) -> None:
    pod = api.post("/v1/pods", json={"imageName": "i", "computeType": "CPU", "vcpuCount": 4}).json()
    assert (pod["cpuFlavorId"], pod["vcpuCount"], pod["gpu"]) == ("cpu3c", 4, None)


@pytest.mark.parametrize(("method", "tail"), [("PATCH", ""), ("POST", "/update")])
def test_an_update_resets_the_pod(api: Api, method: str, tail: str) -> None:
    pod = api.post("/v1/pods", json=BODY).json()
    api.step(20)
    changed = api.request(method, f"/v1/pods/{pod['id']}{tail}", json={"env": {"A": "1"}, "dockerStartCmd": ["x"]})
    assert (changed.json()["env"], changed.json()["dockerStartCmd"]) == ({"A": "1"}, ["x"])
    assert api.truth()[0]["generation"] == 1


def test_network_volumes_templates_and_registries(api: Api) -> None:
    volume = api.post("/v1/networkvolumes", json={"name": "v", "size": 20, "dataCenterId": "EU-RO-1"}).json()
    assert api.get("/networkvolumes").json() == [volume]
    assert api.patch(f"/v1/networkvolumes/{volume['id']}", json={"size": 30}).json()["size"] == 30
    assert api.post("/v1/networkvolumes", json={"name": "v"}).status_code == 400
    pod = api.post("/v1/pods", json=BODY | {"networkVolumeId": volume["id"]}).json()
    shown = api.get(f"/v1/pods/{pod['id']}?includeNetworkVolume=true").json()
    assert shown["networkVolume"]["dataCenterId"] == shown["machine"]["dataCenterId"] == "EU-RO-1"
    template = api.post("/v1/templates", json={"name": "t", "imageName": "i:2", "env": {"A": "1"}}).json()
    assert api.get("/v1/templates").json() == [template]
    made = api.post("/v1/pods", json={"templateId": template["id"], "gpuTypeIds": [GPU]}).json()
    assert (made["imageName"], made["env"], made["templateId"]) == ("i:2", {"A": "1"}, template["id"])
    assert api.delete(f"/v1/templates/{template['id']}").status_code == 204
    body = {"name": "r", "username": "u", "password": "p"}
    registry = api.post("/v1/containerregistryauth", json=body).json()
    assert api.get("/v1/containerregistryauth").json() == [registry]
    assert api.get("/v1/endpoints").json() == []


def test_billing_records(api: Api) -> None:
    pod = api.post("/v1/pods", json=BODY).json()
    api.step(7200)
    api.delete(f"/v1/pods/{pod['id']}")
    by_type = api.get("/v1/billing/pods?bucketSize=year").json()
    assert [record["gpuTypeId"] for record in by_type] == [GPU]
    by_pod = api.get("/v1/billing/pods?bucketSize=year&grouping=podId").json()
    assert by_pod[0]["podId"] == pod["id"]
    assert by_pod[0]["timeBilledMs"] == 7_200_000
    assert by_pod[0]["diskSpaceBilledGb"] == by_pod[0]["diskSpaceBilledGB"] == 70
    assert api.get("/v1/billing/pods", params={"podId": "other"}).json() == []
    assert api.get("/v1/billing/pods?grouping=colour").status_code == 400
