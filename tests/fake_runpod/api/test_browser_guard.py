"""A web page must not reach the fake: it would run commands as the user of the server."""

from __future__ import annotations

import pytest

from pod_worker.fake_runpod.api.browser_guard import browser_refusal
from tests.fake_runpod.api_client import GPU, Api

PATHS = ("/v2/pods", "/v1/pods", "/graphql", "/_fake/reset", "/telemetry/heartbeat", "/")
FOREIGN = [
    {"Host": "attacker.example"},
    {"Host": "attacker.example:9000"},
    {"Host": "127.0.0.1.attacker.example"},
    {"Host": "192.0.2.7:9000"},
    {"Host": "[::1"},
    {"Origin": "https://attacker.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:1"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=lambda headers: "-".join(*headers.items()))
@pytest.mark.parametrize("path", PATHS)
def test_a_request_of_a_web_page_is_refused(api: Api, path: str, headers: dict[str, str]) -> None:
    answer = api.post(path, headers={"Content-Type": "text/plain", **headers}, content=b"{}")
    assert answer.status_code == 403, answer.text


def test_a_page_cannot_start_a_pod_with_the_key_in_the_query(api: Api) -> None:
    mutation = f'mutation {{ podFindAndDeployOnDemand(input: {{gpuTypeId: "{GPU}", imageName: "i", dockerArgs: "id"}}) {{ id }} }}'
    answer = api.post(
        f"/graphql?api_key={api.fake.api_key}",
        json={"query": mutation},
        headers={"Origin": "https://attacker.example", "Authorization": ""},
    )
    assert answer.status_code == 403
    assert api.truth() == []


def test_clients_that_are_no_browsers_are_accepted(api: Api) -> None:
    port = api.fake.url.rpartition(":")[2]
    for headers in ({}, {"Host": f"localhost:{port}"}, {"Host": f"[::1]:{port}"}, {"Sec-Fetch-Site": "none"}):
        assert api.get("/v2/pods", headers=headers).status_code == 200
    assert api.get("/v2/pods", headers={"Origin": api.fake.url}).status_code == 200


def test_beyond_loopback_addresses_are_accepted_and_names_are_not() -> None:
    def refusal(host: str) -> str | None:
        return browser_refusal({"headers": [(b"host", host.encode())]}, "0.0.0.0")

    assert refusal("192.0.2.7:9000") is None
    assert refusal("attacker.example:9000")


def test_the_test_api_needs_a_key_of_the_account(api: Api) -> None:
    pod = api.fake.runtime.simulator.find_hidden(api.boot()["id"])
    assert pod is not None
    for key in ("", "Bearer wrong", f"Bearer {pod.api_key}"):
        for method, path in (("GET", "/_fake/pods"), ("POST", "/_fake/reset"), ("PATCH", "/_fake/account")):
            assert api.request(method, path, headers={"Authorization": key}).status_code == 401
    assert [each["id"] for each in api.truth()] == [pod.id]
