from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.fake_runpod.api_client import GPU, Api

CREATE = """
mutation { podFindAndDeployOnDemand(input: { name: "pod", imageName: "img", cloudType: ALL, startSsh: true,
  gpuTypeId: "GPU_ID", supportPublicIp: true, gpuCount: 1, volumeInGb: 0, minVcpuCount: 1, minMemoryInGb: 1,
  dataCenterId: null, dockerArgs: "", containerDiskInGb: 10, ports: "22/tcp,8888/http", volumeMountPath: "/w",
  env: [{ key: "A", value: "b" }] }) { id imageName env machineId machine { podHostId } } }
""".replace("GPU_ID", GPU)
POD = """
query pod { pod(input: {podId: "POD_ID"}) { id desiredStatus env ports uptimeSeconds costPerHr gpuCount
  runtime { uptimeInSeconds ports { ip isIpPublic privatePort publicPort PortType: type } }
  machine { gpuDisplayName } } }
"""


def create(api: Api) -> str:
    answer = api.graphql(CREATE)
    assert "errors" not in answer, answer
    pod = answer["data"]["podFindAndDeployOnDemand"]
    assert pod["env"] == ["A=b"]
    assert pod["machine"]["podHostId"].startswith(pod["id"])
    return str(pod["id"])


def test_the_life_of_a_pod(api: Api) -> None:
    pod_id = create(api)
    young = api.graphql(POD.replace("POD_ID", pod_id))["data"]["pod"]
    assert (young["desiredStatus"], young["runtime"]) == ("RUNNING", None)
    api.step(20)
    up = api.graphql(POD.replace("POD_ID", pod_id))["data"]["pod"]
    ssh = next(port for port in up["runtime"]["ports"] if port["privatePort"] == 22)
    assert ssh["isIpPublic"] is True
    assert ssh["PortType"] == "tcp"
    assert (up["ports"], up["uptimeSeconds"], up["runtime"]["uptimeInSeconds"]) == ("22/tcp,8888/http", 0, 10)
    stop = f'mutation {{ podStop(input: {{ podId: "{pod_id}" }}) {{ id desiredStatus }} }}'
    assert api.graphql(stop)["data"]["podStop"]["desiredStatus"] == "EXITED"
    resume = f'mutation {{ podResume(input: {{ podId: "{pod_id}", gpuCount: 1 }}) {{ id desiredStatus }} }}'
    assert api.graphql(resume)["data"]["podResume"]["desiredStatus"] == "RUNNING"
    terminate = f'mutation {{ podTerminate(input: {{ podId: "{pod_id}" }}) }}'
    assert api.graphql(terminate) == {"data": {"podTerminate": None}}
    assert api.graphql(POD.replace("POD_ID", pod_id)) == {"data": {"pod": None}}


def test_success_never_carries_errors(api: Api) -> None:
    create(api)
    for query in ("{ myself { id pods { id } } }", "{ gpuTypes { id } }", "{ dataCenters { id } }"):
        assert list(api.graphql(query)) == ["data"]


def test_no_capacity_is_http_200_with_the_exact_text(api: Api) -> None:
    api.fault("no_capacity", gpu=GPU)
    answer = api.post("/graphql", json={"query": CREATE})
    assert answer.status_code == 200
    error = answer.json()["errors"][0]
    assert error["message"].startswith(
        "There are no longer any instances available with the requested specifications"
    )
    assert (error["path"], error["extensions"]) == (["podFindAndDeployOnDemand"], {"code": "RUNPOD"})
    assert answer.json()["data"] == {"podFindAndDeployOnDemand": None}


def test_what_does_not_fit_the_schema_is_400(api: Api) -> None:
    for query in ("{ nonsense }", "{ myself { id", "{ __schema { types { name } } }"):
        answer = api.post("/graphql", json={"query": query})
        assert answer.status_code == 400
        assert answer.json()["errors"][0]["message"]
        assert "data" not in answer.json()


def test_variables_and_their_absence(api: Api) -> None:
    query = "query($id: String) { gpuTypes(input: {id: $id}) { id } }"
    assert api.graphql(query, variables={"id": GPU})["data"]["gpuTypes"] == [{"id": GPU}]
    assert api.graphql("{ myself { id } }", variables=None)["data"]["myself"]["id"]
    wrong = api.post("/graphql", json={"query": "query($n: Int) { gpuTypes { id } }", "variables": {"n": "x"}})
    assert wrong.status_code == 400


def test_an_unknown_gpu_is_an_empty_list(api: Api) -> None:
    assert api.graphql('{ gpuTypes(input: {id: "RTX 9090"}) { id } }') == {"data": {"gpuTypes": []}}


def test_the_lowest_price_follows_cloud_and_stock(api: Api) -> None:
    query = (
        "query($id: String, $secure: Boolean) { gpuTypes(input: {id: $id}) { lowestPrice(input: {gpuCount: 1, "
        "secureCloud: $secure}) { uninterruptablePrice stockStatus gpuTypeCudaVersions { availability } } } }"
    )

    def lowest(**filters: bool) -> dict[str, Any]:
        answer = api.graphql(query, variables={"id": GPU, **filters})
        price: dict[str, Any] = answer["data"]["gpuTypes"][0]["lowestPrice"]
        return price

    price = lowest()
    assert (price["uninterruptablePrice"], price["stockStatus"]) == (0.34, "High")
    assert lowest(secure=True)["uninterruptablePrice"] == 0.69
    api.fault("no_capacity", gpu=GPU)
    none = lowest()
    assert (none["uninterruptablePrice"], none["stockStatus"]) == (None, None)
    assert {version["availability"] for version in none["gpuTypeCudaVersions"]} == {"UNAVAILABLE"}


def test_data_centers_with_stock(api: Api) -> None:
    found = api.graphql("{ dataCenters { id location gpuAvailability { gpuTypeId stockStatus } } }")["data"][
        "dataCenters"
    ]
    assert len(found) == 26
    assert {"gpuTypeId": GPU, "stockStatus": "High"} in found[0]["gpuAvailability"]


def test_ssh_keys_are_joined_by_blank_lines(api: Api) -> None:
    mutation = 'mutation { updateUserSettings(input: { pubKey: "ssh-rsa A a\\n\\nssh-rsa B b" }) { id pubKey } }'
    assert api.graphql(mutation)["data"]["updateUserSettings"]["pubKey"] == "ssh-rsa A a\n\nssh-rsa B b"
    assert api.get("/v2/account/ssh-keys").json()["keys"] == ["ssh-rsa A a", "ssh-rsa B b"]


def test_network_volumes_and_templates(api: Api) -> None:
    volume = api.graphql(
        'mutation { createNetworkVolume(input: {name: "v", size: 20, dataCenterId: "EU-RO-1"}) '
        "{ id dataCenterId } }"
    )["data"]["createNetworkVolume"]
    listed = api.graphql("{ myself { networkVolumes { id dataCenterId } } }")
    assert listed["data"]["myself"]["networkVolumes"] == [volume]
    template = api.graphql(
        'mutation { saveTemplate(input: {name: "t", imageName: "i", ports: "22/tcp"}) { id ports } }'
    )
    assert template["data"]["saveTemplate"]["ports"] == "22/tcp"


def test_a_cpu_pod_from_the_public_template(api: Api) -> None:
    answer = api.graphql(
        'mutation { deployCpuPod(input: { name: "c", imageName: "", cloudType: SECURE, instanceId: "cpu3c-4-8", '
        'templateId: "runpod-ubuntu", containerDiskInGb: 10 }) { id imageName vcpuCount memoryInGb gpuCount } }'
    )
    pod = answer["data"]["deployCpuPod"]
    assert (pod["vcpuCount"], pod["memoryInGb"], pod["gpuCount"]) == (4, 8, 0)
    assert pod["imageName"].startswith("runpod/base")


def test_spot_pods_and_the_end_set_in_advance(api: Api) -> None:
    end = api.get("/_fake/clock").json()["now"][:11] + "23:59:59Z"
    answer = api.graphql(
        "mutation($gpu: String, $end: String) { podRentInterruptable(input: { bidPerGpu: 0.2, gpuTypeId: $gpu, "
        'imageName: "i", name: "s", terminateAfter: $end }) { id podType costPerHr } }',
        variables={"gpu": GPU, "end": end},
    )
    assert answer["data"]["podRentInterruptable"] | {"id": ""} == {
        "id": "",
        "podType": "INTERRUPTABLE",
        "costPerHr": 0.345,
    }
    api.step(86_400)
    assert api.truth() == []


@pytest.mark.parametrize("key", [None, "rpa_wrong"])
def test_without_the_key(api: Api, key: str | None) -> None:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    answer = httpx.post(
        f"{api.fake.url}/graphql", json={"query": "{ myself { id } gpuTypes { id } }"}, headers=headers
    )
    if key:
        assert answer.status_code == 401
    else:
        # The catalogue is public, the account is not.
        assert answer.json()["data"]["myself"] is None
        assert len(answer.json()["data"]["gpuTypes"]) == 49
        stranger = httpx.post(f"{api.fake.url}/graphql", json={"query": CREATE})
        assert stranger.json()["data"] == {"podFindAndDeployOnDemand": None}
        assert api.truth() == []


def test_the_key_may_be_in_the_url(api: Api) -> None:
    query = {"query": "{ myself { id } }"}
    answer = httpx.post(f"{api.fake.url}/graphql?api_key={api.fake.api_key}", json=query)
    assert answer.json()["data"]["myself"]["id"]
