"""`pod-worker worker`: builds the daemon from settings and runs it.

It works until a signal or a limit ends it.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import click

from pod_worker import __version__
from pod_worker.cli.composition import StoreSession, connect_store, create_indexes
from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.cli.log_output import configure_logging, make_redactor
from pod_worker.cli.options import GpuIndices
from pod_worker.config import Settings
from pod_worker.core.clock import Clock, SystemClock
from pod_worker.core.credentials.secret import Redactor, revealed
from pod_worker.core.model_access import ModelAccess
from pod_worker.core.research.ideation import PIPELINE as IDEATION
from pod_worker.outbox.backlog import Backlog
from pod_worker.outbox.emitter import PodEmitter, RunEmitter
from pod_worker.outbox.ids import UlidGenerator
from pod_worker.outbox.shipper import Shipper
from pod_worker.outbox.spool import Spool, adopt_orphans
from pod_worker.pipelines import MODES, PIPELINES
from pod_worker.process.tree import become_subreaper, deny_inspection
from pod_worker.sandbox.identity import SANDBOX_UID
from pod_worker.stack_settings import load_settings
from pod_worker.store.mongo import redacted
from pod_worker.store.queue.change_stream import QueueWatcher
from pod_worker.store.worker_registry import WorkerRegistry
from pod_worker.worker import machine as machines
from pod_worker.worker import preflight, signals, uncaught_errors
from pod_worker.worker.attempt.attempt_environment import AttemptEnvironment
from pod_worker.worker.attempt.end_sequence import StopTimeouts
from pod_worker.worker.child_environment import child_environment
from pod_worker.worker.child_io import event_source
from pod_worker.worker.daemon import (
    Daemon,
    ExitLimits,
    ShutdownRequest,
    WorkerIntervals,
    WorkerOutbox,
    WorkerStore,
)
from pod_worker.worker.identity import WorkerIdentity
from pod_worker.worker.isolation.attempt_tag import kill_unguarded
from pod_worker.worker.isolation.child_user import (
    AUTO,
    DEFAULT_UID,
    ChildUser,
    ChildUserError,
    make_way,
    prepare_home,
    usable_user,
)
from pod_worker.worker.work_folders import WorkFolders

log = logging.getLogger("pod_worker.worker")
MIB = 1024 * 1024
VISIBLE_GPUS = machines.VISIBLE_GPUS


@click.command()
@click.option(
    "--mode",
    type=click.Choice(list(MODES)),
    help="Which queues to claim from. [default: WORKER_MODE, else all]",
)
@click.option(
    "--queue", "queues", multiple=True, metavar="NAME", help="Claim from this queue instead; repeatable."
)
@click.option(
    "--gpus",
    type=GpuIndices(),
    metavar="LIST",
    help="GPUs of this worker, such as 0,1; its runs see no other. [default: all GPUs of the pod]",
)
@click.option("--run-id", help="Execute this run, then exit.")
@click.option("--max-runs", type=click.IntRange(1), help="Exit after so many runs.")
@click.option(
    "--exit-when-idle",
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="Exit when no run was claimable for so long.",
)
@click.pass_context
def worker(
    ctx: click.Context,
    mode: str | None,
    queues: tuple[str, ...],
    gpus: tuple[int, ...] | None,
    run_id: str | None,
    max_runs: int | None,
    exit_when_idle: float | None,
) -> None:
    """Claim runs and execute them, one at a time.

    SIGTERM (or Ctrl-C) stops claiming, lets the run write a checkpoint, gives it back to the queue and exits with
    143; a second one does not wait. Exit codes: 0 ended by a limit, 1 a run failed, 75 this pod cannot work now.
    """
    debug = bool(ctx.obj and ctx.obj.get("debug"))
    configure_logging(debug)
    settings = load_settings()
    chosen = mode or settings.worker_mode
    if chosen not in MODES:
        raise CommandError(f"WORKER_MODE {chosen!r} is not one of {', '.join(MODES)}", ExitCode.USAGE)
    if not queues and not set(MODES[chosen]) & PIPELINES.keys():
        log.warning(
            "mode %s: this version has no pipeline for it, so no run can be claimed; use --mode all", chosen
        )
    if gpus is not None:
        os.environ[VISIBLE_GPUS] = ",".join(map(str, gpus))  # of the preflight and of every run
        os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # the order in which NVML counts: else 0 may be another GPU
    limits = ExitLimits(run_id, max_runs, exit_when_idle)
    shutdown = ShutdownRequest()
    daemon = build(settings, chosen, queues or MODES[chosen], limits, shutdown, gpus)
    uncaught_errors.install(daemon.report, "worker", make_redactor())
    deny_inspection()  # a run of this user must not read the keys in our environment
    become_subreaper()  # what outlives even a guard that was killed becomes our child
    dedicated_uids = (DEFAULT_UID, SANDBOX_UID) if os.geteuid() == 0 else ()
    for pid in kill_unguarded(settings.work_dir, dedicated_uids):
        log.warning("killed orphaned run process %d (its worker and guard had both been killed)", pid)
    signals.listen(
        lambda number: _on_signal(number, shutdown, daemon), signal.SIGTERM, signal.SIGINT, signal.SIGHUP
    )
    code = daemon.run()
    logging.shutdown()
    # Threads that wait for a change stream's answer must not hold up the end.
    sys.stdout.flush()
    os._exit(code)


def _on_signal(number: signal.Signals, shutdown: ShutdownRequest, daemon: Daemon) -> None:
    is_repeated = shutdown.requested.is_set()
    action = "giving the run back now" if is_repeated else "finishing up; once more to force"
    log.warning("%s: %s", number.name, action)
    shutdown.request(f"the worker received {number.name}")
    daemon.request_shutdown()


def build(
    settings: Settings,
    mode: str,
    queues: tuple[str, ...],
    limits: ExitLimits,
    shutdown: ShutdownRequest,
    gpus: tuple[int, ...] | None = None,
) -> Daemon:
    """Everything a worker needs, from settings.

    Raises ConfigurationError; an unreachable store is preflight's.
    """
    clock = SystemClock()
    store = connect_store(settings, "pod_worker worker")
    machine = machines.Machine(settings.work_dir, _gpu_monitor(gpus, os.environ))
    new_id = UlidGenerator(clock)
    identity = _identity(settings, mode, queues, machine, new_id)
    user = _child_user(settings)  # first: it makes the way to the folders
    spool = Spool.open(settings.spool_dir, identity.worker_id, settings.pod_worker_spool_max_mb * MIB)
    log.info("worker %s: MongoDB %s, database %s", identity.worker_id, redacted(store.url), store.database.name)
    log.info(
        "worker %s: control plane %s, spool %s", identity.worker_id, settings.control_plane_url, spool.directory
    )
    redactor = make_redactor()
    return Daemon(
        identity,
        _worker_store(settings, store, queues),
        _outbox(settings, identity, spool, clock, new_id, redactor),
        _attempt_environment(settings, spool, redactor, user),
        checks=_checks(settings, store, gpus, len(identity.gpus), clock),
        machine=machine,
        clock=clock,
        intervals=_intervals(settings),
        timeouts=_timeouts(settings),
        limits=limits,
        shutdown=shutdown,
        rng=random.Random(),
    )


def _gpu_monitor(gpus: tuple[int, ...] | None, env: Mapping[str, str]) -> machines.GpuMonitor:
    """The GPUs of `--gpus`, else of CUDA_VISIBLE_DEVICES, else all of the pod.

    Raises CommandError for a GPU of `--gpus` that is not there: the worker would offer fewer than it was given.
    """
    try:
        return machines.GpuMonitor(machines.owned_gpus(env) if gpus is None else gpus)
    except machines.UnknownGpuError as error:
        if gpus is not None:
            raise CommandError(f"--gpus names {error}", ExitCode.USAGE) from None
        # As CUDA does: the variable may be set on a machine without a GPU.
        log.warning("this worker has no GPU: %s names %s", VISIBLE_GPUS, error)
        return machines.GpuMonitor(())


def _identity(
    settings: Settings, mode: str, queues: tuple[str, ...], machine: machines.Machine, new_id: UlidGenerator
) -> WorkerIdentity:
    pod_id = machines.pod_id(os.environ)
    return WorkerIdentity(
        worker_id=f"{pod_id}:{new_id()[-12:].lower()}",
        pod_id=pod_id,
        mode=mode,
        queues=queues,
        pipelines=tuple(PIPELINES),
        version=__version__,
        host=os.uname().nodename,
        pid=os.getpid(),
        gpus=tuple(machine.gpus),
        region=settings.pod_worker_region or machines.region(os.environ),
        image=settings.pod_worker_image,
    )


def _worker_store(settings: Settings, store: StoreSession, queues: tuple[str, ...]) -> WorkerStore:
    def watch(on_change: Callable[[], None]) -> QueueWatcher | None:
        is_wanted = settings.pod_worker_change_stream
        return QueueWatcher(store.database, on_change=on_change) if is_wanted else None

    ideation = store.ideation() if IDEATION in queues else None
    return WorkerStore(store.queue(), store.rescue(), WorkerRegistry(store.database), watch, ideation)


def _outbox(
    settings: Settings,
    identity: WorkerIdentity,
    spool: Spool,
    clock: Clock,
    new_id: UlidGenerator,
    redactor: Redactor,
) -> WorkerOutbox:
    source = event_source(identity.pod_id)
    return WorkerOutbox(
        _shipper(settings, spool, clock, redactor),
        PodEmitter(spool, source, identity.pod_id, clock, new_id, redactor),
        lambda run_id, attempt: RunEmitter(spool, source, run_id, attempt, clock, new_id, redactor=redactor),
    )


def _attempt_environment(
    settings: Settings, spool: Spool, redactor: Redactor, user: ChildUser | None
) -> AttemptEnvironment:
    variables = child_environment(os.environ, _names(settings.pod_worker_child_env))
    folders = WorkFolders(settings.work_dir, user, int(settings.pod_worker_kept_work_gb * 10**9))
    if user:
        spool.share_with_group(user.gid)
        variables = prepare_home(user, settings.work_dir, variables)
        log.info("runs work under user %s (%d)", user.name, user.uid)
    return AttemptEnvironment(
        spool_dir=spool.directory,
        spool_max_bytes=spool.max_bytes,
        work_folders=folders,
        control_plane_url=settings.control_plane_url,
        control_plane_token=revealed(settings.control_plane_token),
        variables=variables,
        child_user=user,
        model_access=_model_access(settings),
        sandbox_floor=settings.pod_worker_sandbox_floor,
        redactor=redactor,
    )


def _model_access(settings: Settings) -> ModelAccess:
    return ModelAccess(
        provider=settings.pod_worker_llm,
        openai_api_key=revealed(settings.openai_api_key),
        openai_base_url=settings.openai_base_url,
        anthropic_api_key=revealed(settings.anthropic_api_key),
        anthropic_base_url=settings.anthropic_base_url,
        prices_file=settings.pod_worker_llm_prices,
        output=settings.pod_worker_llm_output,
        cassettes=settings.pod_worker_llm_cassettes,
    )


def _child_user(settings: Settings) -> ChildUser | None:
    """The user of runs.

    Where the default one is not possible, runs keep ours, with a warning.
    """
    setting, folders = settings.pod_worker_child_user, [settings.work_dir, settings.spool_dir]
    try:
        user = usable_user(setting, folders)
    except ChildUserError as error:
        if setting != AUTO:
            raise CommandError(str(error), ExitCode.USAGE) from None
        log.warning("runs work under the worker's own user, root, and could reach its keys: %s", error)
        return None
    for folder in folders if user else []:
        make_way(folder)
    return user


def _names(text: str) -> set[str]:
    return {name.strip() for name in text.split(",") if name.strip()}


def _intervals(settings: Settings) -> WorkerIntervals:
    return WorkerIntervals(
        poll_seconds=settings.pod_worker_poll_seconds,
        renew_seconds=settings.pod_worker_renew_seconds,
        heartbeat_seconds=settings.pod_worker_heartbeat_seconds,
        rescue_seconds=settings.pod_worker_rescue_seconds,
        flush_seconds=settings.pod_worker_flush_seconds,
    )


def _timeouts(settings: Settings) -> StopTimeouts:
    return StopTimeouts(
        cancel_seconds=settings.pod_worker_cancel_seconds,
        drain_seconds=settings.pod_worker_grace_seconds,
        kill_seconds=settings.pod_worker_kill_seconds,
    )


def _shipper(settings: Settings, spool: Spool, clock: Clock, redactor: Redactor) -> Shipper:
    orphans = adopt_orphans(settings.spool_dir, settings.pod_worker_spool_max_mb * MIB)
    for orphan in orphans:
        if any(Backlog(folder).pending_bytes() for folder in orphan.stream_folders()):
            log.info("delivering what a worker that has ended left behind: %s", orphan.directory.name)
    return Shipper(
        [spool, *orphans],
        settings.control_plane_url,
        revealed(settings.control_plane_token),
        settings.pod_worker_batch_events,
        settings.pod_worker_batch_seconds,
        clock,
        log=log.warning,
        redactor=redactor,
    )


def _checks(
    settings: Settings, store: StoreSession, gpus: tuple[int, ...] | None, gpu_count: int, clock: Clock
) -> list[preflight.Check]:
    required = settings.pod_worker_required_gpus
    expected = machines.expected_gpus(os.environ) if gpus is None else len(gpus)
    needed = expected if required is None else required
    return [
        preflight.store_check(store.database, store.url, create_indexes),
        preflight.clock_check(store.database, clock.now),
        preflight.disk_check(Path(settings.work_dir), settings.pod_worker_min_disk_gb),
        preflight.gpu_check(needed, gpu_count, preflight.probe_cuda),
        preflight.control_plane_check(settings.control_plane_url, revealed(settings.control_plane_token)),
    ]
