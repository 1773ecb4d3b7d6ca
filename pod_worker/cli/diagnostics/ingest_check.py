"""Tests of an ingest: a single event, a batch, a duplicate, an invalid event."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime

import requests
from ulid import ULID

from pod_worker.cli.diagnostics.diagnosis import Diagnosis
from pod_worker.core.credentials.bearer import BearerAuth
from pod_worker.core.run import Json


class IngestCheck:
    """The four checks of the original's test program.

    They are a single event, a batch, a duplicate and an invalid event.
    """

    def __init__(self, url: str, token: str | None) -> None:
        self.url = url.rstrip("/")
        self._run_id = f"doctor-{ULID()}".lower()
        self._new_id: Callable[[], ULID] = ULID
        self._session = requests.Session()
        self._session.auth = BearerAuth(token)

    def run(self) -> list[Diagnosis]:
        first = self._event()
        try:
            return [
                self._one("single event", first, lambda code, body: code == 201 and "event_id" in body),
                self._batch(),
                self._one(
                    "duplicate", first, lambda code, body: code == 201 and body.get("status") == "duplicate"
                ),
                self._one("invalid event", self._event() | {"type": ""}, lambda code, body: code == 422),
            ]
        except requests.RequestException as error:
            return [Diagnosis("connection", "bad", f"{self.url} does not answer: {type(error).__name__}")]

    def _event(self) -> dict[str, Json]:
        return {
            "specversion": "1.0",
            "id": str(self._new_id()),
            "source": "doctor://local",
            "type": "ai.run.log",  # heartbeats are not kept, so a repeated one is no duplicate
            "subject": f"run/{self._run_id}",
            "time": datetime.now(UTC).isoformat(),
            "datacontenttype": "application/json",
            "data": {"run_id": self._run_id, "level": "debug", "message": "a test by pod-worker doctor"},
        }

    def _one(
        self, what: str, event: dict[str, Json], is_right: Callable[[int, dict[str, Json]], bool]
    ) -> Diagnosis:
        answer = self._session.post(
            f"{self.url}/api/ingest/event",
            json=event,
            headers={"Content-Type": "application/cloudevents+json"},
            timeout=15,
        )
        try:
            body = answer.json()
        except ValueError:
            body = {}
        good = is_right(answer.status_code, body if isinstance(body, dict) else {})
        return Diagnosis(what, "ok" if good else "bad", f"{answer.status_code} {answer.text[:120]}")

    def _batch(self) -> Diagnosis:
        lines = "\n".join(json.dumps(self._event()) for _ in range(3)) + "\n"
        answer = self._session.post(
            f"{self.url}/api/ingest/events",
            data=lines.encode(),
            headers={"Content-Type": "application/x-ndjson"},
            timeout=15,
        )
        good = answer.status_code == 202 and answer.json().get("accepted") == 3
        return Diagnosis("batch of 3", "ok" if good else "bad", f"{answer.status_code} {answer.text[:120]}")
