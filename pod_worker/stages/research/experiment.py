"""The pipeline `experiment`: search, then plots, paper and validation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pod_worker.core.failure import CancelRequested, Interruption, RunError
from pod_worker.core.run import Json
from pod_worker.core.stage import ArtifactKind, Context, Stage
from pod_worker.stages.research.params import ExperimentParams, parse

if TYPE_CHECKING:
    from pod_worker.stages.research.search_session import SearchSession

SEARCH_STAGES = ("Stage_1", "Stage_2", "Stage_3", "Stage_4")


def stages_of(params: dict[str, Json]) -> tuple[Stage, ...]:
    """The stages of one attempt; they share one session."""
    experiment = Experiment(parse(params))
    searches = tuple(Stage(name, experiment.run_search) for name in SEARCH_STAGES)
    return (
        *searches,
        Stage("plots", experiment.run_plots),
        Stage("paper", experiment.run_paper),
        Stage("validation", experiment.run_validation),
    )


class Experiment:
    def __init__(self, params: ExperimentParams) -> None:
        self._params = params
        self._session: SearchSession | None = None

    def run_search(self, context: Context) -> dict[str, Json]:
        session = self._opened(context)
        iterations = getattr(self._params, f"{context.stage.lower()}_iterations")
        try:
            summary = session.search(context).run_stage(context.stage, iterations)
        except (Interruption, RunError) as error:
            if not isinstance(error, CancelRequested):
                session.save(context)  # the next attempt may run on another pod
            raise
        if summary.best:
            program = session.write_program(summary.best, context.stage)
            context.artifacts.publish(program, ArtifactKind.CODE, name=f"{context.stage}/best_solution.py")
        session.save(context)
        if context.stage == SEARCH_STAGES[-1]:
            self._publish_reproduction(context, session)
        return {**summary.to_json(), **session.state()}

    def run_plots(self, context: Context) -> dict[str, Json]:
        from pod_worker.stages.research.writing import run_plots

        return run_plots(context, self._opened(context))

    def run_paper(self, context: Context) -> dict[str, Json]:
        from pod_worker.stages.research.writing import run_paper

        return run_paper(context, self._opened(context))

    def run_validation(self, context: Context) -> dict[str, Json]:
        from pod_worker.stages.research.writing import run_validation

        return run_validation(context, self._opened(context))

    def _publish_reproduction(self, context: Context, session: SearchSession) -> None:
        """Here, so that a failed paper loses no experiment."""
        from pod_worker.stages.research.reproduction import write_reproduction

        for path, kind in write_reproduction(context, session):
            context.artifacts.publish(path, kind, name=f"reproduction/{path.name}")

    def _opened(self, context: Context) -> SearchSession:
        # Numeric libraries and clients are imported by the child that runs the stage, never by the supervisor.
        from pod_worker.stages.research.search_session import open_session

        if self._session is None:
            self._session = open_session(context, self._params)
        return self._session
