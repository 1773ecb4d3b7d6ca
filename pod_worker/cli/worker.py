"""`pod-worker worker`: puts the daemon together from settings and runs it until it is told to stop."""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
import time
from pathlib import Path

import click

from pod_worker import __version__
from pod_worker.cli.composition import StoreSession, create_indexes, load_settings
from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.cli.log_output import configure_logging, make_redactor
from pod_worker.config import Settings
from pod_worker.core.clock import Clock, SystemClock
from pod_worker.core.secret import revealed
from pod_worker.outbox.emitter import PodEmitter, RunEmitter
from pod_worker.outbox.ids import UlidGenerator
from pod_worker.outbox.shipper import Shipper
from pod_worker.outbox.spool import Spool, adopt_orphans
from pod_worker.pipelines import MODES, PIPELINES
from pod_worker.process.tree import become_subreaper
from pod_worker.store.mongo import connect, redacted
from pod_worker.store.queue.change_stream import QueueWatcher
from pod_worker.store.queue.run_queue import ClaimingWorker
from pod_worker.store.worker_registry import WorkerInfo, WorkerRegistry
from pod_worker.worker import machine as machines
from pod_worker.worker import preflight, signals, uncaught_errors
from pod_worker.worker.child_io import event_source
from pod_worker.worker.daemon import Daemon, ExitLimits, ShutdownRequest, WorkerIntervals, clean_work_dirs
from pod_worker.worker.guarded_child import sweep_unguarded
from pod_worker.worker.supervisor import AttemptEnvironment, StopTimeouts

log = logging.getLogger("pod_worker.worker")
STALE_WORK_SECONDS = 3 * 24 * 3600.0
MIB = 1024 * 1024


@click.command()
@click.option(
    "--mode",
    type=click.Choice(list(MODES)),
    help="Which queues to claim from. [default: WORKER_MODE or experiment]",
)
@click.option("--run-id", help="Execute this run, then exit.")
@click.option("--max-runs", type=click.IntRange(1), help="Exit after so many runs.")
@click.option(
    "--exit-when-idle",
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="Exit when nothing was claimable for so long.",
)
@click.pass_context
def worker(
    ctx: click.Context, mode: str | None, run_id: str | None, max_runs: int | None, exit_when_idle: float | None
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
    limits = ExitLimits(run_id, max_runs, exit_when_idle)
    stop = ShutdownRequest()
    daemon = build(settings, chosen, limits, stop)
    uncaught_errors.install(daemon.report, "worker", make_redactor())
    become_subreaper()  # what outlives even a guard that was killed comes back to us
    for pid in sweep_unguarded():
        log.warning("killed process %d of a run that a worker killed together with its guard had left behind", pid)
    signals.listen(lambda number: _on_signal(number, stop, daemon), signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    code = daemon.run()
    logging.shutdown()
    # Threads that wait for a change stream's answer must not hold up the end.
    sys.stdout.flush()
    os._exit(code)


def _on_signal(number: signal.Signals, stop: ShutdownRequest, daemon: Daemon) -> None:
    again = stop.requested.is_set()
    log.warning("%s: %s", number.name, "giving the run back now" if again else "finishing up; once more to force")
    stop.request(f"the worker received {number.name}")
    daemon.request_shutdown()


def build(settings: Settings, mode: str, limits: ExitLimits, stop: ShutdownRequest) -> Daemon:
    """Everything a worker needs, from settings. Raises ConfigurationError; an unreachable store is preflight's."""
    clock = SystemClock()
    env = os.environ
    url = settings.require_mongodb_url()
    machine = machines.Machine(settings.work_dir)
    store = StoreSession(connect(url, app_name="pod_worker worker"), url, settings)
    gpus = machine.gpus
    pod = machines.pod_id(env)
    new_id = UlidGenerator(clock)
    worker_id = f"{pod}:{new_id()[-12:].lower()}"
    region = settings.pod_worker_region or machines.region(env)
    gpu = gpus[0].name if gpus else None
    spool = Spool.open(settings.spool_dir, worker_id, settings.pod_worker_spool_max_mb * MIB)
    log.info("worker %s: MongoDB %s, database %s", worker_id, redacted(url), store.database.name)
    log.info("worker %s: control plane %s, spool %s", worker_id, settings.control_plane_url, spool.directory)
    for stale in clean_work_dirs(settings.work_dir, STALE_WORK_SECONDS, time.time()):
        log.info("removed the old work folder %s", stale.name)
    return Daemon(
        queue=store.queue(),
        rescue=store.rescue(),
        register=WorkerRegistry(store.database),
        wakeup=lambda wake: (
            QueueWatcher(store.database, on_change=wake) if settings.pod_worker_change_stream else None
        ),
        claimant=ClaimingWorker(
            worker_id=worker_id,
            pod_id=pod,
            queues=MODES[mode],
            pipelines=tuple(PIPELINES),
            gpu=gpu,
            gpu_names=machines.gpu_names(gpus),
            vram_gb=max((each.vram_gb for each in gpus), default=0.0),
            region=region,
        ),
        card=WorkerInfo(
            worker_id, pod, mode, __version__, os.uname().nodename, os.getpid(), gpu, len(gpus), region
        ),
        place=AttemptEnvironment(
            pod_id=pod,
            worker_id=worker_id,
            spool_dir=spool.directory,
            spool_max_bytes=spool.max_bytes,
            work_dir=settings.work_dir,
            control_plane_url=settings.control_plane_url,
            control_plane_token=revealed(settings.control_plane_token),
            gpu=gpu,
            region=region,
            image=settings.pod_worker_image,
        ),
        run_emitter=lambda run_id, attempt: RunEmitter(spool, event_source(pod), run_id, attempt, clock, new_id),
        pod_emitter=PodEmitter(spool, event_source(pod), pod, clock, new_id),
        delivery=_shipper(settings, spool, clock),
        checks=_checks(settings, store, len(gpus), clock),
        machine=machine,
        env=machines.child_environment(env),
        clock=clock,
        rhythm=WorkerIntervals(
            poll_seconds=settings.pod_worker_poll_seconds,
            renew_seconds=settings.pod_worker_renew_seconds,
            heartbeat_seconds=settings.pod_worker_heartbeat_seconds,
            rescue_seconds=settings.pod_worker_rescue_seconds,
            flush_seconds=settings.pod_worker_flush_seconds,
        ),
        patience=StopTimeouts(
            cancel_seconds=settings.pod_worker_cancel_seconds,
            drain_seconds=settings.pod_worker_grace_seconds,
            kill_seconds=settings.pod_worker_kill_seconds,
        ),
        limits=limits,
        stop=stop,
        rng=random.Random(),
    )


def _shipper(settings: Settings, spool: Spool, clock: Clock) -> Shipper:
    orphans = adopt_orphans(settings.spool_dir, settings.pod_worker_spool_max_mb * MIB)
    for orphan in orphans:
        log.info("adopted the spool of a dead worker: %s", orphan.directory.name)
    return Shipper(
        [spool, *orphans],
        settings.control_plane_url,
        revealed(settings.control_plane_token),
        settings.pod_worker_batch_events,
        settings.pod_worker_batch_seconds,
        clock,
        log=log.warning,
    )


def _checks(settings: Settings, store: StoreSession, gpu_count: int, clock: Clock) -> list[preflight.Check]:
    required = settings.pod_worker_required_gpus
    needed = machines.expected_gpus(os.environ) if required is None else required
    return [
        preflight.store_check(store.database, store.url, create_indexes),
        preflight.clock_check(store.database, clock.now),
        preflight.disk_check(Path(settings.work_dir), settings.pod_worker_min_disk_gb),
        preflight.gpu_check(needed, gpu_count, preflight.probe_cuda),
        preflight.control_plane_check(settings.control_plane_url),
    ]
