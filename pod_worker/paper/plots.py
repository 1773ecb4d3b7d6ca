"""Figures by a model's own code, or the default figures where that fails.

The code reads `data.json` and writes PNG files. It sees recorded results only, and what it draws is marked so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pod_worker.core.execution import CodeRunner, ExecutionLimits, ExecutionRequest
from pod_worker.core.failure import truncate
from pod_worker.core.research.completion import CompletionClient
from pod_worker.core.run import Json
from pod_worker.core.stage import StopSignal, stage_title
from pod_worker.paper.evidence.numbers import build_numbers
from pod_worker.paper.evidence.results import RecordedNode, RecordedResults, write_json
from pod_worker.paper.prompts import STRING, array_of, as_objects, as_text, build_request, closed_object
from pod_worker.paper.typesetting.figures import FIGURE_LIMIT, FigureSet, PaperFigure, draw_figures
from pod_worker.paper.typesetting.latex import read_plain_file

REPAIRS_LIMIT = 2
CODE_LIMIT = 40_000
CAPTION_LIMIT = 600
IMAGE_LIMIT_BYTES = 4 * 2**20
IMAGE_LEAST_BYTES = 1_000  # a PNG without content is smaller
SIDE_LIMIT = 6_000  # pixels
LIMITS = ExecutionLimits(wall_seconds=300, memory_bytes=4 * 2**30, disk_bytes=256 * 2**20, processes=64)
CODE_FILE, DATA_FILE = "plots.py", "data.json"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,40}")
_INSTRUCTIONS = """You write one Python program that draws further figures for a paper with matplotlib (Agg).
It runs in a folder with data.json and no network. It writes each figure as a PNG file (220 dpi, 3.25 inches wide,
readable at that size, colour-blind-safe) and exits with 0. Draw only what data.json holds: show the spread over
seeds, label axes with units. Use no other data and make up no value. Captions contain no numbers. At most {most}
figures; do not repeat the figures that exist. Labels are lower-case words joined by hyphens; the file of a label
is LABEL.png."""
SCHEMA = closed_object(
    {
        "code": STRING,
        "figures": array_of(closed_object({"file": STRING, "caption": STRING, "label": STRING}), FIGURE_LIMIT),
    }
)


def make_figures(
    results: RecordedResults,
    folder: Path,
    client: CompletionClient | None,
    runner: CodeRunner,
    stop: StopSignal,
) -> FigureSet:
    """Write `figures/` and `figures.json` in the folder of the paper.

    Without a client, or where its code fails, the set has the default figures only and says why.
    """
    figures = folder / "figures"
    own = draw_figures(results, figures)
    found = FigureSet(figures=own)
    if client is not None:
        found = _with_written(results, folder, found, client, runner, stop)
    write_json(folder / "figures.json", found)
    return found


def _with_written(
    results: RecordedResults,
    folder: Path,
    own: FigureSet,
    client: CompletionClient,
    runner: CodeRunner,
    stop: StopSignal,
) -> FigureSet:
    room = FIGURE_LIMIT - len(own.figures)
    facts = _facts(results, own.figures, room)
    error = "no answer"
    for _ in range(1 + REPAIRS_LIMIT):
        stop.check()
        request = build_request(
            "plots.write", _INSTRUCTIONS.format(most=room), facts, SCHEMA, stage="plots", temperature=0.4
        )
        completion = client.complete(request)
        answer = completion.value if isinstance(completion.value, dict) else {}
        source = "scripted model" if completion.is_scripted else completion.model
        written = _run(answer, results, folder, runner, stop)
        if isinstance(written, tuple):
            return FigureSet(figures=(*own.figures, *_named(written, own.figures, room, source)))
        error = written
        facts = facts | {"code": as_text(answer.get("code"), CODE_LIMIT), "error": error}
    return replace(own, note=f"The model's plotting code was not used: {truncate(error, 500, keep_end=True)}")


def _named(
    written: tuple[PaperFigure, ...], own: tuple[PaperFigure, ...], room: int, source: str
) -> tuple[PaperFigure, ...]:
    taken = {figure.label for figure in own}
    return tuple(replace(figure, source=source) for figure in written if figure.label not in taken)[:room]


def _run(
    answer: Mapping[str, Json], results: RecordedResults, folder: Path, runner: CodeRunner, stop: StopSignal
) -> tuple[PaperFigure, ...] | str:
    """The figures, or why there are none."""
    code, listed = as_text(answer.get("code"), CODE_LIMIT), as_objects(answer.get("figures"), FIGURE_LIMIT)
    if not code or not listed:
        return "the answer has no code or no figures"
    work = folder / "plots"
    if work.exists():
        runner.remove(work)
    work.mkdir(parents=True)
    (work / CODE_FILE).write_text(code, encoding="utf-8")
    (work / DATA_FILE).write_text(json.dumps(_data(results)), encoding="utf-8")
    request = ExecutionRequest(folder=work, argv=(CODE_FILE,), limits=LIMITS, environment={"MPLBACKEND": "Agg"})
    result = runner.execute(request, stop)
    if not result.is_ok:
        return f"{result.end.value} {result.exit_code}: {truncate(result.output, 3_000, keep_end=True)}"
    return _collect(listed, work, folder / "figures")


def _collect(listed: list[dict[str, Json]], work: Path, target: Path) -> tuple[PaperFigure, ...] | str:
    found: list[PaperFigure] = []
    for entry in listed:
        label, file = as_text(entry.get("label"), 60), as_text(entry.get("file"), 100)
        caption = " ".join(as_text(entry.get("caption"), CAPTION_LIMIT).split())
        if not _NAME.fullmatch(label) or not re.fullmatch(r"[\w-]+\.png", file) or not caption:
            return (
                f"the figure {label!r} needs a label of lower-case words, a PNG file in the folder, and a caption"
            )
        image = read_plain_file(work / file, IMAGE_LIMIT_BYTES + 1)
        problem = image_problem(image)
        if problem:
            return f"{file}: {problem}"
        assert image is not None
        name = f"written-{label}.png"
        (target / name).write_bytes(image)
        found.append(PaperFigure(label=label, caption=caption, image=name, preview=name))
    return tuple(found)


def image_problem(data: bytes | None) -> str:
    """Why bytes are no PNG image of a figure; empty where they are one."""
    if data is None:
        return "is missing or no regular file"
    if not data.startswith(b"\x89PNG\r\n\x1a\n") or data[12:16] != b"IHDR" or b"IEND" not in data[-12:]:
        return "is no whole PNG image"
    width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    if not (50 <= width <= SIDE_LIMIT and 50 <= height <= SIDE_LIMIT):
        return f"has {width} x {height} pixels"
    if not IMAGE_LEAST_BYTES <= len(data) <= IMAGE_LIMIT_BYTES:
        return f"has {len(data)} bytes"
    return ""


def _facts(results: RecordedResults, own: tuple[PaperFigure, ...], room: int) -> dict[str, Json]:
    shape = _data(results)
    for stage in shape["stages"]:
        for node in stage["nodes"]:
            del node["seconds"]  # another run of the same seed must ask the same question
            node["curves"] = [{"name": each["name"], "points": len(each["steps"])} for each in node["curves"]]
    return {
        "task": results.task,
        "metric": shape["metric"],
        "files": [DATA_FILE],
        "stages": shape["stages"],
        "numbers": [{"key": each.key, "text": each.text} for each in build_numbers(results)],
        "existing": [{"label": figure.label, "caption": figure.caption} for figure in own],
        "most": room,
    }


def _data(results: RecordedResults) -> dict[str, Json]:
    """What `data.json` holds."""
    names = dict.fromkeys(node.stage for node in results.usable)
    metric = results.metric
    return {
        "metric": {"name": metric.name, "direction": metric.direction, "unit": metric.unit},
        "baseline_id": results.baseline_id,
        "stages": [
            {
                "stage": stage,
                "title": stage_title(stage),
                "nodes": [_node(node, results) for node in results.usable if node.stage == stage],
            }
            for stage in names
        ],
    }


def _node(node: RecordedNode, results: RecordedResults) -> dict[str, Json]:
    return {
        "node_id": node.node_id,
        "change": results.label_of(node),
        "scores": list(node.scores),
        "search_scores": list(node.search_scores),
        "seeds": list(node.seeds),
        "seconds": node.seconds,
        "is_best": node.is_best,
        "is_self_reported": node.is_self_reported,
        "curves": [
            {"name": each.name, "seed": each.seed, "steps": list(each.steps), "values": list(each.values)}
            for each in node.curves
        ],
    }
