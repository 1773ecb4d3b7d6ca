"""The classic `RunpodClient`: create, set up, use and terminate worker pods.

It has the methods, return shapes and status flow of the original orchestrators, on top of the provider
interface, the launcher and pinned SSH. A failed provider read is never reported as a dead worker. It is
synchronous and keeps no state besides cool-downs.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from pod_worker.core.clock import Clock
from pod_worker.core.pod_intent import IntentLog
from pod_worker.pods.errors import ProviderError
from pod_worker.pods.launch.launcher import Launched, Launcher, LaunchFailed, LaunchRequest
from pod_worker.pods.launch.readiness import BOOT_SECONDS, BootFailed, Booting, classify_boot
from pod_worker.pods.launch_requests import bootstrap_of, worker_launch_request
from pod_worker.pods.pod import Pod
from pod_worker.pods.provider import Absent, Known, PodProvider, ReadResult, Unknown
from pod_worker.pods.runpod_settings import RunpodSettings
from pod_worker.pods.ssh.bootstrap import StepReport, StepStatus, run_steps
from pod_worker.pods.ssh.bootstrap_scripts import BootstrapPlan, start_script, steps
from pod_worker.pods.ssh.client import (
    SshAuthenticationError,
    SSHClient,
    SshConnectionLostError,
    SshUnreachableError,
    connect_with_retry,
)
from pod_worker.pods.ssh.host_keys import HostKeyChangedError, HostKeyPins
from pod_worker.pods.ssh.login import SshError, SshLogin
from pod_worker.pods.worker_reports import (
    PodReport,
    SpawnedWorker,
    WorkerReport,
    empty_report,
    pod_report,
    ssh_details,
)

log = logging.getLogger(__name__)


class SpawnError(Exception):
    """No pod was launched; `result` has the reason and the failed candidates."""

    def __init__(self, result: LaunchFailed) -> None:
        tried = "".join(f"\n  {failed.candidate}: {failed.message}" for failed in result.failed_candidates)
        super().__init__(f"{result.reason.value}: {result.detail}{tried}")
        self.result = result


@dataclass(frozen=True, slots=True)
class PodTimeouts:
    """Seconds."""

    boot: float = BOOT_SECONDS
    ssh: float = 90.0
    ssh_every: float = 3.0


DEFAULT_TIMEOUTS = PodTimeouts()


class RunpodClient:
    def __init__(
        self,
        settings: RunpodSettings,
        *,
        provider: PodProvider,
        launcher: Launcher,
        log: IntentLog,
        pins: HostKeyPins,
        clock: Clock,
        sleep: Callable[[float], None],
        bootstrap: BootstrapPlan | None = None,
        timeouts: PodTimeouts = DEFAULT_TIMEOUTS,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._provider = provider
        self._launcher = launcher
        self._intents = log
        self._pins = pins
        self._clock = clock
        self._sleep = sleep
        self._bootstrap = bootstrap or bootstrap_of(settings)
        self._timeouts = timeouts
        self._on_close = on_close

    def close(self) -> None:
        self._provider.close()
        self._on_close()

    def spawn_worker(self, worker_id: str, worker_env: Mapping[str, str] | None = None) -> SpawnedWorker:
        """Create a pod for the worker and return while it boots.

        The worker id is the launch request's id: the same id gives the same pod while it exists. The pod's name
        is the worker id with a suffix, because names are never reused. Raises SpawnError or NotAvailableError.
        """
        result = self._launcher.launch(self.launch_request_for(worker_id, worker_env))
        if isinstance(result, LaunchFailed):
            raise SpawnError(result)
        pod = result.pod
        log.info("worker %s: pod %s (%s) at $%s/h", worker_id, pod.id, pod.gpu_id, pod.cost_per_hour)
        return {
            "runpod_id": pod.id,
            "worker_id": worker_id,
            "status": "spawning",
            "pod_name": pod.name or result.intent_name,
            "gpu_type": _gpu_of(result),
            "cost_per_hr": pod.cost_per_hour,
            "pod_details": pod_report(pod, self._settings.ssh_password),
        }

    def launch_request_for(self, worker_id: str, worker_env: Mapping[str, str] | None = None) -> LaunchRequest:
        """The launch request of `spawn_worker`, to show before money is spent.

        It raises NotAvailableError.
        """
        return worker_launch_request(self._settings, self._provider, worker_id, worker_env or {})

    def check_and_initialize_worker(self, worker_id: str, runpod_id: str) -> WorkerReport:
        """spawning -> active (initialized) or error. Finished steps are not repeated."""
        state = classify_boot(
            self._provider.get(runpod_id), age_seconds=self._age(runpod_id), boot_seconds=self._timeouts.boot
        )
        match state:
            case Booting(note):
                return {"status": "spawning", "note": note}
            case BootFailed(reason):
                return {"status": "error", "error": reason}
        try:
            with contextlib.closing(self._connect(runpod_id)) as client:
                reports = self._initialize(client)
        except (SshUnreachableError, SshAuthenticationError, SshConnectionLostError) as not_yet:
            return self._ssh_failure(runpod_id, not_yet)
        except (SshError, HostKeyChangedError) as error:
            return {"status": "error", "error": str(error)}
        failed = next((report for report in reports if report.outcome is StepStatus.FAILED), None)
        if failed is not None:
            return {"status": "error", "error": str(failed)}
        log.info("worker %s: pod %s is initialized", worker_id, runpod_id)
        return {"status": "active", "ssh_details": ssh_details(state.ssh)}

    def start_worker_process(self, runpod_id: str, worker_id: str) -> bool:
        """Start `pod-worker worker` in the background, once; True when it runs.

        Its settings are the pod's own environment, so no secret is sent."""
        script = start_script(self._bootstrap, self._settings.worker_mode)
        try:
            with contextlib.closing(self._connect(runpod_id)) as client:
                result = client.run("bash -s", timeout_seconds=60, stdin=script)
        except (SshError, HostKeyChangedError) as error:
            log.error("worker %s: cannot be started on pod %s: %s", worker_id, runpod_id, error)
            return False
        if not result.is_success:
            log.error("worker %s: did not start on pod %s: %s", worker_id, runpod_id, result.stderr.strip())
        return result.is_success

    def terminate_worker(self, runpod_id: str) -> bool:
        """Terminate the pod. False when the provider did not confirm it.

        A sweep then repeats it for pods of this project; for other pods call it again."""
        if (intent := self._intents.of_pod(runpod_id)) is not None:
            self._launcher.retire_and_terminate(intent.name, runpod_id)
        else:
            with contextlib.suppress(ProviderError):
                self._provider.terminate(runpod_id)
        self._pins.forget(runpod_id)
        read = self._provider.get(runpod_id)
        is_gone = isinstance(read, Absent) or (isinstance(read, Known) and read.value.status.is_gone)
        log.info("pod %s: %s", runpod_id, "terminated" if is_gone else f"termination not confirmed ({read})")
        return is_gone

    def get_ssh_client(self, runpod_id: str) -> SSHClient:
        """Not connected yet. Raises SshUnreachableError while the pod has no SSH address."""
        client = self._client_for(runpod_id)
        if client is None:
            raise SshUnreachableError(f"pod {runpod_id} has no SSH address (yet); see get_pod_status")
        return client

    def execute_command_on_worker(self, runpod_id: str, command: str, timeout: int = 600) -> tuple[int, str, str]:
        """(exit_code, stdout, stderr); exit code -1 on a timeout.

        Raises SshError, HostKeyChangedError.
        """
        with contextlib.closing(self._connect(runpod_id)) as client:
            return client.execute_command(command, timeout)

    def get_pod_status(self, runpod_id: str) -> PodReport:
        match self._provider.get(runpod_id):
            case Known(pod):
                return pod_report(pod, self._settings.ssh_password)
            case Absent():
                is_new = self._age(runpod_id) < 120.0
                word = "PROVISIONING" if is_new else "TERMINATED"
                return empty_report(runpod_id, word, "ABSENT", self._settings.ssh_password)
            case Unknown(error):
                report = empty_report(runpod_id, "UNKNOWN", "UNKNOWN", self._settings.ssh_password)
                report["error"] = str(error)
                return report

    def _initialize(self, client: SSHClient) -> tuple[StepReport, ...]:
        return run_steps(
            client,
            self._bootstrap,
            steps(self._bootstrap),
            clock=self._clock,
            gpu=self._settings.require_gpu,
            on_report=lambda report: log.info("%s", report),
        )

    def _connect(self, runpod_id: str) -> SSHClient:
        return connect_with_retry(
            lambda: self._client_for(runpod_id),
            timeout_seconds=self._timeouts.ssh,
            every_seconds=self._timeouts.ssh_every,
            monotonic=self._clock.monotonic,
            sleep=self._sleep,
        )

    def _client_for(self, runpod_id: str) -> SSHClient | None:
        read = self._provider.get(runpod_id)
        if not isinstance(read, Known) or read.value.ssh is None:
            return None
        return SSHClient(read.value.ssh, self._login(), pod_id=runpod_id, pins=self._pins)

    def _login(self) -> SshLogin:
        login = self._settings.login
        has_key = login.private_key is not None or login.private_key_path is not None
        return login if has_key else SshLogin(password=self._settings.ssh_password)

    def _ssh_failure(self, runpod_id: str, error: SshError) -> WorkerReport:
        if self._age(runpod_id) < self._timeouts.boot:
            return {"status": "spawning", "note": str(error)}
        return {"status": "error", "error": str(error)}

    def _age(self, runpod_id: str) -> float:
        """Seconds since the create was sent.

        For a pod without an intent, since its creation time, else infinite.
        """
        intent = self._intents.of_pod(runpod_id)
        since: datetime | None = intent.recorded_at if intent is not None else None
        if since is None:
            read: ReadResult[Pod] = self._provider.get(runpod_id)
            since = read.value.created_at if isinstance(read, Known) else None
        return float("inf") if since is None else (self._clock.now() - since).total_seconds()


def _gpu_of(result: Launched) -> str:
    return result.pod.gpu_id or (result.candidate.gpu_id if result.candidate else "")
