"""Uploads while the world breaks: expired URLs, broken lines, a store that restarts."""

from __future__ import annotations

import random
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pod_worker.artifacts.object_store import ObjectStore
from pod_worker.artifacts.publisher import RetryBudget
from pod_worker.core.failure import RunError
from pod_worker.core.stage import ArtifactKind
from pod_worker.local.s3 import ObjectStoreServer

MIB = 1024 * 1024
DATA = ArtifactKind.DATA


def _expire(store: ObjectStore, times: int) -> list[str]:
    """The next `times` signed URLs are an hour too old, as the store sees it."""
    real = store._signer.get_presigned_url
    spoiled: list[str] = []

    def signed(method: str, bucket: str, key: str, *rest: Any, **more: Any) -> str:
        if len(spoiled) < times:
            spoiled.append(key)
            more["request_date"] = datetime.now(UTC) - timedelta(hours=3)
        return str(real(method, bucket, key, *rest, **more))

    store._signer.get_presigned_url = signed
    return spoiled


@pytest.mark.parametrize("size", [1000, MIB, 3 * MIB])
def test_an_expired_url_is_replaced(size: int, publisher: Any, plane: Any, file: Any) -> None:
    spoiled = _expire(plane.store, 3)
    made = publisher().publish(file(size), DATA)
    assert len(spoiled) == 3
    assert plane.store.sha256(made.key).sha256 == made.sha256


def test_urls_that_are_never_accepted_end_with_the_reason(publisher: Any, plane: Any, file: Any) -> None:
    _expire(plane.store, 10**6)
    with pytest.raises(RunError, match="clocks and keys") as raised:
        publisher().publish(file(1000), DATA)
    assert "X-Amz" not in str(raised.value)


def test_an_expired_url_is_replaced_when_downloading(
    publisher: Any, plane: Any, file: Any, tmp_path: Path
) -> None:
    made = publisher().publish(file(1000), DATA)
    _expire(plane.store, 2)
    assert publisher().fetch(made.key, tmp_path / "back").read_bytes() == file(1000).read_bytes()


def test_a_line_that_breaks_in_the_middle_of_a_part_costs_only_that_part(
    planes: Any, publisher: Any, file: Any, line: Any, s3: Any
) -> None:
    behind = planes(part_bytes=MIB)
    behind.store._signer = ObjectStore(
        s3.endpoint, s3.access_key, s3.secret_key, s3.bucket, public_endpoint=f"http://{line.endpoint}"
    )._signer
    line.break_after = [("up", int(2.5 * MIB)), ("up", MIB // 2)]
    made = publisher(control_plane_url=behind.url).publish(file(4 * MIB), DATA)
    assert behind.store.sha256(made.key).sha256 == made.sha256
    assert line.break_after == []
    assert line.bytes["up"] < 6 * MIB


def test_a_control_plane_that_answers_503_is_waited_for(
    publisher: Any, plane: Any, file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failures = plane.store.presign_put, [1, 2, 3]

    def flaky(*arguments: Any) -> str:
        if failures:
            failures.pop()
            raise RuntimeError("a defect that passes")
        return str(real(*arguments))

    monkeypatch.setattr(plane.store, "presign_put", flaky)
    assert publisher().publish(file(10), DATA).bytes == 10


def test_a_store_that_restarts_in_the_middle_gets_the_file_in_the_end(
    tmp_path: Path, planes: Any, publisher: Any, stop: Any, file: Any
) -> None:
    own = ObjectStoreServer(tmp_path / "s3")
    own.start()
    try:
        access = own.access
        store = ObjectStore(access.endpoint, access.access_key, access.secret_key, access.bucket)
        plane = planes(part_bytes=MIB)
        plane.store.__dict__.update(store.__dict__)  # the same routes, on the server that dies
        back = threading.Event()

        def restart() -> None:
            # After the first part: its upload is forgotten by the restarted server.
            if stop.checks > 150 and not back.is_set():
                back.set()
                own.kill()
                threading.Thread(target=own.start).start()

        stop.on_check = restart
        patient = publisher(control_plane_url=plane.url, budget=RetryBudget(60, 0.05, 0.3), rng=random.Random(3))
        made = patient.publish(file(4 * MIB), DATA)
        assert back.is_set()
        assert plane.store.sha256(made.key).sha256 == made.sha256
        assert plane.database["artifacts"].count_documents({}) == 1
    finally:
        own.kill()


def test_waiting_grows_obeys_the_store_and_has_a_cap() -> None:
    from pod_worker.artifacts.api_client import RetryingCaller
    from pod_worker.artifacts.transfer import TransientError

    class Never:
        def check(self) -> None: ...
        def is_set(self) -> bool:
            return False

    reports: list[str] = []
    retrying = RetryingCaller(RetryBudget(60, 1.0, 4.0), random.Random(0), Never(), reports.append)
    slept: list[float] = []
    retrying.sleep = slept.append  # type: ignore[method-assign, assignment]
    answers = iter(
        [
            TransientError("a"),
            TransientError("b"),
            TransientError("c"),
            TransientError("d"),
            TransientError("e", 7.0),
        ]
    )

    def call() -> str:
        for error in answers:
            raise error
        return "done"

    began = time.monotonic()
    assert retrying(call) == "done"
    assert time.monotonic() - began < 1
    assert len(slept) == 5
    assert all(0 <= seconds <= 4 for seconds in slept[:4])
    assert 7 <= slept[4] <= 11
    assert reports == ["tried 4 times: d"]
