"""From a new pod to a running worker.

A pod whose worker does not start is terminated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.cli.output import say

if TYPE_CHECKING:
    from pod_worker.cli.pods.session import PodAccount
    from pod_worker.pods.launch.launcher import Launched

POLL_SECONDS = 5.0


def start_worker(account: PodAccount, worker_id: str, launched: Launched, *, keep: bool) -> int:
    """Wait for the pod, install pod_worker, start the worker.

    A failure, Ctrl-C included, terminates the pod if this command created it. With `keep`, or for a pod of an
    earlier command, it names what is still billed.
    """
    pod_id = launched.pod.id
    try:
        _start(account, worker_id, pod_id)
    except BaseException:
        # None: the pod is older than this command, and a worker may be running on it.
        is_new = launched.candidate is not None
        _give_back(account, launched) if is_new and not keep else _warn_still_billed(launched)
        raise
    log = f"pod-worker pods ssh {pod_id} tail -f .pod_worker/worker.log"
    say(f"the worker runs on {pod_id}; follow its log with: {log}")
    return ExitCode.OK


def _start(account: PodAccount, worker_id: str, pod_id: str) -> None:
    from pod_worker.pods.launch.readiness import BootFailed, wait_until_ready

    say("waiting for the pod to boot (the image may take minutes)")
    state = wait_until_ready(account.provider, pod_id, clock=account.clock, sleep=account.sleep)
    if isinstance(state, BootFailed):
        raise CommandError(state.reason, ExitCode.TEMPORARY)
    client = account.client()
    try:
        report = client.check_and_initialize_worker(worker_id, pod_id)
        while report["status"] == "spawning":
            say(f"not yet: {report.get('note', '')}")
            account.sleep(POLL_SECONDS)
            report = client.check_and_initialize_worker(worker_id, pod_id)
        if report["status"] == "error":
            raise CommandError(report["error"])
        if not client.start_worker_process(pod_id, worker_id):
            raise CommandError("the worker did not start; its log is above")
    finally:
        client.close()


def _give_back(account: PodAccount, launched: Launched) -> None:
    """Terminate the pod; no failure of that may hide the first one."""
    pod_id = launched.pod.id
    say(f"the worker does not run, so pod {pod_id} is being terminated (--keep keeps it)")
    try:
        client = account.client()
        try:
            is_gone = client.terminate_worker(pod_id)
        finally:
            client.close()
    except Exception as error:
        say(f"terminating failed: {type(error).__name__}: {error}")
        is_gone = False
    if is_gone:
        say(f"pod {pod_id} is terminated; it is no longer billed")
    else:
        _warn_still_billed(launched)


def _warn_still_billed(launched: Launched) -> None:
    pod = launched.pod
    price = "at an unknown price" if pod.cost_per_hour is None else f"at ${pod.cost_per_hour:.2f}/h"
    say(f"WARNING: pod {pod.id} IS STILL BILLED {price}. Terminate it with: pod-worker pods terminate {pod.id}")
