from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.fake_runpod.api_client import GPU, Api

POD_FIELDS = {
    *("id", "name", "status", "actions", "image", "args", "disk", "env", "ports", "registry", "mounts", "gpu"),
    *("cloud", "dataCenterId", "cudaVersion", "ssh", "cost", "locked", "globalNetworking", "template"),
    *("createdAt", "startedAt", "runtime"),
}


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    return body


def test_a_pod_from_birth_to_running(api: Api) -> None:
    born = api.create()
    assert set(born) == POD_FIELDS
    assert (born["status"], born["runtime"], born["startedAt"]) == ("PROVISIONING", None, None)
    assert born["ssh"] == {"proxy": None, "direct": None}
    api.step(3)
    assert api.pod(born["id"])["status"] == "STARTING"
    api.step(20)
    pod = api.pod(born["id"])
    assert pod["status"] == "RUNNING"
    assert pod["runtime"]["uptime"] == 13
    assert pod["ssh"]["direct"]["port"] == pod["runtime"]["ports"][0]["public"]
    assert pod["ssh"]["proxy"]["host"] == "ssh.runpod.io"
    assert pod["cost"] == 0.69


def test_the_list_is_wrapped_and_paginated(api: Api) -> None:
    made = [api.create(name=f"p{i}")["id"] for i in range(5)]
    everything = api.get("/v2/pods").json()
    assert [pod["id"] for pod in everything["pods"]] == made
    assert everything["pagination"] == {"hasNextPage": False, "nextCursor": None}
    seen, cursor = [], None
    while True:
        page = api.get("/v2/pods", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        seen += [pod["id"] for pod in page["pods"]]
        cursor = page["pagination"]["nextCursor"]
        if not page["pagination"]["hasNextPage"]:
            break
    assert seen == made
    assert problem(api.get("/v2/pods?cursor=%21%21"), 422)["errors"]


def test_unknown_query_parameters_are_ignored(api: Api) -> None:
    assert api.get("/v2/pods?colour=blue").status_code == 200


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"gpuTypeIds": ["x"]}, "$: additional properties 'gpuTypeIds' not allowed"),
        ({"gpu": {"id": GPU, "count": 1, "kind": 2}}, "$.gpu: additional properties 'kind' not allowed"),
        ({"gpu": {"id": GPU, "count": "1"}}, "$.gpu.count: wrong type, want integer"),
        ({"name": None}, "$.name: wrong type, want string"),
        ({"image": ""}, "$: missing property 'image'"),
        ({"mounts": {"persistent": {"size": 9, "path": "/w"}}}, "$.mounts.persistent.size"),
        ({"cloud": "ALL"}, "$.cloud"),
    ],
)
def test_a_body_that_breaks_the_contract_is_422_and_says_where(
    api: Api, changes: dict[str, Any], error: str
) -> None:
    body = problem(api.post("/v2/pods", json=api.body(**changes)), 422)
    assert body["detail"] == "Request validation failed."
    assert any(line.startswith(error) for line in body["errors"]), body["errors"]
    assert api.truth() == []


def test_all_violations_are_listed(api: Api) -> None:
    body = problem(api.post("/v2/pods", json={"image": 5, "nmae": "x"}), 422)
    assert len(body["errors"]) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"cpu": {"id": "cpu3c", "vcpuCount": 2}},
        {"gpu": None},
        {
            "mounts": {
                "persistent": {"size": 10, "path": "/w"},
                "network": [{"volumeId": "v", "path": "/w"}],
            }
        },
        {"env": {f"V{i}": "x" for i in range(51)}},
        {"ports": ["8000/udp"]},
        {"gpu": {"id": "RTX 4090", "count": 1}},
    ],
)
def test_a_body_that_breaks_a_rule_is_400(api: Api, changes: dict[str, Any]) -> None:
    body = {k: v for k, v in api.body(**changes).items() if v is not None}
    assert "errors" not in problem(api.post("/v2/pods", json=body), 400)


def test_what_is_not_json_is_400(api: Api) -> None:
    problem(api.post("/v2/pods", content=b"{"), 400)


def test_an_omitted_gpu_count_finds_no_machine_unless_told_otherwise(api: Api) -> None:
    rejection = problem(api.post("/v2/pods", json=api.body(gpu={"id": GPU})), 400)
    assert rejection["detail"] == "There are no instances currently available"
    api.patch("/_fake/settings", json={"omitted_gpu_count_fails": False}).raise_for_status()
    try:
        assert api.create(gpu={"id": GPU})["gpu"]["count"] == 1
    finally:
        api.patch("/_fake/settings", json={"omitted_gpu_count_fails": True}).raise_for_status()


def test_no_capacity_is_a_400_that_only_the_detail_tells_apart(api: Api) -> None:
    api.fault("no_capacity", gpu=GPU)
    assert (
        problem(api.post("/v2/pods", json=api.body()), 400)["detail"]
        == "There are no instances currently available"
    )


def test_insufficient_balance_is_402(api: Api) -> None:
    api.patch("/_fake/account", json={"balance_usd": 0.1}).raise_for_status()
    try:
        problem(api.post("/v2/pods", json=api.body()), 402)
    finally:
        api.patch("/_fake/account", json={"balance_usd": 1e6}).raise_for_status()


def test_actions_and_their_answers(api: Api) -> None:
    pod_id = api.boot()["id"]
    stopped = api.act(pod_id, "stop")
    assert (stopped.status_code, stopped.json()["status"], stopped.json()["cost"]) == (200, "EXITED", 0)
    problem(api.act(pod_id, "restart"), 409)
    problem(api.act(pod_id, "stop"), 409)
    started = api.act(pod_id, "start")
    assert started.json()["status"] == "STARTING"
    api.step(10)
    assert api.act(pod_id, "restart").json()["runtime"]["uptime"] == 0
    gone = api.act(pod_id, "terminate")
    assert (gone.status_code, gone.content, "content-type" in gone.headers) == (204, b"", False)
    problem(api.get(f"/v2/pods/{pod_id}"), 404)
    problem(api.act(pod_id, "stop"), 404)


def test_an_unknown_action_is_422(api: Api) -> None:
    problem(api.act(api.create()["id"], "explode"), 422)


def test_the_published_actions_are_the_permitted_ones(api: Api) -> None:
    for setup in ("PROVISIONING", "RUNNING", "EXITED"):
        for action in ("start", "stop", "restart", "terminate"):
            pod = api.create() if setup == "PROVISIONING" else api.boot()
            if setup == "EXITED":
                pod = api.act(pod["id"], "stop").json()
            assert pod["status"] == setup
            assert (api.act(pod["id"], action).status_code < 300) == (action in pod["actions"])


def test_a_locked_pod_cannot_be_stopped(api: Api) -> None:
    pod_id = api.boot()["id"]
    api.patch(f"/v2/pods/{pod_id}", json={"locked": True}).raise_for_status()
    problem(api.act(pod_id, "stop"), 409)
    api.patch(f"/v2/pods/{pod_id}", json={"locked": False}).raise_for_status()
    assert api.act(pod_id, "stop").status_code == 200


def test_delete_is_204_without_body_or_content_type(api: Api) -> None:
    answer = api.delete(f"/v2/pods/{api.create()['id']}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert "content-type" not in answer.headers
    problem(api.delete("/v2/pods/nope"), 404)


def test_a_patch_changes_what_was_sent_and_restarts_what_runs(api: Api) -> None:
    pod = api.boot(env={"A": "1"}, args="old")
    renamed = api.patch(f"/v2/pods/{pod['id']}", json={"name": "new"}).json()
    assert (renamed["name"], renamed["args"], renamed["runtime"]["uptime"]) == ("new", "old", 10)
    changed = api.patch(f"/v2/pods/{pod['id']}", json={"env": {"B": "2"}, "ports": []}).json()
    assert (changed["env"], changed["ports"], changed["runtime"]["uptime"]) == ({"B": "2"}, [], 0)
    problem(api.patch(f"/v2/pods/{pod['id']}", json={"gpu": {}}), 422)
    problem(api.patch(f"/v2/pods/{pod['id']}", json={"mounts": {"network": []}}), 400)


def test_ssh_keys_reach_pods_that_ask_for_them(api: Api) -> None:
    keys = ["ssh-ed25519 AAAA me@host", "ssh-rsa BBBB"]
    assert api.put("/v2/account/ssh-keys", json={"keys": keys}).json() == {"keys": keys}
    assert api.get("/v2/account/ssh-keys").json() == {"keys": keys}
    assert api.create(startSsh=True)["env"]["PUBLIC_KEY"] == "\n".join(keys)
    assert "PUBLIC_KEY" not in api.create()["env"]
    assert api.create(startSsh=True, env={"PUBLIC_KEY": "mine"})["env"]["PUBLIC_KEY"] == "mine"
    problem(api.put("/v2/account/ssh-keys", json={"keys": ["~/.ssh/id_rsa.pub"]}), 422)


def test_a_template_fills_in_and_the_body_wins(api: Api) -> None:
    settings = {
        "name": "t",
        "image": "img:1",
        "disk": 30,
        "env": {"A": "t", "B": "t"},
        "ports": ["22/tcp"],
        "startSsh": False,
        "startJupyter": False,
        "mounts": {"persistent": {"size": 10, "path": "/data"}},
    }
    template = api.post("/v2/templates", json=settings)
    assert template.status_code == 201
    template_id = template.json()["id"]
    made = api.post(
        "/v2/pods",
        json={"name": "p", "templateId": template_id, "gpu": {"id": GPU, "count": 1}, "env": {"A": "body"}},
    ).json()
    assert (made["image"], made["disk"], made["env"]) == ("img:1", 30, {"A": "body", "B": "t"})
    assert made["mounts"] == {"persistent": {"size": 10, "path": "/data"}}
    assert made["template"] is None
    problem(api.post("/v2/pods", json=api.body(templateId="nope")), 404)
    api.patch(f"/v2/templates/{template_id}", json={"serverless": True}).raise_for_status()
    problem(api.post("/v2/pods", json=api.body(templateId=template_id)), 422)
    assert api.delete(f"/v2/templates/{template_id}").status_code == 204


def test_network_volumes(api: Api) -> None:
    made = api.post("/v2/network-volumes", json={"name": "v", "size": 20, "dataCenter": "EU-RO-1"})
    assert made.status_code == 201
    volume = made.json()
    assert set(volume) == {"id", "name", "size", "dataCenter", "type"}
    assert api.get("/v2/network-volumes").json()["networkVolumes"] == [volume]
    path = f"/v2/network-volumes/{volume['id']}"
    assert api.patch(path, json={"size": 30}).json()["size"] == 30
    problem(api.patch(path, json={"size": 20}), 400)
    problem(api.patch(path, json={}), 422)
    pod = api.create(mounts={"network": [{"volumeId": volume["id"], "path": "/workspace"}]})
    assert pod["dataCenterId"] == "EU-RO-1"
    assert pod["mounts"] == {"network": [{"volumeId": volume["id"], "path": "/workspace"}]}
    problem(api.delete(path), 400)
    api.delete(f"/v2/pods/{pod['id']}")
    assert api.delete(path).status_code == 204
    problem(api.post("/v2/network-volumes", json={"name": "v", "size": 5, "dataCenter": "EU-RO-1"}), 422)


def test_registries_never_show_the_password(api: Api) -> None:
    made = api.post("/v2/registries", json={"name": "r", "username": "u", "password": "hush"})
    assert (made.status_code, set(made.json())) == (201, {"id", "name"})
    assert "hush" not in api.get("/v2/registries").text
    assert api.delete(f"/v2/registries/{made.json()['id']}").status_code == 204


def test_a_cpu_pod(api: Api) -> None:
    body = {"name": "c", "image": "img", "cpu": {"id": "cpu3c", "vcpuCount": 4}}
    pod = api.post("/v2/pods", json=body).json()
    assert pod["cpu"] == {"id": "cpu3c", "vcpuCount": 4, "memory": 8}
    assert "gpu" not in pod
    assert pod["cost"] == 0.12
    problem(api.post("/v2/pods", json=body | {"mounts": {"persistent": {"size": 10, "path": "/w"}}}), 400)


def test_the_catalogue_keeps_every_id_as_it_is(api: Api) -> None:
    gpus = {gpu["id"]: gpu for gpu in api.get("/v2/catalog/gpus").json()["gpus"]}
    assert len(gpus) == 49
    assert {"NVIDIA  RTX A4500", "NVIDIA RTX A4500", "NVIDIA GeForce RTX 3080TI"} <= set(gpus)
    assert "availability" not in gpus[GPU]
    one = api.get(f"/v2/catalog/gpus/{GPU}").json()
    assert one == gpus[GPU]
    problem(api.get("/v2/catalog/gpus/RTX%204090"), 404)


def test_availability_needs_a_product_and_the_other_way_round(api: Api) -> None:
    problem(api.get("/v2/catalog/gpus?include=AVAILABILITY"), 400)
    problem(api.get("/v2/catalog/gpus?product=POD"), 400)
    problem(api.get("/v2/catalog/gpus?include=PRICES"), 422)
    answer = api.get(f"/v2/catalog/gpus/{GPU}?include=AVAILABILITY&product=POD&count=1").json()
    assert answer["availability"] == "HIGH"
    assert len(answer["dataCenters"]) == 26
    assert {"version": "12.8", "available": True} in answer["cudaVersions"]


def test_the_catalogue_admits_certain_shortages(api: Api) -> None:
    api.fault("no_capacity", gpu=GPU, data_center="US-TX-3")
    query = "include=AVAILABILITY&product=POD"
    places = {dc["id"] for dc in api.get(f"/v2/catalog/gpus/{GPU}?{query}").json()["dataCenters"]}
    assert len(places) == 25
    assert "US-TX-3" not in places
    centre = api.get("/v2/catalog/datacenters/US-TX-3?include=GPU_AVAILABILITY").json()
    assert {"id": GPU, "name": "RTX 4090", "availability": "NONE"} in centre["gpuAvailability"]
    api.fault("no_capacity", gpu=GPU)
    answer = api.get(f"/v2/catalog/gpus/{GPU}?{query}").json()
    assert answer["availability"] == "NONE"
    assert "dataCenters" not in answer


def test_data_centers_can_be_filtered(api: Api) -> None:
    found = api.get("/v2/catalog/datacenters?regions=EUROPE&networkVolumeTypes=HIGH_PERFORMANCE").json()
    assert [dc["id"] for dc in found["dataCenters"]] == ["EU-RO-1"]
    assert len(api.get("/v2/catalog/cpus").json()["cpus"]) == 6


def test_bills_are_cost_times_time_and_v1_agrees_to_the_micro_dollar(api: Api) -> None:
    first = api.boot(mounts={"persistent": {"size": 20, "path": "/w"}})
    second = api.create(gpu={"id": "NVIDIA L4", "count": 2})
    api.post(
        "/v2/pods", json={"name": "c", "image": "i", "cpu": {"id": "cpu5c", "vcpuCount": 2}}
    ).raise_for_status()
    api.step(2.5 * 86_400 - 20)
    api.delete(f"/v2/pods/{second['id']}")
    api.act(first["id"], "stop")
    api.step(86_400)
    bill = api.get("/v2/billing/pods?bucketSize=hour").json()
    totals = bill["metadata"]["totals"]
    assert bill["metadata"]["uniquePodCount"] == 3
    assert bill["metadata"]["recordCount"] == len(bill["records"])
    for name, total in totals.items():
        assert abs(sum(record[name] for record in bill["records"]) - total) < 1e-6
    hours = 2.5 * 24
    assert totals["gpuAmount"] == pytest.approx(0.69 * hours + 2 * 0.44 * (hours - 20 / 3600), abs=1e-6)
    assert totals["cpuAmount"] == pytest.approx(0.07 * (hours + 24 - 20 / 3600), abs=1e-6)
    for grouping in ("podId", "gpuTypeId"):
        v1 = api.get("/v1/billing/pods", params={"grouping": grouping}).json()
        assert sum(record["amount"] for record in v1) == pytest.approx(totals["totalAmount"], abs=1e-6)
    mine = api.get("/v2/billing/pods", params={"podId": second["id"], "lastN": 10}).json()
    assert mine["metadata"]["query"]["podId"] == second["id"]
    assert {record["podId"] for record in mine["records"]} == {second["id"]}
    everything = api.get("/v2/billing").json()["metadata"]["totals"]
    assert everything["totalAmount"] == pytest.approx(totals["totalAmount"], abs=1e-6)
    assert everything["podGpuAmount"] == pytest.approx(totals["gpuAmount"], abs=1e-6)


def test_bills_trail_behind(api: Api) -> None:
    api.patch("/_fake/settings", json={"billing_lag_seconds": 300}).raise_for_status()
    pod = api.create()
    api.step(299)
    api.delete(f"/v2/pods/{pod['id']}")
    assert api.get("/v2/billing/pods").json()["records"] == []
    api.step(300)
    assert api.get("/v2/billing/pods").json()["metadata"]["totals"]["gpuAmount"] == pytest.approx(
        0.69 * 299 / 3600
    )


def test_volumes_are_billed_until_they_are_deleted(api: Api) -> None:
    volume = api.post("/v2/network-volumes", json={"name": "v", "size": 100, "dataCenter": "EU-RO-1"}).json()
    api.step(720 * 3600)
    api.delete(f"/v2/network-volumes/{volume['id']}")
    api.step(86_400)
    totals = api.get("/v2/billing/network-volumes?lastN=40").json()["metadata"]["totals"]
    assert totals == {"totalAmount": 7.0, "standardAmount": 7.0, "highPerformanceAmount": 0.0}


def test_billing_queries_that_make_no_sense(api: Api) -> None:
    problem(api.get("/v2/billing/pods?bucketSize=minute"), 422)
    problem(api.get("/v2/billing/pods?lastN=0"), 422)
    problem(api.get("/v2/billing/pods?startTime=soon"), 422)
    problem(api.get("/v2/billing/pods?lastN=3&startTime=2026-01-01T00:00:00Z"), 400)
    problem(api.get("/v2/billing/pods?startTime=2030-01-01T00:00:00Z&endTime=2026-01-01T00:00:00Z"), 400)
    assert api.get("/v2/billing/serverless").json()["records"] == []


def test_paths_and_methods_that_do_not_exist(api: Api) -> None:
    problem(api.get("/v2/nothing"), 404)
    problem(api.get("/v2/pods/x/y/z"), 404)
    rejection = api.put("/v2/pods")
    problem(rejection, 405)
    assert rejection.headers["allow"]
    assert api.get("/v2/serverless").json()["endpoints"] == []
