"""The tree as text and as a picture."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from pod_worker.search.reports.tree_svg import tree_svg
from pod_worker.search.reports.tree_text import tree_text
from pod_worker.search.tree.journal import read_state
from tests.search.fakes import FakeModel, make_search, program, random_program

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "\x1b[31m<script>&\"'\u202e" + "long " * 20


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tree")

    def reply(request):
        return {"plan": HOSTILE, "change": HOSTILE, "code": program(**random_program(request))}

    search = make_search(folder, client=FakeModel(reply))
    for stage in ("Stage_1", "Stage_2", "Stage_3", "Stage_4"):
        search.run_stage(stage, 8)
    return read_state(folder)


def test_every_node_has_its_line_below_its_parent(state):
    lines = tree_text(state).splitlines()
    nodes = [node for stage in state.reasons for node in state.written(stage)]
    assert len(lines) == len(nodes) + 2 * len(state.reasons) - 1
    assert sum("×3 seeds" in line for line in lines) == 4
    assert sum("★ selected" in line or "☆" in line for line in lines) == 4
    assert "\x1b" not in "".join(lines)
    assert "\u202e" not in "".join(lines)


def test_a_child_is_indented(state):
    debug = next(node for node in state.nodes.values() if node.operation == "debug")
    lines = tree_text(state).split(f"{debug.stage} ")[1].splitlines()
    child = next(line for line in lines if f" {debug.step:03d} debug" in line)
    assert child.startswith(("│  ", "   "))


def test_the_picture_is_one_closed_document_with_every_node(state):
    root = ElementTree.fromstring(tree_svg(state))
    titles = [title.text for title in root.iter(f"{SVG}title")]
    for stage in state.reasons:
        for node in state.written(stage):
            assert sum(title.startswith(f"{node.id}:") for title in titles) == 1
    text = tree_svg(state)
    assert "href" not in text
    assert "<script" not in text
    assert "url(" not in text


def test_everything_drawn_lies_inside_the_picture(state):
    root = ElementTree.fromstring(tree_svg(state))
    width, height = float(root.get("width")), float(root.get("height"))
    for text in root.iter(f"{SVG}text"):
        if text.get("text-anchor") == "middle":
            assert 0 < float(text.get("x")) < width
            assert 0 < float(text.get("y")) < height


def test_an_empty_search_has_a_tree():
    from pod_worker.search.tree.state import SearchState

    assert tree_text(SearchState()) == ""
    ElementTree.fromstring(tree_svg(SearchState()))


def test_the_legend_lies_inside_the_narrowest_picture():
    from pod_worker.search.tree.state import SearchState

    root = ElementTree.fromstring(tree_svg(SearchState()))
    groups = [group for group in root.iter(f"{SVG}g") if group.find(f"{SVG}text") is not None]
    last = groups[-1]
    left = float(last.get("transform").removeprefix("translate(").split()[0])
    text = last.find(f"{SVG}text")
    assert text.text == "best, not beyond the noise"
    assert left + float(text.get("x")) + 6.1 * len(text.text) < float(root.get("width"))
