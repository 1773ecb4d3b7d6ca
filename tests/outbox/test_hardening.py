"""Damage and hostile files in the spool: one bad line, file, stream or setting never stops the rest."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pod_worker.core.payload import RunLog, RunStarted, StageCompleted
from pod_worker.outbox import RunEmitter, Spool, UlidGenerator, adopt_orphans
from pod_worker.outbox.backlog import Backlog, SpooledLine
from pod_worker.outbox.cursor import Cursor, Span, load_cursor
from pod_worker.outbox.ingest_client import IngestClient, Misconfigured, Unavailable
from pod_worker.outbox.segment_files import FACTS, segment_name
from pod_worker.outbox.spool import run_stream
from pod_worker.outbox.stream import Stream
from tests.outbox.ingest_server import SOURCE, IngestServer, Reply

HEAD = b'{"specversion":"1.0","seq":'


def until(passed: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not passed():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        threading.Event().wait(0.005)


def make_emitter(spool: Spool, run_id: str = "r1") -> RunEmitter:
    from pod_worker.core.clock import SystemClock

    clock = SystemClock()
    return RunEmitter(spool, SOURCE, run_id, 1, clock, UlidGenerator(clock))


def facts_file(spool: Spool, run_id: str = "r1") -> Path:
    return spool.directory / run_stream(run_id, 1) / segment_name(FACTS, 1)


@pytest.mark.parametrize(
    "line",
    [
        HEAD + b'xx,"id":"a"}',
        HEAD + b"7",
        HEAD + b"9" * 5000 + b',"id":"a"}',
        HEAD + b"-1,}",
        HEAD + b"\xc2\xb2,}",
        b"\x00" * 100,
        b"\xff\xfe",
        b"{",
    ],
    ids=["letters", "torn", "huge", "negative", "superscript", "zeros", "not UTF-8", "brace"],
)
def test_a_damaged_line_has_a_place_in_the_order(line: bytes) -> None:
    assert SpooledLine(Span("facts.00000001.ndjson", 0, 1), line + b"\n").seq >= 7


@pytest.mark.parametrize(
    "damage", [HEAD + b'xx,"id":"a"}\n', b"\x00" * 50 + b"\n", b"\xff{\n", HEAD + b"9" * 5000 + b"\n"]
)
def test_a_damaged_line_becomes_a_dead_letter_and_an_adopter_delivers_the_rest(
    ingest: IngestServer, tmp_path: Path, ship: Callable[..., object], damage: bytes
) -> None:
    dead_worker = Spool.open(tmp_path / "other", "w0")
    emitter = make_emitter(dead_worker)
    ids = [emitter.emit(RunStarted(pod_id="p1"))]
    with open(facts_file(dead_worker), "ab") as file:
        file.write(damage)
    ids.append(emitter.emit(StageCompleted(stage="s")))
    dead_worker.close()
    (orphan,) = adopt_orphans(tmp_path / "other")
    shipper = ship(orphan)
    assert shipper.flush(10)  # type: ignore[attr-defined]
    assert sorted(ingest.stored) == sorted(ids)
    (letter,) = orphan.dead_letter.read_bytes().splitlines()
    assert json.loads(letter)["event"] == damage.decode("utf-8", "replace").rstrip("\n")
    orphan.close()


def test_an_oversized_line_is_rejected_without_being_read_whole(
    ingest: IngestServer, spool: Spool, emitter: RunEmitter, ship: Callable[..., object]
) -> None:
    emitter.emit(RunStarted(pod_id="p1"))
    with open(facts_file(spool), "ab") as file:
        file.write(b"x" * (9 * 1024 * 1024) + b"\n")
    emitter.emit(StageCompleted(stage="s"))
    assert ship().flush(10)  # type: ignore[attr-defined]
    assert len(ingest.stored) == 2
    (letter,) = spool.dead_letter.read_bytes().splitlines()
    assert len(letter) < 200_000


def test_a_stream_that_cannot_be_read_does_not_stop_the_others(
    ingest: IngestServer, spool: Spool, ship: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_emitter(spool, "bad").emit(RunStarted(pod_id="p1"))
    good = make_emitter(spool, "good")
    read = Backlog.next_lines

    def failing(self: Backlog, *args: object, **kwargs: object) -> object:
        if "bad" in self.directory.name:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Backlog, "next_lines", failing)
    shipper = ship()
    event_id = good.emit(RunStarted(pod_id="p1"))
    ingest.wait_for(lambda: event_id in ingest.stored)
    assert any("Input/output error" in text for text in shipper.logged)  # type: ignore[attr-defined]


def test_any_error_leaves_the_thread_alive(
    ingest: IngestServer, emitter: RunEmitter, ship: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    send, failures = (
        IngestClient.send,
        [RuntimeError("secret-token"), UnicodeEncodeError("latin-1", "s", 0, 1, "no")],
    )

    def failing(self: IngestClient, lines: list[bytes], token: str | None) -> object:
        if failures:
            raise failures.pop()
        return send(self, lines, token)

    monkeypatch.setattr(IngestClient, "send", failing)
    shipper = ship()
    event_id = emitter.emit(RunStarted(pod_id="p1"))
    until(lambda: shipper.stats().failures == 2)  # type: ignore[attr-defined]
    assert shipper.flush(20)  # type: ignore[attr-defined]
    assert event_id in ingest.stored
    assert not any("secret-token" in text for text in shipper.logged)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "url", ["http://[bad", "http://exa mple:80", "http://user:hunter2@localhost:0/x\n", "http://"]
)
def test_a_url_that_cannot_be_requested_is_a_setting_to_change(clock: object, url: str) -> None:
    client = IngestClient(url, clock)  # type: ignore[arg-type]
    result = client.send([b"{}\n"], "secret-token")
    client.close()
    assert isinstance(result, Misconfigured | Unavailable)
    assert "hunter2" not in result.reason
    assert "secret-token" not in result.reason


def test_a_password_in_the_url_is_in_no_message(ingest: IngestServer, clock: object) -> None:
    ingest.plan = lambda events: Reply(403, b"{}")
    client = IngestClient(f"http://user:hunter2@127.0.0.1:{ingest.port}", clock)  # type: ignore[arg-type]
    result = client.send([b"{}\n"], "t")
    client.close()
    ingest.close()
    gone = client.send([b"{}\n"], "t")
    client.close()
    ingest.open(0)
    assert isinstance(result, Misconfigured)
    assert isinstance(gone, Unavailable)
    assert "hunter2" not in result.reason + gone.reason + client.endpoint
    assert " at 0x" not in gone.reason


def test_a_spool_removed_under_a_running_worker_is_owned_again(
    ingest: IngestServer, tmp_path: Path, ship: Callable[..., object]
) -> None:
    spool = Spool.open(tmp_path / "root", "w0")
    emitter = make_emitter(spool)
    emitter.emit(RunStarted(pod_id="p1"))
    shipper = ship(spool)
    assert shipper.flush(10)  # type: ignore[attr-defined]
    shutil.rmtree(spool.directory.rename(tmp_path / "gone"))
    until(lambda: any("removed the spool" in text for text in shipper.logged))  # type: ignore[attr-defined]
    event_id = emitter.emit(StageCompleted(stage="s"))
    ingest.wait_for(lambda: event_id in ingest.stored)
    assert adopt_orphans(tmp_path / "root") == [], "it is still owned"
    assert stat.S_IMODE(spool.directory.stat().st_mode) == 0o700
    shipper.stop()  # type: ignore[attr-defined]
    spool.close()


def test_a_restored_spool_is_shared_with_the_same_group(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path / "root", "w0")
    spool.share_with_group(os.getgid())
    shutil.rmtree(spool.directory.rename(tmp_path / "gone"))
    assert spool.restore()
    assert stat.S_IMODE(spool.directory.stat().st_mode) == 0o710
    spool.close()


def test_a_link_in_place_of_the_cursor_is_not_written_through(
    ingest: IngestServer, spool: Spool, emitter: RunEmitter, tmp_path: Path, ship: Callable[..., object]
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("kept")
    emitter.emit(RunStarted(pod_id="p1"))
    os.link(victim, facts_file(spool).parent / "acked.json.new")
    assert ship().flush(10)  # type: ignore[attr-defined]
    assert victim.read_text() == "kept"
    assert load_cursor(facts_file(spool).parent).offsets


def test_a_stream_notices_within_a_second_that_its_folder_is_gone(tmp_path: Path) -> None:
    """As a child does, which has no shipper to restore the folder."""
    stream = Stream(tmp_path / "worker-w/run-r1-1", 1 << 20)
    stream.append(FACTS, b"{", b'"id":"a"}\n', True)
    shutil.rmtree(tmp_path / "worker-w")
    stream._check_links_at = 0.0
    stream.append(FACTS, b"{", b'"id":"b"}\n', True)
    assert json.loads((stream.directory / segment_name(FACTS, 1)).read_bytes()) == {"seq": 1, "id": "b"}
    assert stat.S_IMODE((tmp_path / "worker-w").stat().st_mode) == 0o700
    stream.close()


def test_a_segment_that_closes_in_a_removed_folder_is_written_again(tmp_path: Path) -> None:
    stream = Stream(tmp_path / "worker-w/run-r1-1", segment_bytes=10)
    stream.append(FACTS, b"{", b'"id":"a"}\n', True)
    shutil.rmtree(tmp_path / "worker-w")
    stream.append(FACTS, b"{", b'"id":"b"}\n', True)
    assert [json.loads(path.read_bytes())["id"] for path in stream.directory.glob("facts.*")] == ["b"]
    stream.close()


def test_a_disk_without_inodes_is_a_named_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool.open(tmp_path, "w0")
    emitter = make_emitter(spool)
    opened = os.open

    def full(path: object, flags: int, *args: object, **kwargs: object) -> int:
        if flags & os.O_CREAT and not Path(str(path)).exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return opened(path, flags, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(OSError, match="free space and inodes under") as caught:
        emitter.emit(RunStarted(pod_id="p1"))
    assert caught.value.errno == errno.ENOSPC
    emitter.emit(RunLog(message="a sample is dropped, not raised"))
    assert spool.dropped == 1
    (spool.directory / "reserve").unlink(missing_ok=True)
    assert not spool.fill_reserve()
    monkeypatch.undo()
    spool.close()


@pytest.mark.slow
def test_descriptors_stay_flat_over_many_runs(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path, "w0")

    def run(number: int) -> None:
        emitter = make_emitter(spool, f"r{number}")
        emitter.emit(RunStarted(pod_id="p1"))
        emitter.emit(RunLog(message="m"))

    for number in range(30):
        run(number)
    count = len(os.listdir("/proc/self/fd"))
    for number in range(30, 300):
        run(number)
    assert len(os.listdir("/proc/self/fd")) <= count
    first = make_emitter(spool, "r0")
    first.emit(StageCompleted(stage="s"))
    assert len(spool.event_ids("r0", 1)) == 3, "a closed stream opens again and counts on"
    spool.close()


def test_a_closed_emitter_holds_no_descriptor_and_opens_again(spool: Spool, emitter: RunEmitter) -> None:
    before = len(os.listdir("/proc/self/fd"))
    emitter.emit(RunStarted(pod_id="p1"))
    assert len(os.listdir("/proc/self/fd")) == before + 3
    emitter.close()
    assert len(os.listdir("/proc/self/fd")) == before
    emitter.emit(StageCompleted(stage="s"))
    assert [json.loads(line)["seq"] for line in spool.lines()] == [1, 2]


@pytest.mark.parametrize("mode", [0o755, 0o777, 0o750, 0o700])
def test_a_spool_is_private(tmp_path: Path, mode: int) -> None:
    root = tmp_path / "root"
    root.mkdir()
    root.chmod(mode)
    spool = Spool.open(root, "w0")
    emitter = make_emitter(spool)
    emitter.emit(RunStarted(pod_id="p1"))
    for path in [root, *root.rglob("*")]:
        allowed = 0o750 if path == root else 0o700
        assert stat.S_IMODE(path.stat().st_mode) & ~allowed == 0, path
    spool.close()


def test_a_root_that_is_a_link_or_belongs_to_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(PermissionError, match=r"symbolic link: set POD_WORKER_SPOOL_DIR"):
        Spool.open(tmp_path / "link", "w0")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(PermissionError, match=r"belongs to another user: set POD_WORKER_SPOOL_DIR"):
        Spool.open(tmp_path / "real", "w0")


def test_links_and_pipes_in_a_stream_are_neither_read_nor_waited_for(
    ingest: IngestServer, spool: Spool, emitter: RunEmitter, tmp_path: Path, ship: Callable[..., object]
) -> None:
    secret = tmp_path / "secret"
    secret.write_text('{"id":"secret"}\n')
    emitter.emit(RunStarted(pod_id="p1"))
    folder = facts_file(spool).parent
    (folder / "facts.00000009.ndjson").symlink_to(secret)
    (folder / "overflow.1-1.ndjson").symlink_to(secret)
    os.mkfifo(folder / "samples.00000009.ndjson")
    (spool.directory / "run-link-1").symlink_to(tmp_path)
    assert ship().flush(10)  # type: ignore[attr-defined]
    assert len(ingest.stored) == 1
    assert len(list(spool.lines())) == 1


def test_a_cursor_names_segments_only(spool: Spool, emitter: RunEmitter, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hidden\n")
    emitter.emit(RunStarted(pod_id="p1"))
    folder = facts_file(spool).parent
    span = ["../../../secret", 0, 7]
    (folder / "acked.json").write_text(json.dumps({"offsets": {"/etc/passwd": -1}, "deferred": [span]}))
    assert load_cursor(folder) == Cursor()
    backlog = Backlog(folder)
    assert [json.loads(line.data)["type"] for line in backlog.next_lines(10, 10_000, True)] == ["ai.run.started"]
    (folder / "acked.json").unlink()
    (folder / "acked.json").symlink_to(secret)
    assert load_cursor(folder) == Cursor()


def test_files_of_earlier_versions_are_still_delivered(
    ingest: IngestServer, spool: Spool, emitter: RunEmitter, ship: Callable[..., object]
) -> None:
    """`held` was the cursor's key for deferred lines, and `aside` the overflow's lane."""
    ids = [emitter.emit(StageCompleted(stage=str(number))) for number in range(2)]
    path = facts_file(spool)
    first = len(path.read_bytes().splitlines(keepends=True)[0])
    size = path.stat().st_size
    old = {"offsets": {path.name: size}, "held": [[path.name, 0, first]]}
    (path.parent / "acked.json").write_text(json.dumps(old))
    (path.parent / "aside.1-2.ndjson").write_text('{"id":"old overflow"}\n')
    assert load_cursor(path.parent).deferred == [Span(path.name, 0, first)]
    assert ship().flush(10)  # type: ignore[attr-defined]
    assert sorted(ingest.stored) == sorted([ids[0], "old overflow"])
    assert "held" not in json.loads((path.parent / "acked.json").read_bytes())


def test_a_damaged_header_costs_no_event(spool: Spool, emitter: RunEmitter) -> None:
    emitter.emit(RunStarted(pod_id="p1"))
    head = facts_file(spool).parent / "head"
    data = bytearray(head.read_bytes())
    data[8:16] = b"\xff" * 8  # the last seq
    head.write_bytes(data)
    event_id = emitter.emit(StageCompleted(stage="s"))
    found = [json.loads(line) for line in spool.lines()]
    assert {"id": event_id, "seq": 2}.items() <= next(e for e in found if e["seq"] == 2).items()


def test_a_file_with_a_strange_name_is_ignored(spool: Spool, emitter: RunEmitter) -> None:
    emitter.emit(RunStarted(pod_id="p1"))
    folder = facts_file(spool).parent
    for name in ("facts.abc.ndjson", "facts.ndjson", "samples.0x1.ndjson", "x.ndjson"):
        (folder / name).write_text("{}\n")
    (folder / "head").unlink()
    emitter.close()
    emitter.emit(StageCompleted(stage="s"))
    assert [json.loads(line)["seq"] for line in spool.lines()] == [1, 2]
    assert spool.size_bytes() > 0


def test_an_evicted_damaged_line_does_not_end_the_run(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path, "w1", max_bytes=100_000)
    emitter = make_emitter(spool)
    samples = facts_file(spool).parent / "samples.00000001.ndjson"
    samples.parent.mkdir()
    samples.write_bytes(b"\x00 damaged\n")
    for _ in range(400):
        emitter.emit(RunLog(message="x" * 400))
    assert not samples.exists()
    spool.close()
