"""The pipeline `ideation`: record, model, literature and tasks of one stage."""

from __future__ import annotations

from collections.abc import Sequence

from pod_worker.core.run import Json
from pod_worker.core.stage import Context, Stage
from pod_worker.stages.ideation.params import IdeationParams, parse


def stages_of(params: dict[str, Json]) -> tuple[Stage, ...]:
    parsed = parse(params)
    return (Stage("ideation", lambda context: _run(context, parsed)),)


def _run(context: Context, params: IdeationParams) -> dict[str, Json]:
    # Clients are imported by the child that runs the stage, never by the supervisor.
    from pod_worker.llm.spending.limits import SpendCaps
    from pod_worker.stages.ideation.run import run_ideation
    from pod_worker.stages.language_models import cost_of, open_models
    from pod_worker.stages.literature_index import open_literature
    from pod_worker.stages.research.record import RunRecord

    record = RunRecord(context)
    record.open(context)
    caps = SpendCaps(usd=params.max_usd, tokens=params.max_tokens, calls=params.max_calls)
    client, _ = open_models(context, params.model, caps, record.folder / "llm")

    def saved() -> dict[str, Json]:
        """A copy of answers and ledger, so that another pod pays nothing twice."""
        record.save(context)
        return {"record": record.latest, "cost": cost_of(client)}

    literature = open_literature(context, params.literature, params.model)
    return run_ideation(context, params, client, literature, task_facts(params.tasks), saved)


def task_facts(names: Sequence[str]) -> list[dict[str, Json]]:
    """What a model is told about these tasks, or about all shipped ones.

    Raises RunError(INVALID_INPUT) for a task that does not exist.
    """
    from pod_worker.tasks.catalogue import find_task, list_tasks

    tasks = [find_task(name) for name in names] if names else list_tasks()
    return [
        {
            "name": task.name,
            "title": task.title,
            "description": task.description,
            "metric": task.metric.name,
            "kind": task.kind,
        }
        for task in tasks
    ]
