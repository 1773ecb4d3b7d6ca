"""The clients, the checks that each must pass, and how a client's check program is run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pod_worker.fake_runpod.server import FakeServer
from tests.conformance.environments import MissingClientError, program_of, python_of

HERE = Path(__file__).resolve().parent
SSHD_CHECK = 13
NO_SSHD = "needs an installed openssh-server and root, because the clients log in as root"
CLIENTS = {
    "runpod 1.12.0": (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13),
    "runpod 2.0.0rc2": (1, 4, 5, 6, 8, 10, 12, 13, 15, 18),
    "mcp 3.4.0": (14, 15, 24),
    "mcp 4.0.0": (14, 17, 19, 22, 23, 24),
    "raw": (16, 17, 22, 23, 24, 25),
    "ours": (19, 20, 21, 23, 24, 25),
}


@dataclass(frozen=True)
class Outcome:
    client: str
    check: int
    passed: bool | None
    """None: the check could not run on this machine."""
    detail: str


@dataclass(frozen=True)
class Surroundings:
    fake: FakeServer
    cache: Path
    home: Path
    sshd_port: int | None


def run_client(client: str, surroundings: Surroundings) -> Iterator[Outcome]:
    """One outcome per check of the client."""
    try:
        command = _command(client, surroundings.cache)
    except MissingClientError as missing:
        yield from (Outcome(client, check, None, str(missing)) for check in CLIENTS[client])
        return
    done = subprocess.run(
        command, env=_environment(surroundings), cwd=HERE, capture_output=True, text=True, timeout=300
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    by_check = {line["check"]: Outcome(client, line["check"], line["passed"], line["seen"]) for line in lines}
    crash = f"the program ended early: {done.stderr.strip()[-300:]}"
    for check in CLIENTS[client]:
        if check == SSHD_CHECK and surroundings.sshd_port is None:
            yield Outcome(client, check, None, NO_SSHD)
        else:
            yield by_check.get(check, Outcome(client, check, False, crash))


def _environment(surroundings: Surroundings) -> dict[str, str]:
    fake = surroundings.fake
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(surroundings.home),
        "FAKE_URL": fake.url,
        "FAKE_KEY": fake.api_key,
        "RUNPOD_API_BASE_URL": fake.url,
        "RUNPOD_API_KEY": fake.api_key,
        "SSHD_PORT": str(surroundings.sshd_port or 0),
        "PYTHONWARNINGS": "ignore",
    }


def _command(client: str, cache: Path) -> list[str]:
    match client.split():
        case ["runpod", version]:
            script = "check_sdk1.py" if version == "1.12.0" else "check_sdk2.py"
            return [str(python_of(f"runpod=={version}", cache)), str(HERE / script)]
        case ["mcp", version]:
            script = "check_mcp3.py" if version == "3.4.0" else "check_mcp4.py"
            return [sys.executable, str(HERE / script), str(program_of(f"@runpod/mcp-server@{version}", cache))]
        case _:
            return [sys.executable, str(HERE / f"check_{client}.py")]
