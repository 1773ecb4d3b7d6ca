"""Which live workers could claim a run, and which requirements they do not meet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pod_worker.core.run import Requirements, Run
from pod_worker.core.worker_offer import LOWER_BOUNDS, WorkerOffer, unmet_requirements
from pod_worker.pipelines import MODES
from pod_worker.store.worker_registry import WorkerRecord, WorkerState
from pod_worker.worker.machine import names_of_gpu

# What people call a requirement; `{}` stands for its value.
_TEXTS = {
    "gpu": "GPU {}",
    "min_vram_gb": "at least {} GB of GPU memory",
    "max_vram_gb": "at most {} GB of GPU memory",
    "gpu_count": "{} GPUs",
    "cpus": "{} CPU cores",
    "memory_gb": "{} GB of memory",
    "disk_gb": "{} GB of free disk",
    "region": "region {}",
}


def explain_workers(run: Run, workers: Sequence[WorkerRecord]) -> list[str]:
    """Lines of plain text: who could claim the run, or what is missing."""
    modes = [mode for mode, queues in MODES.items() if run.queue in queues]
    alive = [worker for worker in workers if _is_alive(worker)]
    serving = [worker for worker in alive if run.queue in (worker.queues or MODES.get(worker.mode, ()))]
    if not modes and not serving:
        return [
            f"No worker serves queue {run.queue!r}: no worker mode includes it. Start one with `pod-worker worker "
            f"--queue {run.queue}`. Or queue a copy in another queue and cancel this run: pod-worker runs clone "
            f"{run.id} --queue {run.pipeline}"
        ]
    if not serving:
        others = ", ".join(f"{count} in mode {mode}" for mode, count in Counter(w.mode for w in alive).items())
        there = f" ({others})" if others else ""
        mode = "all" if "all" in modes else modes[0]
        start = f"No running worker serves this queue{there}. Start one: pod-worker worker --mode {mode}"
        return [*_needs_line(run), start]
    able = [worker for worker in serving if not unmet_requirements(run.requirements, _offer(worker))]
    if not able:
        return _no_match(run.requirements, serving)
    idle = sum(worker.state == WorkerState.IDLE for worker in able)
    lines = [f"{len(able)} worker{'s' if len(able) != 1 else ''} can claim it; {idle} idle."]
    return (
        _needs_line(run)
        + lines
        + [f"{w.worker_id} refuses to work: {w.reason}" for w in able if w.state == WorkerState.UNHEALTHY]
    )


def _is_alive(worker: WorkerRecord) -> bool:
    return worker.state not in (WorkerState.GONE, WorkerState.STOPPED)


def _offer(worker: WorkerRecord) -> WorkerOffer:
    """What the worker reported.

    A record of an earlier version has the name of a GPU alone: then nothing else is held against it.
    """
    if worker.offer is not None:
        return worker.offer
    if worker.gpu is None:
        return WorkerOffer()
    unknown = float("inf")
    return WorkerOffer(tuple(names_of_gpu(worker.gpu)), gpu_count=2**31, smallest_vram_gb=unknown)


def _needs_line(run: Run) -> list[str]:
    needs = describe_requirements(run.requirements)
    return [f"It needs a pod with {needs}."] if needs else []


def describe_requirements(needs: Requirements) -> str:
    """In words; empty without requirements."""
    return ", ".join(_text(needs, field) for field in _TEXTS if getattr(needs, field) is not None)


def _text(needs: Requirements, field: str) -> str:
    value = getattr(needs, field)
    if field == "gpu_count" and value == 1:
        return "1 GPU"
    return _TEXTS[field].format(value if isinstance(value, str) else f"{value:g}")


def _no_match(needs: Requirements, serving: Sequence[WorkerRecord]) -> list[str]:
    have = Counter(worker.gpu or "no GPU" for worker in serving)
    there = ", ".join(f"{count} with {gpu}" for gpu, count in have.items())
    offers = [_offer(worker) for worker in serving]
    unmet = [unmet_requirements(needs, offer) for offer in offers]
    nowhere = [field for field in _TEXTS if all(field in each for each in unmet)]
    lines = [
        f"No running worker meets its requirements. It needs a pod with {describe_requirements(needs)}; "
        f"the queue's workers are: {there}."
    ]
    lines += [f"No worker has {_text(needs, field)}{_best(field, offers)}." for field in nowhere]
    if not nowhere:
        lines.append("Each requirement is met by a worker, but no worker meets all of them.")
    return [*lines, "Start a worker on such a pod, or submit the run with other requirements."]


def _best(field: str, offers: Sequence[WorkerOffer]) -> str:
    """The nearest that a worker offers."""
    if field in LOWER_BOUNDS:
        return f": the most is {max(getattr(offer, LOWER_BOUNDS[field]) for offer in offers):g}"
    if field == "max_vram_gb":
        return f": the least is {min(offer.largest_vram_gb for offer in offers):g}"
    if field == "region":
        return f": there are {', '.join(sorted({offer.region or 'unknown' for offer in offers}))}"
    return ""
