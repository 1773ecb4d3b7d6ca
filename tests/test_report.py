"""`pod_worker.report` in programs of a user, each a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent


def execute(program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {"PYTHONPATH": str(SOURCE), "PATH": os.environ["PATH"], **variables}
    return subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True, timeout=60
    )


def test_each_report_is_one_line_also_from_a_forked_process(tmp_path):
    events, stop = tmp_path / "events.ndjson", tmp_path / "stop"
    stop.touch()
    done = execute(
        "import os\nfrom pod_worker import report\n"
        "report.metric('loss', 0.3, 10, epoch=0.5)\n"
        "child = os.fork()\nreport.progress(0.4)\n"
        "if not child: os._exit(0)\n"
        "os.waitpid(child, 0)\nreport.log('done', 'warning')\nreport.checkpoint()\nprint(report.should_stop())",
        POD_WORKER_EVENTS=str(events),
        POD_WORKER_STOP_FILE=str(stop),
    )
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    assert lines[0] == {"metric": "loss", "value": 0.3, "step": 10, "epoch": 0.5}
    assert lines[1:] == [{"progress": 0.4}] * 2 + [{"log": "done", "level": "warning"}, {"checkpoint": True}]
    assert done.stdout.strip() == "True"


def test_outside_a_run_it_warns_once_and_does_nothing():
    done = execute(
        "from pod_worker import report\nreport.metric('a', 1)\nreport.progress(1)\nprint(report.should_stop())"
    )
    assert done.stderr.count("POD_WORKER_EVENTS") == 1
    assert done.stdout.strip() == "False"


def test_it_loads_the_standard_library_only():
    done = execute(
        "import sys\nfrom pod_worker import report\n"
        "print(*({name.split('.')[0] for name in sys.modules} & {'msgspec', 'pymongo', 'pydantic', 'requests'}))"
    )
    assert done.stdout.strip() == ""


def test_threads_that_report_first_at_the_same_time_open_the_file_once(tmp_path):
    program = (
        "import os, threading\nfrom pod_worker import report\n"
        "opened, real, all_there = [], os.open, threading.Barrier(2)\n"
        "def slow(*given, **named):\n"
        "    opened.append(given)\n"
        "    try: all_there.wait(0.5)\n"
        "    except threading.BrokenBarrierError: pass\n"
        "    return real(*given, **named)\n"
        "os.open = slow\n"
        "threads = [threading.Thread(target=report.metric, args=('a', i)) for i in range(2)]\n"
        "[each.start() for each in threads], [each.join() for each in threads]\n"
        "print(len(opened))"
    )
    events = tmp_path / "events.ndjson"
    assert execute(program, POD_WORKER_EVENTS=str(events)).stdout.strip() == "1"
    assert len(events.read_text().splitlines()) == 2


def test_a_short_write_is_completed_and_a_failed_one_ends_its_line(tmp_path):
    program = (
        "import os\nfrom pod_worker import report\n"
        "real = os.write\n"
        "os.write = lambda fd, data: real(fd, data[:5])\n"
        "report.metric('a', 1)\n"
        "turns = iter([3, None, 1])\n"
        "def full(fd, data):\n"
        "    size = next(turns)\n"
        "    if size is None: raise OSError(28, 'No space left on device')\n"
        "    return real(fd, data[:size])\n"
        "os.write = full\nreport.metric('b', 2)\n"
        "os.write = real\nreport.metric('c', 3)"
    )
    events = tmp_path / "events.ndjson"
    done = execute(program, POD_WORKER_EVENTS=str(events))
    lines = events.read_text().splitlines()
    assert [json.loads(lines[0])["metric"], lines[1], json.loads(lines[2])["metric"]] == ["a", '{"m', "c"]
    assert "No space left" in done.stderr


def test_no_report_ends_the_program(tmp_path):
    program = (
        "import sys\nfrom pod_worker import report\n"
        "class Value:\n"
        "    def __float__(self): raise RuntimeError('a tensor with 2 elements')\n"
        "sys.stderr.close()\n"
        "report.metric('a', Value())\nreport.metric('b', 1)\nreport.checkpoint()"
    )
    events = tmp_path / "events.ndjson"
    execute(program, POD_WORKER_EVENTS=str(events))
    assert len(events.read_text().splitlines()) == 2
    events.unlink()
    events.mkdir()
    execute(program, POD_WORKER_EVENTS=str(events))
