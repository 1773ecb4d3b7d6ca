"""The checks of this project's own client (`pod_worker.pods`), over HTTP like the others."""

from __future__ import annotations

import random
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import drive
from drive import GPU, IMAGE, KEY, URL, fault, step

from pod_worker.core.clock import SystemClock
from pod_worker.pods.launch.candidates import Candidate, Cooldowns
from pod_worker.pods.launch.launcher import (
    Launched,
    Launcher,
    LaunchFailed,
    LaunchFailureReason,
    LaunchRequest,
    LaunchTimeouts,
)
from pod_worker.pods.launch.sqlite_intents import IntentFile
from pod_worker.pods.pod import PodSpec
from pod_worker.pods.provider import Known, PodProvider
from pod_worker.pods.runpod.connect import connect

SPEC = PodSpec("worker", IMAGE, GPU)
OTHER = "NVIDIA L4"


def provider(api: str = "v2") -> PodProvider:
    return connect(api, KEY, root=URL, clock=SystemClock(), sleep=time.sleep, rng=random.Random(1))


@contextmanager
def launcher() -> Iterator[Launcher]:
    clock = SystemClock()
    with tempfile.TemporaryDirectory() as folder:
        log = IntentFile(Path(folder) / "intents.db")
        cloud = provider()
        yield Launcher(
            cloud,
            log,
            clock=clock,
            sleep=time.sleep,
            new_id=lambda: uuid.uuid4().hex,
            cooldowns=Cooldowns(clock),
            timeouts=LaunchTimeouts(visibility_timeout_seconds=5, poll_seconds=0.3, lookup_timeout_seconds=10),
        )
        cloud.close()
        log.close()


def launch_request(*gpus: str, spec: PodSpec = SPEC) -> LaunchRequest:
    return LaunchRequest(uuid.uuid4().hex, spec, tuple(Candidate(gpu) for gpu in gpus))


def waits_and_retries() -> str:
    cloud = provider()
    fault("too_many_requests", surface="v2", times=1, retry_after=1)
    started = time.monotonic()
    assert isinstance(cloud.list(), Known)
    fault("too_many_requests", surface="v2", times=1, retry_after=1)
    cloud.create(SPEC)
    assert time.monotonic() - started >= 2
    fault("http_error", surface="v2", method="GET", times=1, status=503)
    assert isinstance(cloud.list(), Known)
    drive.fake("DELETE", "/requests")
    fault("http_error", surface="v2", method="POST", times=1, status=503)
    drive.raises(Exception, lambda: cloud.create(SPEC))
    assert [(request["method"], request["status"]) for request in drive.asked()] == [("POST", 503)]
    return "waits on 429 for GET and POST; 503 tried again on GET only"


def hidden_pod() -> str:
    fault("create_then_500", times=1)
    fault("read_after_write_lag", seconds=2)
    with launcher() as launch:
        result = launch.launch(launch_request(GPU, OTHER))
    assert isinstance(result, Launched), result
    assert [pod["id"] for pod in drive.pods()] == [result.pod.id]
    return "found by its name after a 500 and 2 s of lag; one pod bills"


def next_candidate() -> str:
    fault("no_capacity", gpu=GPU)
    with launcher() as launch:
        result = launch.launch(launch_request(GPU, OTHER))
        assert isinstance(result, Launched), result
        assert drive.pods()[0]["gpu"] == OTHER
        drive.reset()
        fault("http_error", surface="v2", method="POST", status=422)
        refused = launch.launch(launch_request(GPU, OTHER))
    assert isinstance(refused, LaunchFailed)
    assert refused.reason is LaunchFailureReason.INVALID, refused
    assert len([request for request in drive.asked() if request["method"] == "POST"]) == 1
    return "400 without capacity goes on to the next; 422 stops"


def logs() -> str:
    cloud = provider()
    pod = cloud.create(SPEC)
    drive.fake("POST", f"/pods/{pod.id}/logs", {"lines": [f"line {i}" for i in range(50)]})
    first = [entry for entry in cloud.logs(pod.id, tail=1000) if entry.source == "container"]
    assert [entry.line for entry in first] == [f"line {i}" for i in range(50)]
    rest = [entry for entry in cloud.logs(pod.id, since=first[29].at) if entry.source == "container"]
    assert [entry.line for entry in rest] == [f"line {i}" for i in range(30, 50)]
    return "50 lines; resumed after the 30th without loss"


def bill() -> str:
    cloud = provider()
    pod = cloud.create(SPEC)
    step(7200)
    cloud.terminate(pod.id)
    now = datetime.now(UTC)
    sums = []
    for api in ("v2", "v1"):
        listed = provider(api).billing(start=now - timedelta(days=2), end=now + timedelta(days=2), pod_id=pod.id)
        assert isinstance(listed, Known), listed
        sums.append(sum(record.total_usd for record in listed.value))
    assert abs(sums[0] - sums[1]) < type(sums[0])("0.000001")
    assert abs(float(sums[0]) - 2 * (0.69 + 50 * 0.1 / 720)) < 0.01
    return f"{sums[0]} USD on v2 and on v1"


def retired() -> str:
    fault("gone", surface="v1")
    fault("gone", surface="graphql")
    with launcher() as launch:
        result = launch.launch(launch_request(GPU))
    assert isinstance(result, Launched), result
    assert isinstance(provider().catalogue(), Known)
    refused = drive.raises(Exception, lambda: provider("v1").create(SPEC))
    assert type(refused).__name__ == "ApiRetiredError", refused
    return "v2 unaffected; the v1 adapter raises ApiRetiredError"


CHECKS = {19: waits_and_retries, 20: hidden_pod, 21: next_candidate, 23: logs, 24: bill, 25: retired}

if __name__ == "__main__":
    drive.run("ours", CHECKS)
