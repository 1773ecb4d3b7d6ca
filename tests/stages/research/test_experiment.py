"""A whole experiment: twice it is the same run, and repeating its writing costs nothing."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from pod_worker.sandbox.client import SandboxClient
from pod_worker.search.journal import JOURNAL_NAME, whole_records
from tests.stages.research.experiment import SEARCHES, WRITING, SmallExperiment


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
