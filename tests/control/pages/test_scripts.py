"""The page's scripts under node: the axes on any numbers, and the run page on values that other programs wrote."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pod_worker.cli.output import span
from pod_worker.control.pages.routes import FOLDER
from pod_worker.core.run import RunStatus

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="needs node")
HERE = Path(__file__).parent


def run_node(script: str | Path, *words: str) -> Any:
    """What a script (its text, or its file) prints, from JSON."""
    assert NODE is not None
    what = [str(script)] if isinstance(script, Path) else ["--input-type=module", "-e", script]
    command = [NODE, "--no-warnings", "--max-old-space-size=200", *what, *words]
    env = {**os.environ, "TZ": "UTC"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=FOLDER, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "values",
    [
        [0.3, 0.30000000000000004],  # an endless loop that took all memory
        [1, 1.0000000000000002],
        [2**63, 2**63 + 2048],
        [-(2**53), -(2**53) + 1],
        [0, 5e-324],
        [1e308, -1e308],
        [5, 5],
        [0],
        [],
        [None, "x", 3],
        [1e-300, 1e300],
        [1.8e9, 1.8e9 + 60],
    ],
)
def test_axes_of_any_numbers_are_short_and_inside(values: list[Any]) -> None:
    low, high, ticks = run_node(
        "import { range, ticks } from './axis.js';"
        "const [low, high] = range(JSON.parse(process.argv[1]), 0.06);"
        "console.log(JSON.stringify([low, high, ticks(low, high, 5)]));",
        json.dumps(values),
    )
    assert low < high
    assert len(ticks) <= 20
    assert ticks == sorted(set(ticks))
    assert all(low <= tick <= high * (1 + 1e-6) + 1e-300 for tick in ticks)


VALUES: list[Any] = [None, 7, "x", [], {"a": {"b": [None]}}, True, 1e308]


def test_the_run_page_shows_documents_of_any_form() -> None:
    """A document without a status, or an event whose type is no string, stopped the page."""
    problems = run_node(HERE / "run_page.mjs", str(FOLDER), json.dumps(VALUES))
    assert problems == []


START = 1_789_997_600  # 2026-09-21 13:33:20 UTC


@pytest.mark.parametrize(
    ("seconds", "first", "step"),
    [(60, "13:33:30", 15), (1200, "13:35", 300), (7200, "14:00", 1800), (200_000, "09-22 00:00", 86_400)],
)
def test_the_ticks_of_a_time_axis_are_full_moments(seconds: int, first: str, step: int) -> None:
    shown, found = run_node(
        "import { timeTicks } from './axis.js'; import { tick } from './words.js';"
        "const [low, high] = process.argv.slice(1).map(Number); const found = timeTicks(low, high, 4);"
        "console.log(JSON.stringify([found.map((at) => tick(at * 1000, high - low)), found]));",
        str(START),
        str(START + seconds),
    )
    assert shown[0] == first
    assert {later - earlier for earlier, later in itertools.pairwise(found)} <= {step}


@pytest.mark.parametrize(
    ("series", "title", "shown"),
    [
        ({"name": "rss_gb"}, "rss", "1.5 GB"),
        ({"name": "cpu_pct"}, "cpu", "1.5%"),
        ({"name": "artifact_bytes"}, "artifact bytes", "2 B"),
        ({"name": "tokens_per_second", "unit": "tokens/s"}, "tokens", "1.5 tokens/s"),
        ({"name": "eval_loss"}, "eval loss", "1.5"),
    ],
)
def test_a_metric_is_shown_with_its_unit(series: dict[str, str], title: str, shown: str) -> None:
    found = run_node(
        "import { measure } from './words.js'; const { title, shown } = measure(JSON.parse(process.argv[1]));"
        "console.log(JSON.stringify([title, shown(1.5)]));",
        json.dumps(series),
    )
    assert found == [title, shown]


def test_the_pointer_names_each_series_and_the_step_of_each_value() -> None:
    text = run_node(
        "import { reading } from './chart.js';"
        "const series = [{ name: 'loss', points: [] }, { name: 'eval_loss', points: [] }];"
        "console.log(JSON.stringify(reading(series, 140, [[140, 3.378], [150, 3.358]], String)));"
    )
    assert text == "140: loss 3.378, eval loss 3.358 (at 150)"


def test_lengths_of_time_read_as_on_the_command_line() -> None:
    seconds = [0, 42, 90, 599, 600, 3540, 7500, 90_000, 400_000]
    shown = run_node(
        "import { span } from './words.js';console.log(JSON.stringify(JSON.parse(process.argv[1]).map(span)));",
        json.dumps(seconds),
    )
    assert shown == [span(each) for each in seconds]


def shown_page(run: dict[str, Any], **more: Any) -> Any:
    detail = {"run": {"_id": "r1"} | run, "stages": more.get("stages", []), "artifacts": more.get("artifacts", [])}
    events = {"items": more.get("events", [])}
    answers: dict[str, Any] = {"run": detail, "metrics": {"series": more.get("series", [])}, "logs": {"items": []}}
    answers |= {"events": events, "later": more.get("later")}
    return run_node(HERE / "shown_run.mjs", str(FOLDER), json.dumps(answers))


def moment(seconds: float) -> str:
    return datetime.fromtimestamp(START + seconds, UTC).isoformat()


def test_the_gauges_of_two_attempts_are_not_joined() -> None:
    points = [[None, 50, moment(0), 1], [None, 60, moment(15), 1], [None, 5, moment(3600), 3]]
    series = [{"stage": "system", "name": "cpu_pct", "points": [*points, [None, 9, moment(3615), 3]]}]
    page = shown_page({"status": "RUNNING"}, series=series)
    assert len(page["lines"]) == 2
    assert "e+9" not in page["texts"]["curves"]
    assert "14:00" in page["texts"]["curves"]


def test_a_curve_that_continues_is_one_line_and_one_that_starts_over_is_not() -> None:
    def lines(attempts: list[int]) -> int:
        points = [[step, 1.0, moment(step), attempt] for step, attempt in enumerate(attempts)]
        return len(shown_page({}, series=[{"stage": "s", "name": "loss", "points": points}])["lines"])

    assert lines([1, 1, 3, 3]) == 1
    assert lines([3, 3, 1, 1]) == 2


def test_a_canceled_run_shows_its_end_and_who_ended_it_why() -> None:
    run = {"status": "CANCELED", "canceledAt": moment(0), "canceledBy": "ana", "cancelReason": "wrong data"}
    texts = shown_page(run)["texts"]
    assert "Canceled by ana: wrong data" in texts["now"]
    assert "Ended 2026-09-21 13:33:20 UTC" in texts["facts"]


def test_attempts_are_never_counted_against_the_limit_of_failures() -> None:
    facts = shown_page({"status": "FAILED", "attempt": 5, "failedAttempts": 3, "maxAttempts": 3})["texts"]["facts"]
    assert "Attempt 5 " in facts
    assert "Failed attempts 3 of at most 3" in facts
    assert "5 of 3" not in facts


def test_the_history_shows_the_queues_actions_and_whole_lines() -> None:
    long = "one odd line " * 30 + "at the end"
    failed = {"_id": "e", "type": "ai.run.failed", "time": moment(9), "attempt": 1, "position": 1}
    events = [failed | {"data": {"code": "X", "message": long, "traceback": "Traceback …"}}]
    what = [("claimed", "w1"), ("rescued", None), ("reset", "ana"), ("cancel requested", "ben")]
    history = [{"at": moment(n), "what": word, "by": by, "attempt": n} for n, (word, by) in enumerate(what)]
    text = shown_page({"history": history}, events=events)["texts"]["history"]
    for words in ("claimed by w1", "rescued", "reset by ana", "cancel requested by ben", "at the end"):
        assert words in text, words


def test_artifacts_of_the_same_name_show_their_attempts() -> None:
    artifacts = [{"key": f"runs/r1/{n}/report.json", "attempt": n, "kind": "report", "bytes": 5} for n in (1, 3)]
    text = shown_page({}, artifacts=artifacts)["texts"]["artifacts"]
    assert "report, attempt 1" in text
    assert "report, attempt 3" in text
    assert "attempt" not in shown_page({}, artifacts=artifacts[:1])["texts"]["artifacts"]


def test_an_error_of_an_earlier_attempt_does_not_look_like_the_runs_end() -> None:
    run = {"errorCode": "WORKER_LOST", "errorMessage": "gone"}
    assert "earlier attempt; the run goes on" in shown_page(run | {"status": "RUNNING"})["texts"]["error"]
    assert "earlier" not in shown_page(run | {"status": "FAILED"})["texts"]["error"]


def test_a_stage_of_a_dead_process_does_not_go_on() -> None:
    stage = {"name": "s", "status": "RUNNING", "progress": 0.5, "startedAt": moment(0)}
    assert "interrupted" in shown_page({"status": "FAILED"}, stages=[stage])["texts"]["stages"]
    assert "running" in shown_page({"status": "RUNNING"}, stages=[stage])["texts"]["stages"]


def test_a_waiting_run_names_the_command_that_says_why() -> None:
    assert "pod-worker runs why r1" in shown_page({"status": "QUEUED"})["texts"]["now"]


@pytest.mark.parametrize(
    ("later", "link", "text"),
    [
        ({"seconds": 6}, "link ok", "live"),
        ({"seconds": 13}, "link bad", "no answer for 13s"),
        ({"seconds": 1, "age": 4}, "link ok", "live"),
        ({"seconds": 1, "age": 20}, "link bad", "the database has not answered for 20s"),
    ],
)
def test_a_silent_server_or_database_is_not_live(later: dict[str, float], link: str, text: str) -> None:
    page = shown_page({"status": "RUNNING"}, later=later)
    assert (page["link"], page["texts"]["link"]) == (link, text)


def shown_list(runs: list[dict[str, Any]], by_status: dict[str, int] | None = None, **more: Any) -> Any:
    counts = {status.value: (by_status or {}).get(status.value, 0) for status in RunStatus}
    stats = {"byStatus": counts, "byQueue": {}, "oldestQueuedSeconds": {}}
    answers = {"stats": stats, "page": {"items": runs, "total": len(runs), "nextCursor": None}}
    return run_node(HERE / "shown_runs.mjs", str(FOLDER), json.dumps(answers | more))


def test_the_list_says_how_long_a_run_took_and_not_how_long_ago_it_ended() -> None:
    run = {"_id": "r1", "createdAt": moment(0), "startedAt": moment(10), "completedAt": moment(100)}
    assert shown_list([run | {"status": "COMPLETED"}])["rows"][0].endswith(" ago 1m30s")
    assert shown_list([{"_id": "r2", "status": "QUEUED", "createdAt": moment(0)}])["rows"][0].endswith(" ago –")


def test_the_list_shows_an_error_where_it_is_the_runs_end() -> None:
    run = {"_id": "r1", "errorCode": "WORKER_LOST", "labels": {"team": "a"}}
    assert "team=a" in shown_list([run | {"status": "RUNNING"}])["rows"][0]
    assert "WORKER_LOST" in shown_list([run | {"status": "FAILED"}])["rows"][0]


def test_a_name_is_shown_in_the_list_and_on_the_page() -> None:
    run = {"_id": "r1", "status": "RUNNING", "createdAt": moment(0), "name": "first", "labels": {"team": "a"}}
    assert "first team=a" in shown_list([run])["rows"][0]
    assert "Name first" in shown_page(run)["texts"]["facts"]


def test_rejected_runs_are_not_counted_as_failed() -> None:
    tiles = shown_list([], {"FAILED": 2, "HUMAN_REJECTED": 5})["texts"]["tiles"]
    assert "2 Failed" in tiles
    assert "5 Rejected" in tiles
    assert "Awaiting review" not in tiles


@pytest.mark.parametrize(
    ("error", "text"), [("TimeoutError", "no answer within 5 s"), ("TypeError", "gone"), ("Error", "gone")]
)
def test_a_list_without_an_answer_is_not_live(error: str, text: str) -> None:
    page = shown_list([], error=error)
    assert (page["link"], page["texts"]["link"]) == ("link bad", text)
