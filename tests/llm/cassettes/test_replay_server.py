"""`pod-worker llm replay` as a process, its pages, and recording from a provider."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from click.testing import CliRunner

from pod_worker.cli import cli
from pod_worker.cli.services.llm import llm
from pod_worker.core.credentials.secret import Redactor, Secret
from pod_worker.llm.cassettes.cassette import Cassettes
from pod_worker.llm.cassettes.faults import FAULT_FORM, ModelFault, ModelFaultError, ModelFaultKind, read_fault
from pod_worker.llm.cassettes.recording import RecordingUpstream
from pod_worker.llm.cassettes.replay import Replay
from pod_worker.llm.cassettes.replay_server import ReplayServer
from pod_worker.llm.factory import open_client
from tests.llm.requests_and_answers import KEY, MODEL, WIRES, Stop, cassette, config_for, question

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The command with one cassette; what it printed. It must end with code 0 at SIGTERM."""
    folder = tmp_path_factory.mktemp("cassettes")
    Cassettes(folder).add(cassette(question(1, operation="chat", messages=question(1).messages)))
    command = [sys.executable, "-m", "pod_worker", "llm", "replay", str(folder), "--fault", "rate_limit@1=2.5"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("POD_WORKER_")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        yield json.loads(line)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_the_command_serves_pages_faults_and_counts(running: dict[str, str]) -> None:
    openai, anthropic = running["openai_base_url"], running["anthropic_base_url"]
    limited = requests.post(f"{openai}/chat/completions", json=CHAT, timeout=30)
    assert (limited.status_code, limited.headers["Retry-After"]) == (429, "2.5")
    unknown = requests.post(f"{anthropic}/v1/messages", json=CHAT | {"max_tokens": 5}, timeout=30)
    assert unknown.status_code == 404
    assert unknown.json()["type"] == "error"
    assert "no cassette for chat of claude-sonnet-4-5" in unknown.json()["error"]["message"]
    assert "Hello" in unknown.json()["error"]["message"], "the first difference is shown"
    assert requests.get(f"{openai}/models", timeout=30).json()["data"][0]["id"] == MODEL
    counts = requests.get(f"{running['url']}/counts", timeout=30).json()
    assert (counts["requests"], counts["unknown"], counts["answered"]) == (2, 1, 0)
    assert counts["faults"] == {"rate_limit": 1}
    assert counts["by_operation"] == {"chat": 2}


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/v1/chat/completions", CHAT | {"stream": True}, 400, "does not stream"),
        ("/v1/chat/completions", {"messages": []}, 400, "names no model"),
        ("/v1/messages", {"model": MODEL, "messages": ["x"]}, 400, "malformed"),
        ("/v1/messages", [], 400, "no JSON object"),
        ("/v1/other", {}, 404, "no page"),
        ("/faults", {"faults": ["no_such_fault"]}, 400, "is no fault"),
    ],
)
def test_requests_that_cannot_be_read_are_refused(server: ReplayServer, path, body, status, said) -> None:
    reply = requests.post(server.url + path, json=body, timeout=30)
    assert reply.status_code == status
    assert said in reply.json()["error"]["message"]


def test_faults_are_set_while_it_runs(server: ReplayServer, replay: Replay) -> None:
    assert requests.post(f"{server.url}/faults", json={"faults": ["auth@1x2"]}, timeout=30).json() == {"faults": 1}
    replies = [requests.post(f"{server.openai_url}/chat/completions", json=CHAT, timeout=30) for _ in range(3)]
    assert [reply.status_code for reply in replies] == [401, 401, 404]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("reset", ModelFault(ModelFaultKind.RESET, None, 1, 0)),
        ("rate_limit@2", ModelFault(ModelFaultKind.RATE_LIMIT, None, 2, 1)),
        ("hang:node.draft@3x2=0.5", ModelFault(ModelFaultKind.HANG, "node.draft", 3, 2, 0.5)),
    ],
)
def test_a_fault_in_words(text: str, fault: ModelFault) -> None:
    assert read_fault(text) == fault


@pytest.mark.parametrize(
    "text", ["", "boom", "reset@", "reset@1x", "reset@1x0", "reset@0", "hang=-1", "reset@1 x"]
)
def test_a_fault_that_cannot_be_read_says_how(text: str) -> None:
    with pytest.raises(ModelFaultError, match="is no fault") as caught:
        read_fault(text)
    assert FAULT_FORM in str(caught.value)


# ── recording ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("wire", WIRES)
def test_what_has_no_cassette_is_asked_once_and_kept(
    server: ReplayServer, replay: Replay, tmp_path: Path, wire: str
) -> None:
    """`server` is the provider here. The recording server in front of it asks it once, then answers alone."""
    folder = tmp_path / "recorded"
    folder.mkdir()
    base = server.openai_url if wire == "openai" else server.url
    upstream = RecordingUpstream(base, Secret(KEY))
    with ReplayServer(Replay(Cassettes(folder, Redactor([KEY])), upstream=upstream)) as recorder:
        for attempt in range(2):
            client = open_client(config_for(wire, recorder), tmp_path / f"llm{attempt}", Stop())
            completion = client.complete(question(33))
            assert completion.value["plan"] == "fit a line"
            client.close()
    assert completion.usage.input_tokens == 1_000
    assert replay.counts.to_json()["requests"] == 1
    (file,) = folder.iterdir()
    assert KEY not in file.read_text()
    assert Cassettes(folder).models() == [MODEL]


def test_an_error_of_the_provider_is_passed_on_and_not_kept(
    server: ReplayServer, replay: Replay, tmp_path: Path
) -> None:
    replay.faults.replace([ModelFault(ModelFaultKind.SERVER_ERROR, count=2), ModelFault(ModelFaultKind.NOT_JSON)])
    upstream = RecordingUpstream(server.openai_url)
    with ReplayServer(Replay(Cassettes(tmp_path), upstream=upstream)) as recorder:
        replies = [
            requests.post(f"{recorder.openai_url}/chat/completions", json=CHAT, timeout=30) for _ in range(2)
        ]
        assert [reply.status_code for reply in replies] == [500, 500]
        replay.faults.replace([ModelFault(ModelFaultKind.NOT_JSON)])
        assert requests.post(f"{recorder.openai_url}/chat/completions", json=CHAT, timeout=30).status_code == 502
    assert not list(tmp_path.iterdir())


def test_a_provider_that_cannot_be_reached_is_an_error(tmp_path: Path) -> None:
    upstream = RecordingUpstream("http://127.0.0.1:9/v1", Secret(KEY))
    with ReplayServer(Replay(Cassettes(tmp_path), upstream=upstream)) as recorder:
        reply = requests.post(f"{recorder.openai_url}/chat/completions", json=CHAT, timeout=30)
    assert reply.status_code == 502
    assert KEY not in reply.text


# ── usage ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["absent"], "is no folder"),
        (["."], "holds no cassettes"),
        ([".", "--fault", "boom"], "is no fault"),
        ([".", "--record", "ftp://x"], "--record needs"),
        ([".", "--record", "https://u:p@x/v1"], "--record needs"),
    ],
)
def test_wrong_usage_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(llm, ["replay", *words])
    assert result.exit_code == 2
    assert said in result.output


def test_the_command_is_listed() -> None:
    assert "llm" in CliRunner().invoke(cli, ["--help"]).output
