"""What another person needs to repeat the experiments of a run."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

from pod_worker.core.run import Json
from pod_worker.core.stage import ArtifactKind, Context
from pod_worker.search.reports.summary import results
from pod_worker.search.reports.tree_svg import tree_svg
from pod_worker.search.tree.journal import read_state
from pod_worker.search.tree.state import SearchState
from pod_worker.stages.research.search_session import SearchSession

README = """# Experiments of run {run_id}

{title}

Task `{task}`, measure {metric} ({direction} is better). Splits, seeds and programs follow from the seed {seed}.
The language model was `{model}`.{scripted}

| File | Content |
|---|---|
| `journal.ndjson` | every decision, program hash, outcome and score, in order; one JSON object a line |
| `results.json` | digest of the data; stages with their nodes, seeds, search and hidden scores |
| `tree.svg` | the search tree |
| `ledger.ndjson` | every call of a language model: operation, tokens, seconds, micro-dollars |
| `environment.txt` | the Python packages of the machine that executed the programs |
| `../Stage_N/best_solution.py` | the best program of each stage |

Execute the best programs again and compare their scores:

    pod-worker runs replay {run_id}

A program by hand: set `TASK_DIR` to the task's public folder, `OUTPUT_DIR` to an empty folder and `RUN_SEED` to a
seed of `results.json`, then run `python best_solution.py`.
"""


def write_reproduction(context: Context, session: SearchSession) -> Iterator[tuple[Path, ArtifactKind]]:
    folder = session.folder / "reproduction"
    folder.mkdir(exist_ok=True)
    state, task = read_state(session.folder), session.task.task
    is_scripted = any(node.is_scripted for node in state.nodes.values())
    texts = {
        "README.md": README.format(
            run_id=context.run.id,
            title=session.idea.title,
            task=task.name,
            metric=task.metric.name,
            direction=task.metric.direction,
            seed=session.params.seed,
            model=session.model,
            scripted=" A scripted model wrote the programs." if is_scripted else "",
        ),
        "results.json": json.dumps(_results(context.run.id, session, state), indent=1),
        "tree.svg": tree_svg(state),
        "environment.txt": _environment(),
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
        yield folder / name, ArtifactKind.FIGURE if name.endswith(".svg") else ArtifactKind.DATA
    yield session.folder / "journal.ndjson", ArtifactKind.DATA
    yield session.folder / "llm" / "ledger.ndjson", ArtifactKind.DATA


def _results(run_id: str, session: SearchSession, state: SearchState) -> dict[str, Json]:
    """`stages.research.replay.RecordedExperiment` reads it."""
    task = session.task.task
    metric = {"name": task.metric.name, "direction": task.metric.direction, "unit": task.metric.unit}
    return {
        "run_id": run_id,
        "seed": session.params.seed,
        "task": {"name": task.name, "digest": session.task.digest},
        "metric": metric,
        "stages": results(state, task.metric),
    }


def _environment() -> str:
    packages = sorted({f"{each.metadata['Name']}=={each.version}" for each in distributions()}, key=str.lower)
    return "\n".join([f"# Python {platform.python_version()} on {platform.platform()}", *packages, ""])
