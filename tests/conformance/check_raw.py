"""The checks that need no client, only the wire: what official clients would never send."""

from __future__ import annotations

import json
import threading
import urllib.request

import drive
from drive import GPU, IMAGE, KEY, URL, call, fake, fault, step

V2 = {"name": "p", "image": IMAGE, "gpu": {"id": GPU, "count": 1}}
V1 = {"name": "p", "imageName": IMAGE, "gpuTypeIds": [GPU]}


def unknown_keys() -> str:
    status, body, _ = call("POST", "/v1/pods", V1 | {"colour": "blue"})
    assert (status, body["error"]) == (400, 'key "colour" not in input schema')
    status, body, headers = call("POST", "/v2/pods", V2 | {"colour": "blue"})
    assert (status, headers["content-type"]) == (422, "application/problem+json")
    assert any("colour" in line for line in body["errors"])
    return "v1 400 and v2 422 name the key"


def actions() -> str:
    allowed = {}
    for status in ("PROVISIONING", "RUNNING", "EXITED", "ERROR"):
        for action in ("start", "stop", "restart", "terminate"):
            pod = _pod_in(status)
            code, _, _ = call("POST", f"/v2/pods/{pod['id']}/action", {"action": action})
            assert (code in (200, 204)) == (action in pod["actions"]), (status, action, code)
            assert code in (200, 204, 409)
            allowed[status] = pod["actions"]
    return "16 pairs of status and action"


def _pod_in(status: str) -> dict[str, list[str]]:
    drive.reset()
    if status == "ERROR":
        fault("boot_error")
    pod = call("POST", "/v2/pods", V2)[1]
    if status != "PROVISIONING":
        step(20)
    if status == "EXITED":
        call("POST", f"/v2/pods/{pod['id']}/action", {"action": "stop"})
    shown: dict[str, list[str]] = call("GET", f"/v2/pods/{pod['id']}")[1]
    assert shown["status"] == status  # type: ignore[comparison-overlap]
    return shown


def product() -> str:
    status, body, _ = call("GET", "/v2/catalog/gpus?include=AVAILABILITY")
    assert status == 400
    assert "product" in body["detail"]
    assert call("GET", "/v2/catalog/gpus?include=AVAILABILITY&product=POD")[0] == 200
    return "400 without product"


def log_resume() -> str:
    pod_id = call("POST", "/v2/pods", V2)[1]["id"]

    def talk() -> None:
        for i in range(30):
            fake("POST", f"/pods/{pod_id}/logs", {"lines": [f"{i}.{j}" for j in range(4)]})

    writer = threading.Thread(target=talk)
    writer.start()
    got: list[str] = []
    last = "1970-01-01T00:00:00Z"
    while len(got) < 120:
        path = f"{URL}/v2/pods/{pod_id}/logs?source=container"
        request = urllib.request.Request(path, headers={"Authorization": f"Bearer {KEY}", "Last-Event-ID": last})
        with urllib.request.urlopen(request, timeout=20) as stream:
            for _ in range(min(7, 120 - len(got))):
                last, line = _event(stream)
                got.append(line)
    writer.join()
    assert got == [f"{i}.{j}" for i in range(30) for j in range(4)]
    return "120 lines over 18 connections, none lost, none twice"


def _event(stream: object) -> tuple[str, str]:
    event_id = ""
    for raw in stream:  # type: ignore[attr-defined]
        line = raw.decode().rstrip("\n")
        if line.startswith("id: "):
            event_id = line[4:]
        if line.startswith("data: "):
            return event_id, json.loads(line[6:])["line"]
    raise AssertionError("the stream ended")


def bill() -> str:
    pods = [call("POST", "/v2/pods", V2 | {"disk": 40 + i})[1] for i in range(3)]
    fake("PATCH", "/settings", {"billing_lag_seconds": 300})
    for i, pod in enumerate(pods):
        step(3600 * (i + 1))
        call("DELETE", f"/v2/pods/{pod['id']}")
    at_once = call("GET", "/v2/billing/pods")[1]["metadata"]["totals"]["gpuAmount"]
    step(600)
    totals = call("GET", "/v2/billing/pods?bucketSize=hour")[1]["metadata"]["totals"]
    hours = 1 + 3 + 6
    assert at_once < totals["gpuAmount"], "the bill does not lag"
    # The fake's clock runs on while the requests travel: seconds, not micro-dollars, of slack.
    assert abs(totals["gpuAmount"] - hours * 0.69) < 0.02
    v1 = call("GET", "/v1/billing/pods?bucketSize=hour&grouping=podId")[1]
    assert abs(sum(record["amount"] for record in v1) - totals["totalAmount"]) < 1e-6
    return f"{totals['totalAmount']:.6f} USD on both; lags 300 s"


def retired() -> str:
    fault("gone", surface="v1")
    fault("gone", surface="graphql")
    for path in ("/v1/pods", "/pods"):
        assert call("GET", path)[0] == 410
    assert call("POST", "/graphql", {"query": "{ myself { id } }"})[0] == 410
    assert call("GET", "/v2/pods")[0] == 200
    return "410 on v1 (both roots) and GraphQL, v2 untouched"


CHECKS = {16: unknown_keys, 17: actions, 22: product, 23: log_resume, 24: bill, 25: retired}

if __name__ == "__main__":
    drive.run("raw", CHECKS)
