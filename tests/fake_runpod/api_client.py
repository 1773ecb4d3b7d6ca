"""A thin client for the tests: one connection with the key, and words for what they do most."""

from __future__ import annotations

from typing import Any

import httpx

from pod_worker.fake_runpod.server import FakeServer

GPU = "NVIDIA GeForce RTX 4090"
BOOT_SECONDS = 20


class Api(httpx.Client):
    def __init__(self, fake: FakeServer) -> None:
        super().__init__(base_url=fake.url, headers={"Authorization": f"Bearer {fake.api_key}"}, timeout=20)
        self.fake = fake

    def body(self, **changes: Any) -> dict[str, Any]:
        return {"name": "pod", "image": "img", "gpu": {"id": GPU, "count": 1}, "ports": ["22/tcp"]} | changes

    def create(self, **changes: Any) -> dict[str, Any]:
        """A v2 pod, still PROVISIONING."""
        answer = self.post("/v2/pods", json=self.body(**changes))
        assert answer.status_code == 201, answer.text
        pod: dict[str, Any] = answer.json()
        return pod

    def boot(self, **changes: Any) -> dict[str, Any]:
        """A v2 pod that is RUNNING and ready."""
        pod = self.create(**changes)
        self.step(BOOT_SECONDS)
        return self.pod(pod["id"])

    def pod(self, pod_id: str) -> dict[str, Any]:
        pod: dict[str, Any] = self.get(f"/v2/pods/{pod_id}").raise_for_status().json()
        return pod

    def act(self, pod_id: str, action: str) -> httpx.Response:
        return self.post(f"/v2/pods/{pod_id}/action", json={"action": action})

    def step(self, seconds: float) -> None:
        self.post("/_fake/clock", json={"step_seconds": seconds}).raise_for_status()

    def fault(self, kind: str, **rule: Any) -> int:
        answer = self.post("/_fake/faults", json={"kind": kind, **rule})
        assert answer.status_code == 201, answer.text
        return int(answer.json()[0]["id"])

    def truth(self) -> list[dict[str, Any]]:
        """All pods that exist, whether the API shows them or not."""
        pods: list[dict[str, Any]] = self.get("/_fake/pods").json()["pods"]
        return pods

    def graphql(self, query: str, **more: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.post("/graphql", json={"query": query, **more}).json()
        return answer
