"""The program in a pod of `--pods runner`: one scripted run.

It sends events through the real emitter and shipper. A composition root (`python -m
pod_worker.fake_runpod.containers.scripted_run`) that reads its environment: RUN_ID, CONTROL_PLANE_URL,
CONTROL_PLANE_TOKEN, RUNPOD_POD_ID, RUN_ATTEMPT (default: the current one), FAKE_SPEED, FAKE_RUN_FAILS, and
MINIO_* for the upload of its artifact. It claims no run and computes nothing. The events change the status of a
run that is SCHEDULED without a lease; a QUEUED run stays QUEUED.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from pod_worker.artifacts.object_store import ObjectStore, ObjectStoreError
from pod_worker.core.clock import SystemClock
from pod_worker.core.payload import (
    ArtifactRegistered,
    PaperGenerated,
    RunCompleted,
    RunFailed,
    RunHeartbeat,
    RunLog,
    RunPreempted,
    RunStarted,
)
from pod_worker.fake_runpod.containers.run_script import HEARTBEAT_SECONDS, PAPER, run_script
from pod_worker.outbox.emitter import Emitter
from pod_worker.outbox.ids import UlidGenerator
from pod_worker.outbox.shipper import Shipper
from pod_worker.outbox.spool import Spool, pod_stream, run_stream

FLUSH_SECONDS = 30.0
ARTIFACT_TEXT = "fake run output\n"
Environment = Mapping[str, str]


class PodStoppedError(Exception):
    """The pod is being stopped."""


def main(env: Environment, folder: Path) -> int:
    """0 when the script completed, 1 with FAKE_RUN_FAILS, 143 when stopped."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda signum, frame: stop.set())
    clock = SystemClock()
    spool = Spool.open(folder / "spool", env["RUNPOD_POD_ID"])
    shipper = Shipper([spool], env["CONTROL_PLANE_URL"], env.get("CONTROL_PLANE_TOKEN"), log=_log)
    emitter = _emitter(env, spool, clock)
    shipper.start()
    try:
        return ScriptedRun(env, emitter, stop, folder).run()
    finally:
        if not shipper.flush(FLUSH_SECONDS):
            _log(f"events are left in {spool.directory}: {shipper.stats().last_failure}")
        shipper.stop()
        spool.close()


def _emitter(env: Environment, spool: Spool, clock: SystemClock) -> Emitter:
    run_id, attempt = env["RUN_ID"], int(env["RUN_ATTEMPT"]) if env.get("RUN_ATTEMPT") else None
    source = f"runpod://pod/{env['RUNPOD_POD_ID']}"
    # Without an attempt no attempt's token may speak for the events.
    stream = run_stream(run_id, attempt) if attempt else pod_stream(env["RUNPOD_POD_ID"])
    return Emitter(spool, stream, source, f"run/{run_id}", clock, UlidGenerator(clock), attempt)


class ScriptedRun:
    """One run from `ai.run.started` to `ai.run.completed`, with heartbeats."""

    def __init__(self, env: Environment, emitter: Emitter, stop: threading.Event, folder: Path) -> None:
        self._env = env
        self._emit = emitter.emit
        self._stop = stop
        self._folder = folder
        self._speed = float(env.get("FAKE_SPEED", "1"))
        self._is_over = threading.Event()

    def run(self) -> int:
        started = time.monotonic()
        _log(f"run {self._env['RUN_ID']} starts at speed {self._speed:g}")
        self._emit(self._started())
        heartbeat = threading.Thread(target=self._send_heartbeats, name="heartbeat", daemon=True)
        heartbeat.start()
        try:
            self._play_script()
        except PodStoppedError:
            self._emit(RunPreempted(reason="the pod was stopped"))
            return 128 + signal.SIGTERM
        finally:
            self._is_over.set()
            heartbeat.join()
        if self._env.get("FAKE_RUN_FAILS") in ("1", "true"):
            self._emit(RunFailed(code="INTERNAL", message="FAKE_RUN_FAILS was set", stage=PAPER, retryable=False))
            return 1
        self._publish()
        self._emit(RunCompleted(total_duration_s=(time.monotonic() - started) * self._speed))
        _log("run completed")
        return 0

    def _started(self) -> RunStarted:
        names = {"gpu": "RUNPOD_GPU_NAME", "region": "RUNPOD_DC_ID", "worker_id": "WORKER_ID"}
        known = {field: self._env.get(name) or None for field, name in names.items()}
        return RunStarted(pod_id=self._env["RUNPOD_POD_ID"], **known)

    def _play_script(self) -> None:
        for event in run_script():
            if self._stop.wait(event.after_seconds / self._speed):
                raise PodStoppedError
            self._emit(event.payload)
            if event.after_seconds:
                _log(_describe(event.payload))

    def _send_heartbeats(self) -> None:
        while not self._is_over.wait(HEARTBEAT_SECONDS / self._speed):
            self._emit(RunHeartbeat(gpu_util=97.0, mem_gb=20.0, temp_c=61.0))

    def _publish(self) -> None:
        """Upload a file to the object store, if the environment names one."""
        text = ARTIFACT_TEXT.encode()
        path = self._folder / "result.txt"
        path.write_bytes(text)
        attempt = self._env.get("RUN_ATTEMPT") or "1"
        key = f"runs/{self._env['RUN_ID']}/{attempt}/result.txt"
        try:
            store = _store(self._env)
            if store is None:
                self._emit(
                    RunLog(
                        level="warning",
                        message="MINIO_ENDPOINT is not set in the pod: the artifact is not uploaded",
                    )
                )
                return
            store.put(key, path, "text/plain")
        except ObjectStoreError as error:
            self._emit(RunLog(level="error", message=f"the artifact could not be uploaded: {error}"))
            return
        digest = hashlib.sha256(text).hexdigest()
        about = {"content_type": "text/plain", "kind": "report", "sha256": digest}
        self._emit(ArtifactRegistered(key=key, bytes=len(text), **about))
        self._emit(PaperGenerated(artifact_key=key, word_count=4500))


def _store(env: Environment) -> ObjectStore | None:
    if not env.get("MINIO_ENDPOINT"):
        return None
    names = ("MINIO_ENDPOINT", "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY", "MINIO_BUCKET")
    return ObjectStore(*(env.get(name, "") for name in names))


def _describe(payload: object) -> str:
    stage, iteration = getattr(payload, "stage", ""), getattr(payload, "iteration", None)
    return f"{stage} iteration {iteration} complete"


def _log(text: str) -> None:
    print(text, flush=True)


def missing_variables(env: Environment) -> list[str]:
    """Required variables that are not set."""
    return [name for name in ("RUN_ID", "CONTROL_PLANE_URL", "RUNPOD_POD_ID") if not env.get(name)]


if __name__ == "__main__":
    if absent := missing_variables(os.environ):
        sys.exit(f"the pod's environment lacks {', '.join(absent)}")
    sys.exit(main(os.environ, Path.cwd()))
