"""Papers in the real sandbox: what its programs write can be read, and TeX finds its own files there."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pod_worker.paper.checks import check_paper
from pod_worker.paper.plots import make_figures
from pod_worker.paper.sources import PaperSources
from pod_worker.paper.typesetting.latex import LatexTools
from pod_worker.paper.writing import write_paper
from pod_worker.sandbox.client import SandboxClient
from pod_worker.sandbox.starting import LocalStarter
from tests.paper.conftest import TEXT, NoStop, Writer
from tests.paper.test_plots import answer
from tests.sandbox.support import ROOT, floor, open_python


@pytest.fixture
def sandbox() -> Iterator[SandboxClient]:
    packages = os.pathsep.join([str(ROOT), *(path for path in sys.path if "site-packages" in path)])
    starter = LocalStarter(["json"], python=open_python(), variables={"PYTHONPATH": packages})
    with SandboxClient(starter, floor()) as client:
        yield client


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the user of programs may enter, unlike pytest's."""
    base = Path(tempfile.mkdtemp(prefix="paper-test-"))
    base.chmod(0o711)
    yield base / "paper"
    shutil.rmtree(base, ignore_errors=True)


def test_figures_paper_and_checks(
    sources: PaperSources, latex_tools: LatexTools, drawn: Path, sandbox: SandboxClient, folder: Path
) -> None:
    shutil.copytree(drawn, folder)
    folder.chmod(0o711)  # root opens no folder for the user of programs; a run's own user does
    nodes = tuple(replace(node, is_best=False) for node in sources.results.nodes if node.stage != "Stage_4")
    bare = replace(sources.results, nodes=nodes, baseline_id=None)
    written = make_figures(bare, folder, Writer(plots__write=[answer()]), sandbox, NoStop())
    assert (written.note, [figure.label for figure in written.figures]) == ("", ["extra"])
    shutil.copyfile(drawn / "figures.json", folder / "figures.json")
    write_paper(sources, folder, latex_tools, Writer(paper__write=[TEXT]), sandbox, NoStop())
    checked = check_paper(sources.idea, sources.results, folder, latex_tools, sandbox, NoStop(), 4)
    assert [(check.name, check.findings) for check in checked.checks if not check.holds] == []
    assert "Label smoothing on small data" in checked.text
