from __future__ import annotations

import pytest

from tests.fake_runpod.api_client import Api


def test_rules_can_be_listed_and_taken_back(api: Api) -> None:
    first = api.fault("slow", seconds=0.01, path="/v2/none*")
    api.fault("gone", surface="v1")
    rules = api.get("/_fake/faults").json()
    assert [rule["kind"] for rule in rules] == ["slow", "gone"]
    assert api.delete(f"/_fake/faults/{first}").json() == {"removed": 1}
    assert api.get("/v1/pods").status_code == 410
    assert api.delete("/_fake/faults").json() == {"removed": 1}
    assert api.get("/v1/pods").status_code == 200


def test_rules_may_come_as_yaml(api: Api) -> None:
    text = "- {kind: no_capacity, gpu: NVIDIA L4}\n- kind: gone\n  surface: graphql\n"
    answer = api.post("/_fake/faults", content=text, headers={"Content-Type": "application/yaml"})
    assert [rule["kind"] for rule in answer.json()] == ["no_capacity", "gone"]


@pytest.mark.parametrize(
    "rule",
    [
        {"kind": "mischief"},
        {"kind": "slow", "second": 3},
        {"kind": "spot_interrupt", "notice_seconds": 6},
        {"kind": "http_error", "status": 200},
        {"kind": "gone", "surface": "v3"},
        {"kind": "slow", "probability": 2},
    ],
)
def test_a_rule_that_makes_no_sense_is_refused_with_the_field(api: Api, rule: dict[str, object]) -> None:
    answer = api.post("/_fake/faults", json=rule)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("not a fault rule")


def test_the_clock_steps_and_says_so(api: Api) -> None:
    before = api.get("/_fake/clock").json()["now_ns"]
    after = api.post("/_fake/clock", json={"step_seconds": 1.5}).json()["now_ns"]
    assert after - before == 1_500_000_000
    assert api.post("/_fake/clock", json={"step_seconds": -1}).status_code == 400
    assert api.post("/_fake/clock", json={"leap": 1}).status_code == 400


def test_trouble_on_demand(api: Api) -> None:
    pods = [api.boot(name=name)["id"] for name in ("interrupt", "vanish", "fail", "exit")]
    for pod_id, fault in zip(pods, ("interrupt", "vanish", "fail", "exit"), strict=True):
        body = {"notice_seconds": 1, "message": "broken", "code": 3}
        assert api.post(f"/_fake/pods/{pod_id}/{fault}", json=body).status_code == 204
    api.step(2)
    assert {pod["name"]: pod["status"] for pod in api.truth()} == {
        "interrupt": "EXITED",
        "fail": "ERROR",
        "exit": "EXITED",
    }
    assert api.post(f"/_fake/pods/{pods[0]}/tickle", json={}).status_code == 404


def test_the_account_shows_money_and_hides_secrets(api: Api) -> None:
    api.patch("/_fake/account", json={"secrets": {"TOKEN": "hush"}}).raise_for_status()
    api.boot()
    answer = api.get("/_fake/account")
    assert answer.json()["secrets"] == ["TOKEN"]
    assert "hush" not in answer.text
    assert answer.json()["spend_usd_per_hour"] == pytest.approx(0.69 + 50 * 0.1 / 720)


def test_settings_can_be_changed_by_name_only(api: Api) -> None:
    assert api.patch("/_fake/settings", json={"gravity": 9.81}).status_code == 400
    assert api.patch("/_fake/settings", json={"pull_seconds": "long"}).status_code == 400
    changed = api.patch("/_fake/settings", json={"pull_seconds": 100}).json()
    assert changed["pull_seconds"] == 100
    pod = api.create()
    api.step(50)
    assert api.pod(pod["id"])["status"] == "STARTING"
    api.patch("/_fake/settings", json={"pull_seconds": 8}).raise_for_status()
    assert api.get("/_fake/physics").json() == api.get("/_fake/settings").json()


def test_reset_empties_everything(api: Api) -> None:
    api.boot()
    api.fault("gone", surface="v1")
    api.post("/v2/network-volumes", json={"name": "v", "size": 20, "dataCenter": "EU-RO-1"}).raise_for_status()
    assert api.post("/_fake/reset").status_code == 204
    assert api.truth() == []
    assert api.get("/_fake/faults").json() == []
    assert api.get("/v2/network-volumes").json()["networkVolumes"] == []
    assert api.get("/v2/billing").json()["records"] == []


def test_telemetry_is_taken_and_listed(api: Api) -> None:
    kinds = ("run-started", "heartbeat", "stage-progress", "substage-completed", "paper-generation-progress")
    for kind in (*kinds, "gpu-shortage", "run-finished"):
        assert api.post(f"/telemetry/{kind}", json={"run_id": "r1"}).status_code == 200
    listed = api.get("/telemetry").json()
    assert [entry["kind"] for entry in listed][:5] == list(kinds)
    assert listed[0]["payload"] == {"run_id": "r1"}
    assert api.post("/telemetry/gossip", json={}).status_code == 404
    assert api.post("/telemetry/heartbeat", content=b"{").status_code == 400
