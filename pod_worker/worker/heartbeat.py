"""The heartbeat of a run: the machine's metrics as an event every few seconds.

For people only: the lease, which `renewal` keeps, decides whether a run is alive.
"""

from __future__ import annotations

from pod_worker.core.payload import RunHeartbeat
from pod_worker.core.stage import EventEmitter
from pod_worker.process.supervised_thread import SupervisedThread, every
from pod_worker.worker.machine import Machine


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


def heartbeat_thread(emitter: EventEmitter, machine: Machine, seconds: float) -> SupervisedThread:
    return SupervisedThread("heartbeat", every(seconds, lambda: emitter.emit(machine_metrics(machine))))
