"""The story that a runner pod tells: as documented, and through the real emitter to a real ingest and store."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from minio import Minio

from pod_worker.control.app import build_app
from pod_worker.control.server import bind
from pod_worker.core.payload import RunLog, StageCompleted, StageProgress
from pod_worker.fake_runpod.cloud.settings import SimulationSettings
from pod_worker.fake_runpod.containers import run_script as story_module
from pod_worker.fake_runpod.containers.run_script import run_script
from pod_worker.fake_runpod.containers.scripted_runner import ScriptedRunner
from pod_worker.fake_runpod.server import Options, running
from pod_worker.local.s3 import S3Access
from pod_worker.store.mongo import Mongo, connect
from tests.fake_runpod.api_client import GPU, Api
from tests.fake_runpod.waiting import until

TOKEN = "story-token"
QUICK = SimulationSettings(provision_seconds=0, pull_seconds=0, ready_seconds=0, stop_grace_seconds=20)


def test_only_the_program_in_the_pod_reaches_beside_itself() -> None:
    package = Path(story_module.__file__).parents[1]
    allowed = re.compile(r"pod_worker\.(core|process|fake_runpod)\b")
    imports = re.compile(r"^(?:from|import) (pod_worker\.\w+)", re.MULTILINE)
    reaching = {
        path.name
        for path in package.rglob("*.py")
        for name in imports.findall(path.read_text())
        if not allowed.match(name)
    }
    assert reaching == {"scripted_run.py"}


def test_the_story_is_the_documented_one() -> None:
    beats = list(run_script())
    progress = [b.payload for b in beats if isinstance(b.payload, StageProgress) and b.payload.stage != "paper"]
    assert len(progress) == 12
    first = progress[0]
    assert (first.stage, first.iteration, first.max_iterations) == (
        "1_initial_implementation_1_preliminary",
        1,
        10,
    )
    assert (first.total_nodes, first.buggy_nodes, first.good_nodes) == (10, 0, 9)
    assert (first.best_metric, first.eta_s) == ("metric-0.10", 40)
    assert {p.max_iterations for p in progress[3:]} == {5}
    paper = [b.payload for b in beats if isinstance(b.payload, RunLog)]
    assert len(paper) == 15
    assert paper[0].kv is not None
    assert paper[0].kv["substep"] == "collecting_figures"
    assert sum(isinstance(b.payload, StageCompleted) for b in beats) == 5
    assert sum(b.after_seconds for b in beats) == 12 * 20 + 15 * 5


@pytest.fixture
def database(mongodb_url: str) -> Iterator[Mongo]:
    database = connect(mongodb_url)
    yield database
    database.client.close()


@pytest.fixture
def control_plane(database: Mongo) -> Iterator[str]:
    """A real control plane over a real database, served on a thread."""
    app = build_app(database, None, token=TOKEN, open_on_loopback=False)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2))
    listener = bind("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    until(lambda: server.started, "the control plane")
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()
    listener.close()


@pytest.fixture
def cloud(control_plane: str, s3: S3Access, tmp_path: Path) -> Iterator[Api]:
    """A fake whose pods tell their story 500 times as fast, to that control plane and a real store."""
    defaults = {
        "CONTROL_PLANE_URL": control_plane,
        "CONTROL_PLANE_TOKEN": TOKEN,
        "MINIO_ENDPOINT": s3.endpoint,
        "MINIO_ACCESS_KEY": s3.access_key,
        "MINIO_SECRET_KEY": s3.secret_key,
        "MINIO_BUCKET": s3.bucket,
    }
    options = Options(
        settings=QUICK, make_runner=lambda runtime: ScriptedRunner(tmp_path, runtime, speed=500, defaults=defaults)
    )
    with running(options) as fake, Api(fake) as api:
        yield api


def rent(api: Api, **env: str) -> str:
    body = {"name": "run", "imageName": "i", "gpuTypeIds": [GPU], "env": env}
    made = api.post("/pods", json=body)
    assert made.status_code == 201
    return str(made.json()["id"])


def ended(api: Api, pod_id: str) -> bool:
    return bool(api.pod(pod_id)["status"] == "EXITED")


def events(database: Mongo, run_id: str) -> dict[str, int]:
    counted: dict[str, int] = {}
    for event in database["events"].find({"runId": run_id}):
        counted[event["type"]] = counted.get(event["type"], 0) + 1
    return counted


def test_a_pod_tells_its_run_from_start_to_end(
    cloud: Api, database: Mongo, s3_client: Minio, s3: S3Access
) -> None:
    database["runs"].insert_one({"_id": "r1", "pipeline": "experiment", "queue": "default", "status": "SCHEDULED"})
    pod_id = rent(cloud, RUN_ID="r1")
    until(lambda: ended(cloud, pod_id), "the pod's end")
    counted = events(database, "r1")
    assert counted["ai.run.started"] == counted["ai.run.completed"] == 1
    assert counted["ai.run.stage_progress"] == 12 + 15
    assert counted["ai.run.stage_completed"] == 5
    assert counted["ai.run.log"] == 15
    assert counted["ai.artifact.registered"] == counted["ai.paper.generated"] == 1
    until(
        lambda: database["runs"].find_one({"_id": "r1", "status": "COMPLETED"}), "the view of it, a moment later"
    )
    run = database["runs"].find_one({"_id": "r1"})
    assert run is not None
    assert run["pod"]["id"] == pod_id
    assert run["lastHeartbeat"]
    stages = {stage["name"]: stage["status"] for stage in database["stages"].find({"runId": "r1"})}
    assert stages["1_initial_implementation_1_preliminary"] == stages["paper"] == "COMPLETED"
    stored = s3_client.get_object(s3.bucket, "runs/r1/1/result.txt")
    assert stored.read() == b"fake run output\n"
    stored.close()


def test_a_run_can_be_made_to_fail(cloud: Api, database: Mongo) -> None:
    database["runs"].insert_one({"_id": "r2", "pipeline": "experiment", "queue": "default", "status": "SCHEDULED"})
    pod_id = rent(cloud, RUN_ID="r2", FAKE_RUN_FAILS="1")
    until(lambda: ended(cloud, pod_id), "the pod's end")
    failed = {"_id": "r2", "status": "FAILED", "errorCode": "INTERNAL"}
    until(lambda: database["runs"].find_one(failed), "the view of it, a moment later")
    assert "ai.artifact.registered" not in events(database, "r2")


def test_a_stopped_pod_says_so_before_it_goes(cloud: Api, database: Mongo) -> None:
    pod_id = rent(cloud, RUN_ID="r3", FAKE_SPEED="1")
    until(lambda: events(database, "r3").get("ai.run.started"), "the start")
    cloud.delete(f"/v2/pods/{pod_id}").raise_for_status()
    until(lambda: events(database, "r3").get("ai.run.preempted"), "its last word")
    assert "ai.run.completed" not in events(database, "r3")


def test_a_pod_without_a_run_idles_and_says_why(cloud: Api) -> None:
    pod_id = rent(cloud)
    log = cloud.fake.runtime.simulator.log_of(cloud.fake.runtime.simulator.find(pod_id))
    until(lambda: log.tail(1, "container"), "a word")
    assert log.tail(1, "container")[0].text == "RUN_ID not set in the environment: this pod idles"
