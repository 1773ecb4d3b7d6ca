"""`--pods runner`: every pod emits the events of a scripted research run.

The start command of the pod is ignored (seed document 000). Each scripted run is a process, started and stopped
like any other container.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pod_worker.fake_runpod.cloud.pod import Pod
from pod_worker.fake_runpod.containers.process_runner import ProcessRunner
from pod_worker.fake_runpod.containers.runner import ContainerEvents

PROGRAM = (sys.executable, "-m", "pod_worker.fake_runpod.containers.scripted_run")


class ScriptedRunner:
    def __init__(
        self,
        root: Path,
        events: ContainerEvents,
        *,
        speed: float = 1.0,
        defaults: dict[str, str] | None = None,
        search_path: str = os.defpath,
    ) -> None:
        """`speed` divides the script's times.

        `defaults`: variables for pods whose own environment lacks them, such as CONTROL_PLANE_URL.
        """
        self._processes = ProcessRunner(root, events, search_path=search_path)
        self._events = events
        self._defaults = {"FAKE_SPEED": f"{speed or 1:g}"} | (defaults or {})

    def start(self, pod: Pod, env: dict[str, str], start_command: tuple[str, ...]) -> None:
        full = self._defaults | env
        if absent := [name for name in ("RUN_ID", "CONTROL_PLANE_URL") if not full.get(name)]:
            self._events.report_output(
                pod.id, f"{' and '.join(absent)} not set in the environment: this pod idles"
            )
            return
        self._processes.start(pod, full, PROGRAM)

    def stop(self, pod_id: str, reason: str, notice_seconds: float, *, is_final: bool) -> None:
        self._processes.stop(pod_id, reason, notice_seconds, is_final=is_final)

    def close(self) -> None:
        self._processes.close()
