"""Figures of a model's code are used only when it ran and wrote them; the default figures are always there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pod_worker.core.run import Json
from pod_worker.llm.scripted.client import ScriptedClient
from pod_worker.paper.evidence.results import RecordedResults, read_json
from pod_worker.paper.plots import REPAIRS_LIMIT, image_problem, make_figures
from pod_worker.paper.typesetting.figures import FIGURE_LIMIT, FigureSet, draw_figures
from pod_worker.paper.typesetting.latex import read_plain_file
from tests.paper.conftest import NoStop, PlainRunner, Writer

# A real PNG without matplotlib, so that these programs start quickly.
PICTURE = """
import json, random, struct, zlib
json.load(open("data.json"))["stages"][0]["nodes"][0]["scores"]
rows = b"".join(b"\\0" + random.Random(y).randbytes(100) for y in range(100))
def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
png = b"\\x89PNG\\r\\n\\x1a\\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 100, 100, 8, 0, 0, 0, 0))
png += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
open("extra.png", "wb").write(png)
"""
FIGURE = {"file": "extra.png", "label": "extra", "caption": "What the code drew."}


def answer(code: str = PICTURE, **fields: str) -> dict[str, Json]:
    return {"code": code, "figures": [FIGURE | fields]}


@pytest.fixture(scope="module")
def bare(results: RecordedResults) -> RecordedResults:
    """Results without a selected node: they have no default figure, so nothing is drawn here."""
    nodes = tuple(replace(node, is_best=False) for node in results.nodes if node.stage != "Stage_4")
    return replace(results, nodes=nodes, baseline_id=None)


@pytest.fixture(scope="module")
def one_figure(results: RecordedResults) -> RecordedResults:
    nodes = tuple(replace(node, curves=()) for node in results.nodes if node.stage != "Stage_4")
    return replace(results, nodes=nodes)


def run(results: RecordedResults, folder: Path, client: object) -> FigureSet:
    found = make_figures(results, folder, client, PlainRunner(), NoStop())
    assert read_json(folder / "figures.json", FigureSet) == found
    return found


def test_figures_of_the_code_are_added_and_marked(bare: RecordedResults, tmp_path: Path) -> None:
    found = run(bare, tmp_path, Writer(plots__write=[answer()]))
    assert found.note == ""
    extra = found.figures[0]
    assert (extra.label, extra.source, extra.caption) == ("extra", "test-model", "What the code drew.")
    assert image_problem(read_plain_file(tmp_path / "figures" / extra.preview, 10**6)) == ""


def test_code_that_fails_is_written_again_with_its_error(bare: RecordedResults, tmp_path: Path) -> None:
    client = Writer(plots__write=[answer("raise ValueError('axes')"), answer()])
    assert len(run(bare, tmp_path, client).figures) == 1
    assert "ValueError: axes" in client.requests[1].facts["error"]
    assert "ValueError: axes" in client.requests[1].messages[1].text


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (answer("import sys; sys.exit(3)"), "exited 3"),
        (answer("pass"), "missing or no regular file"),
        (answer("open('extra.png', 'wb').close()"), "no whole PNG"),
        (answer("import os; os.symlink('/etc/hostname', 'extra.png')"), "no regular file"),
        (answer("import os; os.mkfifo('extra.png')"), "no regular file"),
        (answer(file="../figures/stages.png"), "PNG file in the folder"),
        (answer(label="../x"), "label of lower-case words"),
        (answer(caption=" "), "caption"),
        ({"code": "", "figures": []}, "no code or no figures"),
        ("prose", "no code or no figures"),
    ],
)
def test_without_a_usable_figure_the_default_ones_stay_and_the_reason_is_kept(
    bare: RecordedResults, tmp_path: Path, given: Json, reason: str
) -> None:
    client = Writer(plots__write=[given])
    found = run(bare, tmp_path, client)
    assert found.figures == ()
    assert reason in found.note
    assert client.count("plots.write") == 1 + REPAIRS_LIMIT


def test_a_label_that_is_taken_replaces_no_figure(one_figure: RecordedResults, tmp_path: Path) -> None:
    found = run(one_figure, tmp_path, Writer(plots__write=[answer(label="stages")]))
    assert [(figure.label, figure.source) for figure in found.figures] == [("stages", "pod_worker")]


def test_the_number_of_figures_is_bounded(bare: RecordedResults, tmp_path: Path) -> None:
    many = {"code": PICTURE, "figures": [FIGURE | {"label": f"extra-{index}"} for index in range(30)]}
    assert len(run(bare, tmp_path, Writer(plots__write=[many])).figures) == FIGURE_LIMIT


def test_the_same_results_give_the_same_files(one_figure: RecordedResults, tmp_path: Path) -> None:
    for figure in draw_figures(one_figure, tmp_path / "first"):
        draw_figures(one_figure, tmp_path / "second")
        for name in {figure.image, figure.preview}:
            assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_the_scripted_code_draws(bare: RecordedResults, tmp_path: Path) -> None:
    found = run(bare, tmp_path, ScriptedClient())
    assert found.note == ""
    assert found.figures[0].source == "scripted model"


def test_no_time_of_a_program_is_in_the_question(bare: RecordedResults, tmp_path: Path) -> None:
    """Recorded answers of a model fit another run of the same seed, whose programs take another time."""
    slower = replace(bare, nodes=tuple(replace(node, seconds=node.seconds + 1.5) for node in bare.nodes))
    first, second = Writer(plots__write=[answer()]), Writer(plots__write=[answer()])
    run(bare, tmp_path, first)
    run(slower, tmp_path, second)
    assert first.requests == second.requests
