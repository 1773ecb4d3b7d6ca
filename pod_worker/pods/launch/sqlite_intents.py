"""An intent log in one SQLite file, for use without a MongoDB.

It has the guarantees of the log in MongoDB: durable before it returns, compare-and-set, at most one CREATED
intent per launch request. Only processes of one machine share it; a fleet needs the log in MongoDB.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from pod_worker.core.pod_intent import INTENT_TRANSITIONS, IntentConflictError, IntentState, PodIntent

_SCHEMA = """
CREATE TABLE IF NOT EXISTS intents (
  name TEXT PRIMARY KEY, order_id TEXT NOT NULL, attempt INTEGER NOT NULL, recorded_at TEXT NOT NULL,
  placement TEXT NOT NULL, state TEXT NOT NULL, pod_id TEXT, note TEXT NOT NULL,
  UNIQUE (order_id, attempt)
);
CREATE UNIQUE INDEX IF NOT EXISTS one_pod_per_order ON intents (order_id) WHERE state = 'CREATED';
CREATE INDEX IF NOT EXISTS by_pod ON intents (pod_id);
"""
_COLUMNS = "name, order_id, attempt, recorded_at, placement, state, pod_id, note"


class IntentFile:
    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, timeout=30.0, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        self._db.close()

    def record(self, intent: PodIntent) -> None:
        row = (
            intent.name,
            intent.order_id,
            intent.attempt,
            intent.recorded_at.isoformat(),
            intent.placement,
            intent.state.value,
            intent.pod_id,
            intent.note,
        )
        try:
            self._db.execute(f"INSERT INTO intents ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        except sqlite3.IntegrityError:
            raise IntentConflictError(intent.order_id, intent.attempt) from None

    def advance(
        self,
        name: str,
        *,
        expect: Collection[IntentState],
        to: IntentState,
        pod_id: str | None = None,
        note: str = "",
    ) -> bool:
        allowed = [state.value for state in expect if to in INTENT_TRANSITIONS[state]]
        marks = ", ".join("?" * len(allowed))
        try:
            changed = self._db.execute(
                f"UPDATE intents SET state = ?, pod_id = COALESCE(?, pod_id), note = ? "
                f"WHERE name = ? AND state IN ({marks})",
                (to.value, pod_id, note, name, *allowed),
            )
        except sqlite3.IntegrityError:
            return False
        return changed.rowcount == 1

    def of_order(self, order_id: str) -> Sequence[PodIntent]:
        return self._select("order_id = ? ORDER BY attempt", (order_id,))

    def named(self, names: Collection[str]) -> Mapping[str, PodIntent]:
        found = (self._select("name = ?", (name,)) for name in names)
        return {intent.name: intent for intents in found for intent in intents}

    def of_pod(self, pod_id: str) -> PodIntent | None:
        found = self._select("pod_id = ?", (pod_id,))
        return found[0] if found else None

    def _select(self, where: str, values: tuple[str, ...]) -> list[PodIntent]:
        rows = self._db.execute(f"SELECT {_COLUMNS} FROM intents WHERE {where}", values).fetchall()
        return [_intent(*row) for row in rows]


def _intent(
    name: str,
    order_id: str,
    attempt: int,
    recorded_at: str,
    placement: str,
    state: str,
    pod_id: str | None,
    note: str,
) -> PodIntent:
    moment = datetime.fromisoformat(recorded_at)
    return PodIntent(name, order_id, attempt, moment, placement, IntentState(state), pod_id, note)
