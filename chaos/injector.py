"""What each kind of fault does, and how it is undone. One short function per kind, named as in the plan.

A fault returns the function that undoes it, or None. The conductor calls it when the fault ends. The plan decides
when and where.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

from pymongo.errors import PyMongoError

from chaos.arena import ChaosCluster, ControlPlaneProcess
from chaos.journal import Journal
from chaos.plan import BY_NAME, KINDS, Planned, Target
from chaos.pod import Pod, send
from chaos.proxy import Link, LinkState
from chaos.sightings import ProcessMonitor
from pod_worker.local.member import MongodMember
from pod_worker.store.queue.operations import OperatorActions

Undo: TypeAlias = Callable[[], None] | None
OFFLINE_SECONDS = 3.0  # of work whose events do not arrive, before the worker dies
STOP, CONT, KILL, TERM = signal.SIGSTOP, signal.SIGCONT, signal.SIGKILL, signal.SIGTERM


@dataclass(frozen=True, slots=True)
class FaultContext:
    """What a fault is given. `work` takes what would block the conductor."""

    planned: Planned
    arena: ChaosCluster
    operations: OperatorActions
    sightings: ProcessMonitor
    work: ThreadPoolExecutor

    @property
    def pod(self) -> Pod:
        return self.arena.pods[self.planned.target]

    @property
    def control(self) -> ControlPlaneProcess:
        return self.arena.controls[self.planned.target]

    @property
    def target_name(self) -> str:
        target = BY_NAME[self.planned.kind].target
        if target is Target.POD:
            return self.pod.name
        return self.control.name if target is Target.CONTROL else target.value

    def weather(self, links: tuple[Link, ...], weather: LinkState) -> Undo:
        delay = 0.1 + 1.4 * self.planned.size
        for link in links:
            self.arena.proxy.set_link_state(link, weather, delay)

        def clear() -> None:
            for link in links:
                self.arena.proxy.set_link_state(link, LinkState.CLEAR)

        return clear


def inject(given: FaultContext, journal: Journal) -> Undo:
    """Do it and write it down, with the attempts that were on the pod."""
    planned = given.planned
    held = given.sightings.on_pod(given.target_name)
    journal.note("strike", planned.kind, given.target_name, planned.seconds, held=held)
    return _STRIKES[planned.kind](given)


def unavailable(arena: ChaosCluster) -> dict[str, str]:
    """Kinds that this machine cannot do, and why."""
    missing = {}
    if not all(pod.has_small_disk for pod in arena.pods):
        missing["fill_spool"] = "mounting a small tmpfs needs root"
    if arena.mongod is None:
        why = "the replica set was not started by this cluster"
        missing |= {kind.name: why for kind in KINDS if kind.target is Target.MONGODB}
    return missing


# ── processes ───────────────────────────────────────────────────────────────────────────────────────────────


def _kill_worker(given: FaultContext) -> Undo:
    given.pod.signal_worker(KILL)
    return None


def _kill_pod(given: FaultContext) -> Undo:
    for pid in given.pod.tree().all():
        send(pid, KILL)
    return None


def _kill_worker_and_guard(given: FaultContext) -> Undo:
    tree = given.pod.tree()
    for pid in (tree.guard, tree.worker):
        send(pid, KILL)
    return None


def _term_worker(given: FaultContext) -> Undo:
    given.pod.signal_worker(TERM)
    return None


def _pause_worker(given: FaultContext) -> Undo:
    pid = given.pod.signal_worker(STOP)
    return lambda: send(pid, CONT)


def _freeze_pod(given: FaultContext) -> Undo:
    pids = given.pod.tree().all()
    for pid in pids:
        send(pid, STOP)

    def thaw() -> None:
        for pid in pids:
            send(pid, CONT)

    return thaw


def _replace_worker(given: FaultContext) -> Undo:
    pid = given.pod.signal_worker(STOP)
    if pid is not None:
        given.pod.start_worker()

    def thaw() -> None:
        # The pod's owner wants one worker: the old one is told to leave as soon as it can hear.
        send(pid, CONT)
        send(pid, TERM)

    return thaw


def _kill_child(given: FaultContext) -> Undo:
    send(given.pod.tree().child, KILL)
    return None


def _kill_guard(given: FaultContext) -> Undo:
    send(given.pod.tree().guard, KILL)
    return None


def _freeze_guard(given: FaultContext) -> Undo:
    pid = given.pod.tree().guard
    send(pid, STOP)
    return lambda: send(pid, CONT)


# ── the pod's disk and clock, and its people ────────────────────────────────────────────────────────────────


def _fill_spool(given: FaultContext) -> Undo:
    pod = given.pod
    pod.fill_disk()
    return pod.free_disk


def _skew_clock(given: FaultContext) -> Undo:
    pod = given.pod
    pod.set_clock(round((given.planned.size - 0.5) * 2 * 3600))
    return lambda: pod.set_clock(0)


def _cancel_run(given: FaultContext) -> Undo:
    cancel = given.operations.cancel
    return _to_runs(given, lambda run: cancel(run, by="chaos", reason="the plan says so"))


def _reset_run(given: FaultContext) -> Undo:
    reset = given.operations.reset
    return _to_runs(given, lambda run: reset(run, by="chaos", force=True))


def _to_runs(given: FaultContext, verb: Callable[[str], object]) -> Undo:
    """The verb, for every run that has a living process on the pod, repeated while MongoDB is away."""
    for attempt in given.sightings.on_pod(given.pod.name):
        run = attempt.rpartition("/")[0]
        _later(given, lambda run=run: insist(lambda: verb(run)))  # type: ignore[misc]
    return None


def _kill_while_offline(given: FaultContext) -> Undo:
    """What the worker still emits stays on the pod until long after another worker took the run over."""
    pod = given.pod
    process = pod.processes[-1] if pod.processes else None
    clear = given.weather(pod.links["ingest"], LinkState.CUT)

    def kill_soon() -> None:
        time.sleep(OFFLINE_SECONDS)
        if process is not None:
            process.signal(KILL)

    _later(given, kill_soon)
    return clear


# ── networks ────────────────────────────────────────────────────────────────────────────────────────────────


def _on_pod(name: str, weather: LinkState) -> Callable[[FaultContext], Undo]:
    return lambda given: given.weather(given.pod.links[name], weather)


def _on_s3(weather: LinkState) -> Callable[[FaultContext], Undo]:
    return lambda given: given.weather((given.arena.s3_link,), weather)


def _on_control(weather: LinkState) -> Callable[[FaultContext], Undo]:
    return lambda given: given.weather(given.control.db, weather)


# ── servers ─────────────────────────────────────────────────────────────────────────────────────────────────


def _kill_s3(given: FaultContext) -> Undo:
    given.arena.s3.process.kill()
    given.arena.s3.kill()
    return lambda: _later(given, given.arena.s3.start)


def _kill_control(given: FaultContext) -> Undo:
    process = given.control.process
    process.kill()
    return process.start


def _freeze_control(given: FaultContext) -> Undo:
    process = given.control.process
    process.signal(STOP)
    return lambda: process.signal(CONT)


def _step_down(given: FaultContext) -> Undo:
    def ask() -> None:
        primary = _primary(given)
        if primary is None:
            return
        try:
            with primary.client(5) as client:
                client.admin.command("replSetStepDown", 6, secondaryCatchUpPeriodSecs=2, force=True)
        except PyMongoError:
            pass  # it closes its connections, or no secondary has caught up

    _later(given, ask)
    return None


def _kill_primary(given: FaultContext) -> Undo:
    primary = _primary(given)
    if primary is None:
        return None
    primary.kill()
    return lambda: _later(given, lambda: _restart(primary))


def _primary(given: FaultContext) -> MongodMember | None:
    return given.arena.mongod.primary() if given.arena.mongod else None


def _restart(member: MongodMember) -> None:
    member.start(60)


def _freeze_primary(given: FaultContext) -> Undo:
    primary = _primary(given)
    if primary is None:
        return None
    primary.pause()
    return primary.resume


def insist(work: Callable[[], object], seconds: float = 20.0) -> None:
    """Do what a person would: try again while a failover goes on."""
    end = time.monotonic() + seconds
    while True:
        try:
            work()
            return
        except PyMongoError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)


def _later(given: FaultContext, work: Callable[[], None]) -> None:
    given.work.submit(work)


_STRIKES: dict[str, Callable[[FaultContext], Undo]] = {
    "kill_worker": _kill_worker,
    "kill_pod": _kill_pod,
    "kill_worker_and_guard": _kill_worker_and_guard,
    "term_worker": _term_worker,
    "pause_worker": _pause_worker,
    "freeze_worker": _pause_worker,  # the plan makes it longer than the lease
    "freeze_pod": _freeze_pod,
    "replace_worker": _replace_worker,
    "kill_child": _kill_child,
    "kill_guard": _kill_guard,
    "freeze_guard": _freeze_guard,
    "fill_spool": _fill_spool,
    "skew_clock": _skew_clock,
    "kill_while_offline": _kill_while_offline,
    "cancel_run": _cancel_run,
    "reset_run": _reset_run,
    **{f"db_{kind.value}": _on_pod("db", kind) for kind in LinkState if kind is not LinkState.CLEAR},
    **{f"ingest_{kind.value}": _on_pod("ingest", kind) for kind in LinkState if kind is not LinkState.CLEAR},
    **{f"s3_{kind.value}": _on_s3(kind) for kind in LinkState if kind is not LinkState.CLEAR},
    **{f"control_db_{kind.value}": _on_control(kind) for kind in LinkState if kind is not LinkState.CLEAR},
    "kill_s3": _kill_s3,
    "kill_control": _kill_control,
    "freeze_control": _freeze_control,
    "step_down": _step_down,
    "kill_primary": _kill_primary,
    "freeze_primary": _freeze_primary,
}
