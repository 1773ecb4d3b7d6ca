"""Runs every client's checks against one fake and prints the table: 25 checks, who passed them, and what was seen.

Exit code 0 when every check that could be run passed. What could not be run (no node, no sshd) is shown as an
exception with its reason, and with `--strict` it fails.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from environments import Missing, program_of, python_of
from local_sshd import local_sshd

from pod_worker.fake_runpod.server import FakeServer, running

HERE = Path(__file__).resolve().parent
SSHD_CHECK = 13

WHAT = {
    1: "get_gpus, get_gpu fields; unknown id is a ValueError",
    2: "create_pod with a GPU gives id and machine.podHostId",
    3: "create with a network volume resolves its data center",
    4: "CPU create (deployCpuPod; cpu{})",
    5: "get_pod: runtime null, then ports; unknown is None",
    6: "stop, resume, terminate, gone",
    7: "no capacity is a QueryError with the exact text",
    8: "bad key is an AuthenticationError; no key, no request",
    9: "a success never carries `errors`",
    10: "networkVolumes of the user; SSH keys round trip",
    11: "command line: pod list, ssh list-keys",
    12: "SSH address found; timeout when the boot stalls",
    13: "pod connect against a real sshd",
    14: "201 create; 204 delete without body or content type",
    15: "v1 list is an array; v2 envelope and pagination",
    16: "unknown key: v1 400, v2 422 that names it",
    17: "illegal action is 409; actions match the status",
    18: "problem+json detail and errors reach QueryError",
    19: "429 is waited out (GET, POST); 503 retried on GET only",
    20: "create-then-500 is found by name; one pod bills",
    21: "v2: capacity 400 goes on to the next; 422 stops",
    22: "availability without product is 400",
    23: "log SSE: tail, since, resume without loss",
    24: "bill = cost x time; lags; v1 sum = v2 totals",
    25: "v1 and GraphQL off: 410; our client unaffected",
}
EXPECTED = {
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
    """None: it could not be run here."""
    seen: str


def main() -> int:
    parser = argparse.ArgumentParser(description="Conformance of the fake RunPod with clients that others wrote.")
    parser.add_argument(
        "--cache", type=Path, default=Path(os.environ.get("CONFORMANCE_CACHE", ".tools/conformance"))
    )
    parser.add_argument("--strict", action="store_true", help="checks that cannot be run here fail too")
    parser.add_argument("--only", nargs="*", choices=EXPECTED, help="these clients only")
    asked = parser.parse_args()
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as folder, running() as fake:
        home = Path(folder) / "home"
        keys = home / ".runpod"
        keys.mkdir(parents=True)
        (keys / "config.toml").write_text(f'[default]\napi_key = "{fake.api_key}"\n')
        with local_sshd(Path(folder), keys / "ssh") as port:
            for client in asked.only or EXPECTED:
                print(f"… {client}", file=sys.stderr, flush=True)
                outcomes += outcomes_of(client, asked.cache.resolve(), fake, home, port)
    return report(outcomes, strict=asked.strict)


def outcomes_of(client: str, cache: Path, fake: FakeServer, home: Path, port: int | None) -> Iterator[Outcome]:
    try:
        command = command_of(client, cache)
    except Missing as missing:
        yield from (Outcome(client, check, None, str(missing)) for check in EXPECTED[client])
        return
    env = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(home),
        "FAKE_URL": fake.url,
        "FAKE_KEY": fake.api_key,
        "RUNPOD_API_BASE_URL": fake.url,
        "RUNPOD_API_KEY": fake.api_key,
        "SSHD_PORT": str(port or 0),
        "PYTHONWARNINGS": "ignore",
    }
    done = subprocess.run(command, env=env, cwd=HERE, capture_output=True, text=True, timeout=300)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    seen = {line["check"]: Outcome(client, line["check"], line["passed"], line["seen"]) for line in lines}
    for check in EXPECTED[client]:
        if check == SSHD_CHECK and port is None:
            yield Outcome(
                client, check, None, "needs an installed openssh-server and root, as whom the clients log in"
            )
        else:
            crash = f"the program ended early: {done.stderr.strip()[-300:]}"
            yield seen.get(check, Outcome(client, check, False, crash))


def command_of(client: str, cache: Path) -> list[str]:
    match client.split():
        case ["runpod", version]:
            script = "check_sdk1.py" if version == "1.12.0" else "check_sdk2.py"
            return [str(python_of(f"runpod=={version}", cache)), str(HERE / script)]
        case ["mcp", version]:
            script = "check_mcp3.py" if version == "3.4.0" else "check_mcp4.py"
            return [sys.executable, str(HERE / script), str(program_of(f"@runpod/mcp-server@{version}", cache))]
        case _:
            return [sys.executable, str(HERE / f"check_{client}.py")]


def report(outcomes: list[Outcome], *, strict: bool) -> int:
    marks = {True: "pass", False: "FAIL", None: "not run"}
    passed = 0
    for check, what in WHAT.items():
        mine = [outcome for outcome in outcomes if outcome.check == check]
        good = bool(mine) and all(outcome.passed for outcome in mine)
        passed += good
        bad = any(outcome.passed is False for outcome in mine)
        word = "pass" if good else "FAIL" if bad else "exception"
        print(f"{check:2}  {word:9}  {what}")
        for outcome in mine:
            print(f"      {outcome.client:15} {marks[outcome.passed]:7} {outcome.seen}")
    versions = ", ".join(dict.fromkeys(outcome.client for outcome in outcomes))
    print(f"\n{passed} of {len(WHAT)} checks pass ({versions})")
    failed = [o for o in outcomes if o.passed is False or (strict and o.passed is None)]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
