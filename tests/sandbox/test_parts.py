"""Small parts: bounded output, use of disk and memory, environments, group rights."""

from __future__ import annotations

import mmap
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pod_worker.core.execution import ExecutionRequest
from pod_worker.process.sandbox_server import server_environment
from pod_worker.sandbox import identity, program, usage
from pod_worker.sandbox.kernel import shared_memory
from pod_worker.sandbox.kernel.landlock import FileRight, known_file_rights
from pod_worker.sandbox.output import BoundedOutput
from tests.sandbox.support import ROOT, has_own_user, open_python


@given(st.lists(st.binary(max_size=40), max_size=20), st.integers(2, 30))
def test_output_keeps_both_ends_and_counts_everything(pieces: list[bytes], limit: int) -> None:
    output = BoundedOutput(limit)
    for piece in pieces:
        output.add(piece)
    written = b"".join(pieces)
    kept = bytes(output._head) + bytes(output._tail[-output._tail_limit :])
    assert output.bytes == len(written)
    assert written.startswith(kept[: limit // 2])
    assert written.endswith(kept[-(limit - limit // 2) :]) or len(written) <= limit
    assert len(kept) == min(len(written), limit)


def test_output_is_text_without_nul() -> None:
    output = BoundedOutput(100)
    output.add(b"a\0\xff")
    assert output.text() == "a\ufffd\ufffd"


def test_the_disk_of_a_folder_counts_empty_files_and_no_links(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "data").write_bytes(bytes(100_000))
    (tmp_path / "link").symlink_to("/usr")
    for number in range(10):
        (tmp_path / f"empty{number}").touch()
    assert 110_000 < usage.folder_bytes(tmp_path) < 200_000
    assert usage.folder_bytes(tmp_path, owner=os.geteuid() + 1) == 0


@pytest.mark.skipif(not has_own_user(), reason="needs root and an interpreter that other users may start")
def test_a_closed_folder_of_another_user_hides_nothing_of_ours(library_path: dict[str, str], base: Path) -> None:
    (base / "theirs").mkdir(mode=0o700)
    base.chmod(0o755)
    measure = "import sys\nfrom pod_worker.sandbox import usage\nprint(usage.folder_bytes(sys.argv[1], int(sys.argv[2])))"
    argv = [open_python(), "-c", measure, str(base), "61998"]
    ours = {"user": 61998, "env": library_path, "capture_output": True, "text": True, "check": False}
    assert subprocess.run(argv, **ours).stdout == "0\n"  # type: ignore[call-overload]
    (base / "ours").mkdir(mode=0o000)
    os.chown(base / "ours", 61998, 61998)
    assert "PermissionError" in subprocess.run(argv, **ours).stderr  # type: ignore[call-overload]


def test_a_file_without_a_name_counts_while_it_is_open(tmp_path: Path) -> None:
    with open(tmp_path / "data", "wb") as file:
        file.write(bytes(2**20))
        file.flush()
        assert usage.deleted_file_bytes((os.getpid(),)) < 2**20
        os.unlink(tmp_path / "data")
        assert usage.deleted_file_bytes((os.getpid(),)) >= 2**20


def test_variables_of_a_server_are_an_allow_list() -> None:
    found = server_environment(
        {"PATH": "/bin", "OPENAI_API_KEY": "secret", "MONGODB_URL": "secret", "HF_TOKEN": "x"}
    )
    assert found["PATH"] == "/bin"
    assert not {"OPENAI_API_KEY", "MONGODB_URL", "HF_TOKEN"} & found.keys()


def test_variables_of_a_program_come_from_the_request_last(tmp_path: Path) -> None:
    request = ExecutionRequest(folder=tmp_path, argv=("x.py",), gpus=(1, 3), environment={"LANG": "de_DE.UTF-8"})
    found = program.environment(request, {"OMP_NUM_THREADS": "2", "PYTHONPATH": "somewhere", "LANG": "C"})
    assert found["CUDA_VISIBLE_DEVICES"] == "1,3"
    assert found["OMP_NUM_THREADS"] == "2"
    assert found["LANG"] == "de_DE.UTF-8"
    assert "PYTHONPATH" not in found


def test_a_way_is_opened_through_our_own_folders_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "run" / "nodes"
    inner.mkdir(parents=True)
    (tmp_path / "run").chmod(0o700)
    other = os.geteuid() + 1
    opened = [*tmp_path.parents, tmp_path]
    before = {folder: stat.S_IMODE(folder.stat().st_mode) for folder in opened}
    closed = identity.open_way(inner / "file", other, (os.getegid(),))
    if os.geteuid() == 0:
        assert closed is not None  # root opens nothing
        assert {folder: stat.S_IMODE(folder.stat().st_mode) for folder in opened} == before
    else:
        assert closed is None
        assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o710


def test_a_readable_folder_is_not_made_writable(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "data" / "x").touch(mode=0o600)
    identity.share_folder(tmp_path / "data", os.getegid(), writable=False)
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o750
    assert stat.S_IMODE((tmp_path / "data" / "x").stat().st_mode) == 0o640


def test_a_folder_of_an_earlier_keeper_with_our_process_id_is_in_no_ones_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_memory, "FOLDER", str(tmp_path))
    own, dead = os.getpid(), 1 << 30
    folders = [shared_memory.make_socket_folder(keeper) for keeper in (own, own, dead)]
    shared_memory.clear()
    assert [os.path.isdir(each) for each in folders] == [True, True, False]
    shared_memory.remove_socket_folders(own)
    assert not any(map(os.path.exists, folders))


@pytest.mark.parametrize("way", ["open", "mapped"])
def test_shared_memory_that_a_process_uses_is_not_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(shared_memory, "FOLDER", str(tmp_path))
    (tmp_path / "left").write_bytes(bytes(4096))
    with open(tmp_path / "used", "w+b") as file:
        file.write(bytes(4096))
        file.flush()
        view = mmap.mmap(file.fileno(), 4096)
        if way == "mapped":
            file.close()
        shared_memory.clear()
        assert [path.name for path in tmp_path.iterdir()] == ["used"]
        view.close()
    shared_memory.clear()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("abi", "last"),
    [(1, "MAKE_SYM"), (2, "REFER"), (3, "TRUNCATE"), (4, "TRUNCATE"), (5, "IOCTL_DEV"), (7, "IOCTL_DEV")],
)
def test_the_rights_that_a_kernel_knows(abi: int, last: str) -> None:
    assert max(known_file_rights(abi)) is FileRight[last]


def test_a_process_with_threads_is_not_confined() -> None:
    """Rules hold for the thread that makes them; another one would stay free."""
    text = """
import threading
from pathlib import Path
from pod_worker.core.execution import ExecutionRequest
from pod_worker.sandbox.kernel.confinement import Confinement
wait = threading.Event()
threading.Thread(target=wait.wait, daemon=True).start()
try:
    Confinement.of_this_process().apply(ExecutionRequest(folder=Path.cwd(), argv=("x.py",)), ())
except OSError as error:
    print(error.strerror)
"""
    done = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "started a thread" in done.stdout


def test_finalizers_of_the_server_do_not_run_at_the_end_of_programs() -> None:
    code = """
import weakref
from pod_worker.sandbox import preload
class Library: pass
first, second = Library(), Library()
weakref.finalize(first, print, "of the server")
preload.preload(["json"])
weakref.finalize(second, print, "of the program")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "of the program\n"
