"""The fake RunPod server as the tests of this package use it: over HTTP, on a clock that they step."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import requests

from pod_worker.core.clock import ManualClock
from pod_worker.pods.provider import PodProvider
from pod_worker.pods.runpod.connect import connect
from pod_worker.pods.runpod.transport import HttpRetryPolicy

GPU = "NVIDIA GeForce RTX 4090"
OTHER_GPU = "NVIDIA L4"
RETRY_POLICY = HttpRetryPolicy(total_wait_seconds=30)
CENTER = "EU-RO-1"


@dataclass
class Cloud:
    url: str
    api_key: str
    clock: ManualClock

    def provider(self, api: str, retry_policy: HttpRetryPolicy = RETRY_POLICY) -> PodProvider:
        return connect(
            api,
            self.api_key,
            root=self.url,
            clock=self.clock,
            sleep=self.sleep,
            rng=random.Random(1),
            retry_policy=retry_policy,
        )

    def sleep(self, seconds: float) -> None:
        """Both clocks move together: what the client waits, the cloud lives through."""
        self.clock.advance(seconds)
        self.step(seconds)

    def step(self, seconds: float) -> None:
        self._post("clock", {"step_seconds": seconds})

    def fault(self, kind: str, **rule: Any) -> None:
        self._post("faults", {"kind": kind, **rule})

    def settings(self, **changes: Any) -> None:
        self._send("PATCH", "/_fake/settings", json=changes)

    def inject(self, pod_id: str, kind: str) -> None:
        self._post(f"pods/{pod_id}/{kind}", {})

    def say(self, pod_id: str, *lines: str) -> None:
        self._post(f"pods/{pod_id}/logs", {"lines": lines})

    def truth(self) -> list[dict[str, Any]]:
        """Every pod that exists and bills, seen or not."""
        pods: list[dict[str, Any]] = self._send("GET", "/_fake/pods").json()["pods"]
        return pods

    def living(self) -> list[str]:
        return [pod["id"] for pod in self.truth() if pod["status"] != "TERMINATED"]

    def asked(self, method: str) -> list[dict[str, Any]]:
        answer = self._send("GET", "/_fake/requests").json()
        entries = answer if isinstance(answer, list) else next(v for v in answer.values() if isinstance(v, list))
        return [each for each in entries if each["method"] == method]

    def make_volume(self, name: str, center: str = CENTER) -> str:
        body = {"name": name, "size": 20, "dataCenter": center}
        return str(self._send("POST", "/v2/network-volumes", json=body).json()["id"])

    def reset(self) -> None:
        self._post("reset", {})

    def account(self, **changes: Any) -> None:
        self._send("PATCH", "/_fake/account", json=changes)

    def _post(self, path: str, body: dict[str, Any]) -> None:
        self._send("POST", f"/_fake/{path}", json=body)

    def _send(self, method: str, path: str, **options: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.api_key}"}
        answer = requests.request(method, self.url + path, headers=headers, timeout=10, **options)
        assert answer.ok, answer.text
        return answer


def until(cloud: Cloud, is_so: Callable[[], bool], seconds: int = 120) -> None:
    """Step the cloud second by second until the condition holds."""
    for _ in range(seconds):
        if is_so():
            return
        cloud.step(1)
    raise AssertionError(f"not so after {seconds} s of the cloud's time")
