"""One fake RunPod and one sshd for the foreign clients, and the table of results at the end.

These tests install clients from PyPI and npm. They run only when their folder is named on the command line, as
`make conformance` does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pod_worker.fake_runpod.server import running
from tests.conformance.clients import CLIENTS, Outcome, Surroundings, run_client
from tests.conformance.local_sshd import local_sshd
from tests.conformance.table import report

CACHE = Path(os.environ.get("CONFORMANCE_CACHE", ".tools/conformance"))
_OUTCOMES: dict[str, dict[int, Outcome]] = {}


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skip this folder unless the command line names it."""
    is_named = any("conformance" in str(word) for word in config.invocation_params.args)
    return None if is_named else True


@pytest.fixture(scope="session")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Surroundings]:
    folder = tmp_path_factory.mktemp("conformance")
    keys = folder / "home" / ".runpod"
    keys.mkdir(parents=True)
    with running() as fake, local_sshd(folder, keys / "ssh") as port:
        (keys / "config.toml").write_text(f'[default]\napi_key = "{fake.api_key}"\n')
        yield Surroundings(fake, CACHE.resolve(), folder / "home", port)


@pytest.fixture
def outcome(request: pytest.FixtureRequest, surroundings: Surroundings) -> Outcome:
    """The outcome of one check; all checks of a client run in one program, once."""
    client, check = request.param
    assert client in CLIENTS
    if client not in _OUTCOMES:
        _OUTCOMES[client] = {each.check: each for each in run_client(client, surroundings)}
    return _OUTCOMES[client][check]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    outcomes = [outcome for by_check in _OUTCOMES.values() for outcome in by_check.values()]
    if outcomes:
        terminalreporter.write_line("")
        for line in report(outcomes):
            terminalreporter.write_line(line)
