"""Telling people that the worker is alive and how its machine is doing, every few seconds, in a thread.

A picture only: whether a run is alive is decided by its lease, which `renewal` keeps.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from pod_worker.core.payload import RunHeartbeat
from pod_worker.core.stage import EventEmitter
from pod_worker.worker.machine import Machine

log = logging.getLogger(__name__)


def machine_metrics(machine: Machine) -> RunHeartbeat:
    load = machine.load()
    gpu = load.gpu
    return RunHeartbeat(
        gpu_util=gpu.util if gpu else None,
        mem_gb=gpu.used_gb if gpu else None,
        temp_c=gpu.temp_c if gpu else None,
        gpu_power_w=gpu.power_w if gpu else None,
        cpu_pct=load.cpu_pct,
        rss_gb=load.rss_gb,
        disk_free_gb=load.disk_free_gb,
    )


class PeriodicThread:
    """Calls `action` every `every_seconds` from `start` to `stop`; a beat that fails is logged, never fatal."""

    def __init__(self, name: str, every_seconds: float, action: Callable[[], object]) -> None:
        self._every_seconds = every_seconds
        self._beat = action
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while True:
            try:
                self._beat()
            except Exception as error:
                log.warning("heartbeat failed: %s: %s", type(error).__name__, error)
            if self._stopping.wait(self._every_seconds):
                return


def run_heartbeat(emitter: EventEmitter, machine: Machine, every_seconds: float) -> PeriodicThread:
    return PeriodicThread("heartbeat", every_seconds, lambda: emitter.emit(machine_metrics(machine)))
