"""The program as a whole: any terminal encoding, a closed pipe, and no secret in an error."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from pod_worker.cli.log_output import RedactingFormatter, make_redactor
from tests.cli.conftest import Cli

Db = Database[dict[str, Any]]
Program = Callable[..., "subprocess.Popen[bytes]"]
TOKEN = "sentinel-0123456789"
FOREIGN = "\x1b]52;c;ZXZpbA==\x07ä日\x9b31m"
RUN = f"r-{FOREIGN}"


@pytest.fixture
def program(mongodb_url: str, tmp_path: Path) -> Program:
    """Starts `pod-worker` with words, as a process of its own."""

    def start(*words: str, **env: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "pod_worker", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            env=dict(os.environ) | {"MONGODB_URL": mongodb_url} | env,
        )

    return start


@pytest.fixture
def foreign_run(db: Db) -> str:
    db.runs.insert_one(
        {
            "_id": RUN,
            "pipeline": "synthetic",
            "status": "FAILED",
            "errorCode": "X",
            "errorMessage": FOREIGN,
            "currentStage": {"name": FOREIGN, "progress": 0.5},
            "metrics": {FOREIGN: 1.0},
            "labels": {"a": FOREIGN},
        }
    )
    db.events.insert_one(
        {
            "_id": "e",
            "runId": RUN,
            "position": 1,
            "type": "ai.run.log",
            "level": "info",
            "data": {"message": FOREIGN},
        }
    )
    return RUN


COMMANDS = {
    "list": ["runs", "list"],
    "show": ["runs", "show", RUN],
    "logs": ["runs", "logs", RUN],
    "why": ["runs", "why", RUN],
    "watch": ["runs", "watch", RUN],
    "events": ["events", "tail", RUN],
    "stats": ["runs", "stats"],
}


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_prints_control_characters_of_documents(
    cli: Cli, foreign_run: str, command: str, as_json: bool
) -> None:
    result = cli(*COMMANDS[command], *["--json"] * as_json)
    assert result.code == (1 if command == "watch" else 0), result.err
    assert not {each for each in result.out if not each.isprintable()} - {"\n", "\t"}
    if as_json and command != "stats":
        assert FOREIGN in _strings(json.loads(result.out.splitlines()[0]))


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
@pytest.mark.parametrize("command", ["list", "show"])
@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_terminal_of_another_encoding_gets_replaced_characters(
    program: Program, foreign_run: str, encoding: str, command: str, as_json: bool
) -> None:
    process = program(*COMMANDS[command], *["--json"] * as_json, PYTHONIOENCODING=encoding)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    # click writes UTF-8 where the encoding is ASCII, which it takes for a missing locale.
    text = out.decode("utf-8" if encoding == "ascii" else encoding)
    assert "synthetic" in text
    if as_json:
        assert FOREIGN in _strings(json.loads(text))


def _strings(value: Any) -> str:
    if isinstance(value, dict):
        return "".join(_strings(key) + _strings(each) for key, each in value.items())
    return "".join(map(_strings, value)) if isinstance(value, list) else str(value)


def test_a_closed_pipe_ends_quietly_with_zero(program: Program, foreign_run: str) -> None:
    process = program("runs", "list")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    assert process.wait(60) == 0
    assert err == b""
    process.stderr.close()


def test_a_secret_in_an_unexpected_error_is_masked(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError(f"Invalid header value b'Bearer {TOKEN}'")

    monkeypatch.setenv("CONTROL_PLANE_TOKEN", TOKEN)
    monkeypatch.setattr("pod_worker.cli.runs.views.QueueStatsReader", broken)
    for words in (("runs", "stats"), ("runs", "stats", "--debug")):
        result = cli(*words)
        assert result.code == 1
        assert "Bearer ***" in result.err
        assert "sentinel" not in result.err


def test_a_key_with_a_newline_is_used_without_it_and_a_worse_one_is_not_quoted(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNPOD_API_BASE_URL", "http://127.0.0.1:9")
    for key in (f"{TOKEN}\n", f"{TOKEN}\nx", f"{TOKEN}ü"):
        monkeypatch.setenv("RUNPOD_API_KEY", key)
        result = cli("pods", "list")
        assert result.code in (2, 75)
        assert "sentinel" not in result.err + result.out
        assert "Traceback" not in result.err


def test_a_secret_in_a_log_line_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTROL_PLANE_TOKEN", f"{TOKEN}\n")
    formatter = RedactingFormatter(make_redactor())
    try:
        raise ValueError(f"Invalid header value b'Bearer {TOKEN}\\n'")
    except ValueError:
        record = logging.LogRecord("name", logging.ERROR, __file__, 1, "sent %s", (TOKEN,), sys.exc_info())
    shown = formatter.format(record)
    assert "sent ***" in shown
    assert "ValueError" in shown
    assert f"Bearer {TOKEN}" not in shown
    assert TOKEN not in shown
