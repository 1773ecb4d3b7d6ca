"""The events of a research run as data.

Four stages of iterations are followed by a paper in fifteen steps. Stage names, iterations, payloads and times
are those of seed document 000 (5 minutes at speed 1). `scripted_run.py` emits them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pod_worker.core.payload import PaperStarted, Payload, RunLog, StageCompleted, StageProgress, StageStarted
from pod_worker.core.run import Json

ITERATION_SECONDS = 20.0
SUBSTEP_SECONDS = 5.0
HEARTBEAT_SECONDS = 10.0
ITERATIONS = 3
STAGES = (
    ("1_initial_implementation_1_preliminary", 10),
    ("2_baseline_tuning_1_first_attempt", 5),
    ("3_creative_research_1_first_attempt", 5),
    ("4_ablation_studies_1_first_attempt", 5),
)
"""Name and maximum number of iterations; the stage stops after `ITERATIONS`."""
PAPER = "paper"
PAPER_STEPS: tuple[tuple[str, tuple[str, ...], dict[str, Json]], ...] = (
    (
        "plot_aggregation",
        ("collecting_figures", "validating_plots", "generating_captions"),
        {"figures_collected": 8},
    ),
    (
        "citation_gathering",
        ("searching_literature", "filtering_relevant", "formatting_citations"),
        {"citations_found": 15},
    ),
    (
        "paper_writeup",
        (
            "writing_abstract",
            "writing_introduction",
            "writing_methodology",
            "writing_results",
            "writing_discussion",
            "writing_conclusion",
        ),
        {"word_count": 4500},
    ),
    ("paper_review", ("review_1", "review_2", "review_3"), {"avg_score": 7.2}),
)


@dataclass(frozen=True, slots=True)
class ScriptedEvent:
    """One event, `after_seconds` (at speed 1) after the previous one."""

    after_seconds: float
    payload: Payload


def run_script() -> Iterator[ScriptedEvent]:
    """All events between the run's start and its artifact."""
    for number, (name, max_iterations) in enumerate(STAGES, 1):
        yield from _stage(number, name, max_iterations)
    yield from _paper()


def _stage(number: int, name: str, max_iterations: int) -> Iterator[ScriptedEvent]:
    yield ScriptedEvent(0, StageStarted(stage=name))
    for iteration in range(ITERATIONS):
        progress = (iteration + 1) / max_iterations
        yield ScriptedEvent(
            ITERATION_SECONDS,
            StageProgress(
                stage=name,
                iteration=iteration + 1,
                max_iterations=max_iterations,
                progress=progress,
                total_nodes=10 + iteration,
                buggy_nodes=iteration,
                good_nodes=9 - iteration,
                best_metric=f"metric-{progress:.2f}",
                eta_s=ITERATION_SECONDS * (ITERATIONS - iteration - 1),
            ),
        )
    summary: dict[str, Json] = {
        "main_stage_number": number,
        "substage_number": 1,
        "substage_name": "fake-substage",
        "reason": "completed",
    }
    yield ScriptedEvent(0, StageCompleted(stage=name, duration_s=ITERATION_SECONDS * ITERATIONS, summary=summary))


def _paper() -> Iterator[ScriptedEvent]:
    yield ScriptedEvent(0, PaperStarted())
    yield ScriptedEvent(0, StageStarted(stage=PAPER, desc="paper generation"))
    total = sum(len(substeps) for _, substeps, _ in PAPER_STEPS)
    done = 0
    for step, substeps, details in PAPER_STEPS:
        for index, substep in enumerate(substeps, 1):
            done += 1
            kv: dict[str, Json] = {
                "step": step,
                "substep": substep,
                "progress": done / total,
                "step_progress": index / len(substeps),
                "details": details,
            }
            progress = StageProgress(stage=PAPER, progress=done / total, iteration=done, max_iterations=total)
            yield ScriptedEvent(SUBSTEP_SECONDS, progress)
            yield ScriptedEvent(0, RunLog(message=f"{step}: {substep}", kv=kv, source="paper_generation"))
    yield ScriptedEvent(0, StageCompleted(stage=PAPER, duration_s=SUBSTEP_SECONDS * total))
