"""The simulated cloud: pods and their states over virtual time.

Pure: no clock, no network, no processes. The caller passes the time (`advance`), every change happens at its
exact instant, and `commands` lists what the runtime must do to containers.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import replace

from pod_worker.fake_runpod import timestamps
from pod_worker.fake_runpod.cloud.account import Account
from pod_worker.fake_runpod.cloud.account_billing import AccountBilling
from pod_worker.fake_runpod.cloud.catalogue import Catalogue
from pod_worker.fake_runpod.cloud.container_commands import ContainerCommand, StartContainer, StopContainer
from pod_worker.fake_runpod.cloud.faults import FaultKind, FaultRules, inject_pod_faults
from pod_worker.fake_runpod.cloud.logs import PodLog
from pod_worker.fake_runpod.cloud.placement import PodPlacer, fault_context_of
from pod_worker.fake_runpod.cloud.pod import Pod, PodSpec, Status
from pod_worker.fake_runpod.cloud.settings import SimulationSettings
from pod_worker.fake_runpod.cloud.timers import SURVIVES_RESTART, Timer, TimerKind, TimerQueue
from pod_worker.fake_runpod.errors import ApiError, ApiErrorKind, not_found
from pod_worker.fake_runpod.timestamps import from_seconds


class CloudSimulator:
    def __init__(
        self,
        account: Account,
        catalogue: Catalogue,
        now_ns: int,
        *,
        settings: SimulationSettings | None = None,
        seed: int = 0,
    ) -> None:
        self.account = account
        self.catalogue = catalogue
        self.settings = settings or SimulationSettings()
        self.now_ns = now_ns
        self.rng = random.Random(seed)
        self.timers = TimerQueue()
        self.faults = FaultRules(random.Random(seed + 1))
        self.placer = PodPlacer(account, catalogue, self.faults, self.rng)
        self.billing = AccountBilling(account)
        self.commands: deque[ContainerCommand] = deque()
        self._pods: dict[str, Pod] = {}
        self._logs: dict[str, PodLog] = {}
        self.created_count = 0
        self.terminated_count = 0

    # time

    def advance(self, to_ns: int) -> None:
        """Apply every timer that is due by `to_ns`, each at its own instant."""
        while (at := self.next_due_ns()) is not None and at <= to_ns:
            self.now_ns = max(self.now_ns, at)
            if at == self.billing.exhausted_at_ns:
                self._on_balance_exhausted()
            else:
                self._fire(self.timers.pop())
        self.now_ns = max(self.now_ns, to_ns)

    def next_due_ns(self) -> int | None:
        due = (self.timers.next_ns, self.billing.exhausted_at_ns)
        return min((at for at in due if at is not None), default=None)

    def _fire(self, timer: Timer) -> None:
        pod = self._pods.get(timer.pod_id)
        if pod is None or (timer.generation != pod.generation and timer.due not in SURVIVES_RESTART):
            return
        match timer.due:
            case TimerKind.PULL:
                self._pull(pod)
            case TimerKind.RUN:
                self._run(pod)
            case TimerKind.READY:
                pod.ready = True
            case TimerKind.FAIL:
                self.fail(pod, str(pod.injected_faults.error))
            case TimerKind.INTERRUPT:
                self.interrupt(pod, pod.injected_faults.notice_seconds)
            case TimerKind.EXIT | TimerKind.STOP:
                if "stop" in pod.actions:
                    self._stop(pod, "interrupted" if timer.due is TimerKind.EXIT else "stopAfter")
            case TimerKind.VANISH | TimerKind.TERMINATE:
                self._remove(pod, str(timer.due))

    # reading

    def pods(self) -> list[Pod]:
        """All pods that the API shows, oldest first."""
        return [pod for pod in self._pods.values() if pod.visible_ns <= self.now_ns]

    def all_pods(self) -> list[Pod]:
        """All pods, also those that the API does not show yet."""
        return list(self._pods.values())

    def find_hidden(self, pod_id: str) -> Pod | None:
        return self._pods.get(pod_id)

    def find(self, pod_id: str) -> Pod:
        pod = self._pods.get(pod_id)
        if pod is None or pod.visible_ns > self.now_ns:
            raise not_found("pod")
        return pod

    def log_of(self, pod: Pod) -> PodLog:
        return self._logs[pod.id]

    def billing_cutoff(self) -> int:
        return self.now_ns - from_seconds(self.settings.billing_lag_seconds)

    # creating

    def create(self, spec: PodSpec, surface: str) -> Pod:
        """Place and start a pod.

        Raises ApiError; with `create_then_500` after the pod exists.
        """
        pod = self.placer.index(spec, surface, self.now_ns)
        self.billing.check_affordable(pod, self.now_ns)
        self._register(pod)
        context = replace(fault_context_of(pod), surface=surface)
        for at_ns, due in inject_pod_faults(pod, self.faults, context, self.now_ns):
            self.timers.add(at_ns, due, pod.id)
        if rule := self.faults.trigger(FaultKind.CREATE_THEN_500, context, self.now_ns):
            raise ApiError(ApiErrorKind.SERVER, rule.message or "internal server error")
        return pod

    def _register(self, pod: Pod) -> None:
        self.created_count += 1
        self._pods[pod.id] = pod
        self._logs[pod.id] = PodLog()
        self.placer.take_gpus(pod)
        self.billing.open_pod(pod, self.now_ns)
        self._system_log(pod, f"create pod {pod.id} on machine {pod.machine_id} in {pod.data_center_id}")
        self._after(self.settings.provision_seconds, TimerKind.PULL, pod)
        for due, at_ns in (
            (TimerKind.STOP, pod.spec.stop_after_ns),
            (TimerKind.TERMINATE, pod.spec.terminate_after_ns),
        ):
            if at_ns is not None:
                self.timers.add(at_ns, due, pod.id)

    # boot

    def _pull(self, pod: Pod) -> None:
        if pod.injected_faults.stuck:
            return
        pod.status = Status.STARTING
        self._system_log(pod, f"pulling image {pod.spec.image}")
        seconds = (
            self.settings.pull_seconds
            if pod.injected_faults.pull_seconds is None
            else pod.injected_faults.pull_seconds
        )
        self._after(seconds, TimerKind.FAIL if pod.injected_faults.error else TimerKind.RUN, pod)

    def _run(self, pod: Pod) -> None:
        pod.status = Status.RUNNING
        pod.started_ns = self.now_ns
        self._system_log(pod, "start container")
        self._publish_ports(pod)
        if not pod.injected_faults.never_ready:
            self._after(self.settings.ready_seconds, TimerKind.READY, pod)
            self.commands.append(StartContainer(pod.id, pod.generation))

    # actions

    def act(self, pod: Pod, action: str) -> None:
        """start, stop, restart or terminate.

        Raises ApiError (STATE) unless the pod's status allows it.
        """
        if action not in pod.actions:
            allowed = ", ".join(pod.actions) or "none"
            raise ApiError(
                ApiErrorKind.STATE, f"cannot {action} a pod that is {pod.status}; allowed actions: {allowed}"
            )
        if action == "stop" and pod.spec.locked:
            raise ApiError(ApiErrorKind.STATE, "the pod is locked: unlock it before stopping it")
        match action:
            case "start":
                self._start(pod)
            case "stop":
                self._stop(pod, "Stopped by User")
            case "restart":
                self.restart(pod)
            case _:
                self._remove(pod, "terminated")

    def _start(self, pod: Pod) -> None:
        self.placer.retake_gpus(pod, self.now_ns)
        pod.generation += 1
        pod.status = Status.STARTING
        pod.last_change = f"Resumed by User: {timestamps.javascript_format(self.now_ns)}"
        self.billing.charge_pod(pod, self.now_ns)
        self._after(
            self.settings.start_seconds, TimerKind.FAIL if pod.injected_faults.error else TimerKind.RUN, pod
        )

    def restart(self, pod: Pod) -> None:
        """Restart the container in place: same machine, same ports."""
        self._stop_container(pod, "restart")
        pod.generation += 1
        pod.started_ns = self.now_ns
        self._system_log(pod, "restart container")
        if not pod.injected_faults.never_ready:
            if not pod.ready:
                self._after(self.settings.ready_seconds, TimerKind.READY, pod)
            self.commands.append(StartContainer(pod.id, pod.generation))

    def reconfigure(self, pod: Pod, spec: PodSpec) -> None:
        """Apply a changed spec; restart a running container if the change affects it."""
        before, pod.spec = pod.spec, spec
        self.billing.charge_pod(pod, self.now_ns)
        seen = ("image", "args", "start_cmd", "entrypoint", "env", "ports", "disk_gb", "volume_gb", "mount_path")
        if pod.status is Status.RUNNING and any(getattr(before, f) != getattr(spec, f) for f in seen):
            pod.ready = False
            self._publish_ports(pod)
            self.restart(pod)

    def interrupt(self, pod: Pod, notice_seconds: float) -> None:
        """Preempt a running spot pod: SIGTERM now, SIGKILL and EXITED after the notice.

        The volume stays.
        """
        if pod.status is Status.RUNNING:
            self._system_log(pod, f"spot instance interrupted, {notice_seconds:g} s notice")
            self.commands.append(
                StopContainer(pod.id, pod.generation, "interrupted", notice_seconds, remove_data=False)
            )
            self._after(notice_seconds, TimerKind.EXIT, pod)

    def fail(self, pod: Pod, message: str) -> None:
        """Set the pod to ERROR; the reason goes to the system log."""
        self._stop_container(pod, "error")
        pod.generation += 1
        pod.status = Status.ERROR
        self._system_log(pod, message)

    def delete_silently(self, pod: Pod) -> None:
        """Delete the pod without a trace, as a machine failure does."""
        self._remove(pod, "vanish")

    def record_exit(self, pod_id: str, generation: int, code: int) -> None:
        """The command in the pod ended. Ignored for an older generation of the pod."""
        pod = self._pods.get(pod_id)
        if pod is None or pod.generation != generation or pod.status is not Status.RUNNING:
            return
        self._system_log(pod, f"container exited with code {code}")
        if self.settings.restart_on_exit:
            self.restart(pod)
        else:
            self._stop(pod, f"Exited with code {code}")

    def record_output(self, pod_id: str, line: str) -> None:
        if log := self._logs.get(pod_id):
            log.write(self.now_ns, "container", line)

    def _stop(self, pod: Pod, reason: str) -> None:
        self._stop_container(pod, reason)
        self.placer.free_gpus(pod)
        pod.generation += 1
        pod.status = Status.EXITED
        pod.ready = False
        pod.last_change = f"{reason}: {timestamps.javascript_format(self.now_ns)}"
        self.billing.charge_pod(pod, self.now_ns)
        self._system_log(pod, f"stop container ({reason})")

    def _remove(self, pod: Pod, reason: str) -> None:
        notice = 0.0 if reason == TimerKind.VANISH else self.settings.stop_grace_seconds
        self.commands.append(StopContainer(pod.id, pod.generation, reason, notice, remove_data=True))
        self.placer.free_gpus(pod)
        pod.generation += 1
        pod.status = Status.TERMINATED
        self.terminated_count += 1
        del self._pods[pod.id]
        self.billing.close_pod(pod, self.now_ns)
        self._system_log(pod, f"remove container ({reason})")
        self._logs.pop(pod.id).close()

    def _stop_container(self, pod: Pod, reason: str) -> None:
        if pod.status is Status.RUNNING:
            grace = self.settings.stop_grace_seconds
            self.commands.append(StopContainer(pod.id, pod.generation, reason, grace, remove_data=False))

    def _on_balance_exhausted(self) -> None:
        """RunPod stops pods that have a network volume and destroys the others."""
        for pod in list(self._pods.values()):
            if pod.spec.network_volume_id is None:
                self._remove(pod, "balance is zero")
            elif "stop" in pod.actions:
                self._stop(pod, "balance is zero")
        self.billing.exhausted_at_ns = None

    def _publish_ports(self, pod: Pod) -> None:
        # The pod knows its ports from its start; the API shows them once the pod is ready.
        self.placer.machines.publish_ports(pod, self.settings.ssh_host, self.settings.ssh_port)

    def _system_log(self, pod: Pod, text: str) -> None:
        self._logs[pod.id].write(self.now_ns, "system", text)

    def _after(self, seconds: float, due: TimerKind, pod: Pod) -> None:
        self.timers.add(self.now_ns + from_seconds(seconds), due, pod.id, pod.generation)

    # reset and restore

    def clear(self) -> None:
        """Delete every bill, rule, volume, template and SSH key. There must be no pods."""
        self.billing = AccountBilling(self.account)
        self.timers = TimerQueue()
        self.faults.remove()
        self.created_count = self.terminated_count = 0
        account = self.account
        for resources in (account.volumes, account.templates, account.registries, account.secrets):
            resources.clear()
        account.ssh_keys.clear()

    def adopt_saved(self, pods: list[Pod]) -> None:
        """Add saved pods and start the containers of running ones."""
        for pod in pods:
            self._pods[pod.id] = pod
            self._logs[pod.id] = PodLog()
            if pod.status is not Status.EXITED:
                self.placer.take_gpus(pod)
            if pod.status is Status.RUNNING and not pod.injected_faults.never_ready:
                self.commands.append(StartContainer(pod.id, pod.generation))
        self.billing.recompute_exhaustion(self.now_ns)

    def drain_commands(self) -> Iterator[ContainerCommand]:
        while self.commands:
            yield self.commands.popleft()
