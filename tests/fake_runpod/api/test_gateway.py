from __future__ import annotations

import time

import httpx
import pytest

from pod_worker.fake_runpod.api.rate_limit import Quotas, RateLimiter
from pod_worker.fake_runpod.request_log import KEEP_COUNTS, RequestLog
from tests.fake_runpod.api_client import Api

SURFACES = {"v2": "/v2/pods", "v1": "/v1/pods", "graphql": "/graphql"}


def ask(api: Api, surface: str, **more: object) -> httpx.Response:
    if surface == "graphql":
        return api.post("/graphql", json={"query": "{ myself { id } }"}, **more)  # type: ignore[arg-type]
    return api.get(SURFACES[surface], **more)  # type: ignore[arg-type]


def test_no_key_and_a_wrong_key(api: Api) -> None:
    missing_variables = httpx.get(f"{api.fake.url}/v2/pods")
    assert missing_variables.json() == {"title": "Unauthorized", "status": 401, "detail": "missing bearer token"}
    assert missing_variables.headers["content-type"] == "application/problem+json"
    wrong = {"Authorization": "Bearer rpa_wrong"}
    assert ask(api, "v2", headers=wrong).status_code == 401
    v1 = ask(api, "v1", headers=wrong)
    assert (v1.status_code, v1.json()) == (401, {"message": "Unauthorized"})
    assert ask(api, "graphql", headers=wrong).status_code == 401


def test_quota_headers_come_with_every_v2_answer(api: Api) -> None:
    for answer in (ask(api, "v2"), api.get("/v2/pods/nope"), api.get("/v2/nope")):
        assert answer.headers["ratelimit"].startswith('"minute";r=')
        assert answer.headers["ratelimit-policy"].startswith('"minute";q=1000000;w=60, "hour";q=')
    assert "ratelimit" not in ask(api, "v1").headers
    assert "ratelimit" not in httpx.get(f"{api.fake.url}/v2/pods").headers  # a 401 has no quota


def test_quotas_are_per_user_and_per_window() -> None:
    now = [0.0]
    limiter = RateLimiter(Quotas(minute=2, hour=3, day=100), lambda: now[0])
    assert limiter.check("a").header == '"minute";r=1;t=60, "hour";r=2;t=3600, "day";r=99;t=86400'
    assert limiter.check("a").exceeded is None
    full = limiter.check("a")
    assert (full.exceeded, full.retry_after) == ("minute", 60)
    assert limiter.check("b").exceeded is None
    now[0] = 48
    assert limiter.check("a").retry_after == 12
    now[0] = 60
    assert limiter.check("a").exceeded is None
    both = limiter.check("a")
    assert (both.exceeded, both.retry_after) == ("hour", 3540)


def test_quotas_can_be_given_in_words() -> None:
    assert (
        Quotas.parse("60/3000/50000").policy == '"minute";q=60;w=60, "hour";q=3000;w=3600, "day";q=50000;w=86400'
    )
    with pytest.raises(ValueError, match="60/3000/50000"):
        Quotas.parse("fast")


@pytest.mark.parametrize("surface", SURFACES)
def test_a_storm_of_429(api: Api, surface: str) -> None:
    api.fault("too_many_requests", surface=surface, times=2, retry_after=3)
    answers = [ask(api, surface) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [429, 429, 200]
    assert answers[0].headers["retry-after"] == "3"
    if surface == "v2":
        assert answers[0].headers["ratelimit"] == '"minute";r=0;t=3'
        assert answers[0].json()["detail"] == "rate limit exceeded for the minute window"


@pytest.mark.parametrize("surface", SURFACES)
def test_server_errors_in_every_dialect(api: Api, surface: str) -> None:
    api.fault("http_error", surface=surface, status=503, times=1)
    api.fault("http_error", surface=surface, status=502, html=True, times=1, skip=1)
    first, second = ask(api, surface), ask(api, surface)
    if first.headers["content-type"].startswith("text/html"):
        first, second = second, first
    assert first.status_code == 503
    assert first.json()
    assert ask(api, surface).status_code in (200, 502)


def test_an_html_error_is_no_json(api: Api) -> None:
    api.fault("http_error", status=502, html=True, path="/v2/pods*", method="GET")
    answer = ask(api, "v2")
    assert (answer.status_code, answer.headers["content-type"]) == (502, "text/html; charset=utf-8")
    assert api.create()["id"]  # other methods pass


@pytest.mark.parametrize("surface", ["v1", "graphql"])
def test_a_retired_surface_is_410_and_the_others_live(api: Api, surface: str) -> None:
    api.fault("gone", surface=surface)
    gone = ask(api, surface)
    assert gone.status_code == 410
    assert "retired" in gone.text
    for other in SURFACES:
        if other != surface:
            assert ask(api, other).status_code == 200
    if surface == "v1":
        assert api.get("/pods").status_code == 410


def test_a_slow_create_has_acted_before_it_answers(api: Api) -> None:
    api.fault("slow", method="POST", seconds=30, after_acting=True)
    with pytest.raises(httpx.ReadTimeout):
        api.post("/v2/pods", json=api.body(name="ghost"), timeout=0.5)
    assert [pod["name"] for pod in api.truth()] == ["ghost"]


def test_a_slow_request_may_also_wait_before_it_acts(api: Api) -> None:
    api.fault("slow", method="POST", seconds=0.3)
    started = time.monotonic()
    api.create()
    assert time.monotonic() - started >= 0.3


def test_created_although_it_said_500(api: Api) -> None:
    api.fault("create_then_500", name="twice", times=1)
    assert api.post("/v2/pods", json=api.body(name="twice")).status_code == 500
    found = [pod for pod in api.get("/v2/pods").json()["pods"] if pod["name"] == "twice"]
    assert len(found) == 1
    api.step(3600)
    assert api.get("/v2/billing/pods").json()["metadata"]["totals"]["gpuAmount"] == 0.69


def test_reads_lag_behind_writes(api: Api) -> None:
    api.fault("read_after_write_lag", seconds=30)
    pod = api.create()
    assert api.get(f"/v2/pods/{pod['id']}").status_code == 404
    assert api.get("/v2/pods").json()["pods"] == []
    assert api.delete(f"/v2/pods/{pod['id']}").status_code == 404
    assert len(api.truth()) == 1
    api.step(30)
    assert [p["id"] for p in api.get("/v2/pods").json()["pods"]] == [pod["id"]]


def test_a_boot_error_shows_on_v2_alone(api: Api) -> None:
    api.fault("boot_error", message="CUDA 12.8 is not supported by the driver")
    pod = api.create()
    api.step(60)
    assert (api.pod(pod["id"])["status"], api.pod(pod["id"])["actions"]) == ("ERROR", ["start", "terminate"])
    assert api.get(f"/v1/pods/{pod['id']}").json()["desiredStatus"] == "RUNNING"
    query = "query($id: String) { pod(input: {podId: $id}) { desiredStatus runtime { uptimeInSeconds } } }"
    answer = api.graphql(query, variables={"id": pod["id"]})
    assert answer["data"]["pod"] == {"desiredStatus": "RUNNING", "runtime": None}


def test_a_pods_own_key_reaches_that_pod_and_nothing_else(api: Api) -> None:
    mine, other = api.boot(), api.boot()
    pod = api.fake.runtime.simulator.find_hidden(mine["id"])
    assert pod is not None
    own = {"Authorization": f"Bearer {pod.api_key}"}
    assert api.get(f"/v2/pods/{mine['id']}", headers=own).status_code == 200
    assert api.get(f"/v2/pods/{other['id']}", headers=own).status_code == 403
    assert api.get("/v2/pods", headers=own).status_code == 403
    foreign = "mutation($id: String!) { podStop(input: {podId: $id}) { id } }"
    call = {"query": foreign, "variables": {"id": other["id"]}}
    rejection = api.post("/graphql", json=call, headers=own).json()
    assert rejection["errors"][0]["message"] == "access denied"
    assert api.delete(f"/v2/pods/{mine['id']}", headers=own).status_code == 204


def test_what_was_asked_is_counted_without_ids(api: Api) -> None:
    api.delete("/_fake/requests")
    for _ in range(2):
        api.pod(api.create()["id"])
    counts = {
        (c["method"], c["route"], c["status"]): c["count"] for c in api.get("/_fake/requests").json()["counts"]
    }
    assert counts == {("POST", "/v2/pods", 201): 2, ("GET", "/v2/pods/{id}", 200): 2}


def test_counts_stay_few_whatever_callers_invent() -> None:
    log = RequestLog()
    for i in range(2000):
        log.record("GET", f"/v2/invented/{i}", (), 404)
    counts = {count["route"]: count["count"] for count in log.view()["counts"]}
    assert len(counts) == KEEP_COUNTS + 1
    assert counts["other"] == 2000 - KEEP_COUNTS
