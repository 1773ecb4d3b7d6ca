"""Publishing against a real control plane, MongoDB and S3 server."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from pod_worker.core.stage import ArtifactKind

MIB = 1024 * 1024


@pytest.mark.parametrize("size", [0, 1, MIB, MIB + 1, 3 * MIB, 3 * MIB + 17])
def test_every_size_arrives_whole_and_is_registered(
    size: int, publisher: Any, plane: Any, file: Any, events: Any
) -> None:
    path = file(size, "résult data.bin")
    made = publisher().publish(path, ArtifactKind.DATA, role="final")
    content = path.read_bytes()
    assert made.key == "runs/run1/2/résult data.bin"
    assert (made.bytes, made.sha256, made.role) == (size, hashlib.sha256(content).hexdigest(), "final")
    assert plane.store.sha256(made.key).sha256 == made.sha256
    row = plane.database["artifacts"].find_one()
    assert row["_id"] == f"run1:data:{made.sha256}"
    assert (row["runId"], row["attempt"], row["key"], row["role"]) == ("run1", 2, made.key, "final")
    assert row["verifiedAt"] is not None
    assert events.types == ["ai.artifact.detected", "ai.artifact.registered"]
