"""What the check programs share: the fake's address, its test API over urllib, and how a result is reported.

Standard library only: it is imported inside the foreign clients' own environments.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.request
from collections.abc import Callable
from typing import Any

URL = os.environ["FAKE_URL"]
KEY = os.environ["FAKE_KEY"]
GPU = "NVIDIA GeForce RTX 4090"
IMAGE = "runpod/base:1.0.2-ubuntu2204"

Check = Callable[[], str]


def call(method: str, path: str, body: object = None, key: str | None = KEY) -> tuple[int, Any, dict[str, str]]:
    """Status, decoded body (None when empty) and lower-case headers, whatever the status."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(URL + path, data=data, method=method)
    if key:
        request.add_header("Authorization", f"Bearer {key}")
    if data:
        request.add_header("Content-Type", "application/json")
    try:
        answer = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        raw = answer.read()
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return answer.status, json.loads(raw) if raw else None, headers


def fake(method: str, path: str, body: object = None) -> Any:
    """The fake's own test API."""
    status, answer, _ = call(method, f"/_fake{path}", body)
    assert status < 300, (method, path, status, answer)
    return answer


def reset() -> None:
    fake("POST", "/reset")
    fake("PATCH", "/settings", {"billing_lag_seconds": 0, "ssh_host": None})


def fault(kind: str, **rule: object) -> None:
    fake("POST", "/faults", {"kind": kind, **rule})


def step(seconds: float) -> None:
    fake("POST", "/clock", {"step_seconds": seconds})


def asked() -> list[dict[str, Any]]:
    """The requests since the last reset, oldest first."""
    recent: list[dict[str, Any]] = fake("GET", "/requests")["recent"]
    return recent


def pods() -> list[dict[str, Any]]:
    """The pods that exist and bill."""
    found: list[dict[str, Any]] = fake("GET", "/pods")["pods"]
    return found


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("timed out")
        time.sleep(0.05)


def raises(wanted: type[BaseException], action: Callable[[], object]) -> BaseException:
    try:
        action()
    except wanted as error:
        return error
    raise AssertionError(f"no {wanted.__name__} was raised")


def run(client: str, checks: dict[int, Check]) -> None:
    """Run each check on an empty cloud; one JSON line per check: client, number, passed, what was seen."""
    for number, check in checks.items():
        reset()
        try:
            line = {"client": client, "check": number, "passed": True, "seen": check() or ""}
        except Exception as error:
            where = error.__traceback__
            while where is not None and where.tb_next is not None:
                where = where.tb_next
            at = f" (line {where.tb_lineno})" if where is not None else ""
            seen = f"{type(error).__name__}: {str(error)[:300]}{at}"
            line = {"client": client, "check": number, "passed": False, "seen": seen}
        print(json.dumps(line), flush=True)
    sys.stdout.flush()
