"""A whole experiment: twice it is the same run, and repeating its writing costs nothing."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pod_worker.sandbox.client import SandboxClient
from pod_worker.search.tree.journal import JOURNAL_NAME, whole_records
from tests.stages.research.experiment import SEARCHES, SMALL, WRITING, SmallExperiment


@pytest.fixture(scope="module")
def again(small_experiment: SmallExperiment, code_runner: SandboxClient, open_folder: Path) -> SmallExperiment:
    """The same run id, parameters and seed from scratch, in another folder."""
    found = SmallExperiment(open_folder / "again", code_runner)
    found.run(*SEARCHES, *WRITING)
    return found


def journal(experiment: SmallExperiment) -> list[dict[str, Any]]:
    path = experiment.folder / JOURNAL_NAME
    records = [msgspec.to_builtins(record) for record in whole_records(path.read_bytes(), path)[0]]
    for record in records:
        record.pop("exec_seconds", None)
    return records


def experiments(programs: list[str]) -> list[str]:
    return [name for name in programs if name.startswith("Stage_")]


def test_the_same_seed_gives_the_same_journal(small_experiment: SmallExperiment, again: SmallExperiment) -> None:
    assert journal(again) == journal(small_experiment)
    assert again.runner.programs[: len(small_experiment.runner.programs)] == small_experiment.runner.programs
    assert {name.partition("-")[0] for name in experiments(again.runner.programs)} == set(SEARCHES)


def test_the_same_seed_asks_the_same_questions(small_experiment: SmallExperiment, again: SmallExperiment) -> None:
    """Recorded answers of a model can be replayed only when no time and no path is in a question."""
    assert questions(small_experiment)
    assert questions(again) == questions(small_experiment)


def questions(experiment: SmallExperiment) -> set[str]:
    """The keys of the answered requests: every word that a model was asked."""
    cache = experiment.folder / "llm" / "cache"
    return {str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file()}


def test_published_means_are_of_fresh_seeds(small_experiment: SmallExperiment) -> None:
    """The execution that was selected for its score is in no mean."""
    numbers = {
        each["key"]: each["text"] for each in json.loads((small_experiment.paper / "numbers.json").read_text())
    }
    assert numbers["baseline.seeds"] == str(SMALL["replicas"])


def test_the_report_shows_results_costs_and_how_to_repeat_the_run(small_experiment: SmallExperiment) -> None:
    text = small_experiment.artifact("report.html").decode()
    for part in (
        "Programs scored",
        "Model calls",
        "Dollars",
        "Calls of language models",
        "Sandbox layers",
        "runs replay",
    ):
        assert part in text


@pytest.mark.parametrize("name", ["numbers.json", "paper.tex", "references.json", "checks.json"])
def test_the_same_seed_gives_the_same_paper(
    small_experiment: SmallExperiment, again: SmallExperiment, name: str
) -> None:
    """The tables are in the text and in the ledger of numbers."""
    assert (again.paper / name).read_text() == (small_experiment.paper / name).read_text()
    assert again.artifact("reproduction/tree.svg") == small_experiment.artifact("reproduction/tree.svg")


def test_repeating_the_writing_executes_no_experiment_and_pays_nothing(again: SmallExperiment) -> None:
    """The code of the figures is executed again: it is no experiment, and its answer is from the cache."""
    before, programs = again.summaries["validation"], len(again.runner.programs)
    tex = (again.paper / "paper.tex").read_text()
    (again.paper / "paper.pdf").unlink()
    again.run(*WRITING, attempt=2)
    assert again.runner.programs[programs:] == ["plots/plots.py"]
    assert (again.paper / "paper.pdf").read_bytes().startswith(b"%PDF")
    assert (again.paper / "paper.tex").read_text() == tex
    after = again.summaries["validation"]
    assert counts(after, "calls") == counts(before, "calls"), "calls that were paid"
    cached, cached_before = counts(after, "from_cache"), counts(before, "from_cache")
    grown = {name for name in cached if cached[name] > cached_before.get(name, 0)}
    assert {"plots.write", "citations.select", "paper.write"} <= grown, "stored reviews are not asked for again"
    assert after["cost"]["usd"] == before["cost"]["usd"]
    assert after["verdict"] == before["verdict"]


def counts(summary: dict[str, Any], name: str) -> dict[str, int]:
    return {operation: spent[name] for operation, spent in summary["cost"]["operations"].items()}
