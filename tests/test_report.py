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
        "os.waitpid(child, 0)\nreport.log('done', 'warning')\nprint(report.should_stop())",
        POD_WORKER_EVENTS=str(events),
        POD_WORKER_STOP_FILE=str(stop),
    )
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    assert lines[0] == {"metric": "loss", "value": 0.3, "step": 10, "epoch": 0.5}
    assert lines[1:] == [{"progress": 0.4}] * 2 + [{"log": "done", "level": "warning"}]
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
