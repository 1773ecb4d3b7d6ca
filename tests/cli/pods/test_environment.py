"""Variables for the pod: secrets come from the environment or from a file, never from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from pod_worker.cli.exit_codes import CommandError
from pod_worker.cli.pods.environment import pod_environment
from tests.cli.pods.conftest import Pods
from tests.pods.cloud import Cloud


def test_a_name_alone_takes_the_value_from_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", "hunter2=")
    file = tmp_path / "pod.env"
    file.write_text("export API_KEY = 'k y'\nMODE=file\n# a comment\n")
    assert pod_environment(("HF_TOKEN", "MODE=word"), (file,)) == {
        "HF_TOKEN": "hunter2=",
        "API_KEY": "k y",
        "MODE": "word",
    }


@pytest.mark.parametrize(
    "text",
    ["HF_TOKEN=hunter2", "AWS_SECRET_ACCESS_KEY=hunter2", "db_password=hunter2", "URL=mongodb://u:hunter2@h/x"],
)
def test_a_secret_on_the_command_line_is_refused(pods: Pods, cloud: Cloud, text: str) -> None:
    result = pods("create", "w", "--no-up", "--yes", "-e", text)
    assert result.code == 2
    assert f"pass -e {text.partition('=')[0]}" in result.err
    assert "hunter2" not in result.err
    assert cloud.living() == []


def test_a_value_on_the_command_line_is_said_to_be_visible(pods: Pods, cloud: Cloud) -> None:
    assert "`ps`" in pods("create", "w", "--no-up", "--dry-run", "-e", "MODE=a").err
    assert "`ps`" not in pods("create", "w", "--no-up", "--dry-run").err


@pytest.mark.parametrize(
    ("given", "files", "text"),
    [(("NOT_SET_HERE",), (), "not set"), (("a-b=c",), (), "neither"), ((), ("none.env",), "no such file")],
)
def test_a_variable_without_a_value_is_refused(given: tuple[str, ...], files: tuple[str, ...], text: str) -> None:
    with pytest.raises(CommandError, match=text):
        pod_environment(given, tuple(map(Path, files)))
