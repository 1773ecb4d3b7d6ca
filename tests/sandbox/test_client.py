"""Executions through a real server: what a program sees, how it ends, what is left of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import textwrap
import threading
from pathlib import Path

import psutil
import pytest

from pod_worker.core.execution import ExecutionEnd, ExecutionLimits, ExecutionRequest
from pod_worker.core.failure import FailureCode, RunError
from pod_worker.sandbox.client import SandboxClient, check_request
from pod_worker.sandbox.protocol import DescribeCommand, ServerDescription
from pod_worker.sandbox.starting import LocalStarter
from tests.sandbox.conftest import Execute
from tests.sandbox.support import NeverStop, floor, has_own_user, open_python, wait_until


class Stop(NeverStop):
    def __init__(self) -> None:
        self.event = threading.Event()

    def is_set(self) -> bool:
        return self.event.is_set()


# ── what a program sees ─────────────────────────────────────────────────────────────────────────────────────


def test_a_file_is_executed_as_main_with_its_arguments(execute: Execute, folder: Path) -> None:
    result = execute("import os, sys\nprint(__name__, sys.argv, os.getcwd(), __file__)", "a", "b")
    assert result.is_ok, result
    assert result.output == f"__main__ ['solution.py', 'a', 'b'] {folder} {folder}/solution.py\n"


def test_a_traceback_shows_the_program_only(execute: Execute) -> None:
    result = execute("def fail():\n    raise ValueError('wrong')\nfail()")
    assert (result.end, result.exit_code) == (ExecutionEnd.EXITED, 1)
    assert "ValueError: wrong" in result.output
    assert "pod_worker" not in result.output


@pytest.mark.parametrize(
    ("statement", "code"), [("sys.exit()", 0), ("sys.exit(3)", 3), ("sys.exit('why')", 1), ("os._exit(4)", 4)]
)
def test_the_exit_code_is_the_programs(execute: Execute, statement: str, code: int) -> None:
    result = execute(f"import os, sys\n{statement}")
    assert (result.end, result.exit_code) == (ExecutionEnd.EXITED, code)


def test_threads_and_exit_handlers_finish(execute: Execute) -> None:
    result = execute("""
        import atexit, threading, weakref
        atexit.register(print, "handler")
        released = threading.Event()
        threading.Thread(target=lambda: released.wait() and print("thread")).start()
        released.set()
        class Kept: pass
        kept = Kept()
        weakref.finalize(kept, print, "finalizer")
    """)
    assert sorted(result.output.split()) == ["finalizer", "handler", "thread"]


def test_the_environment_is_an_allow_list(execute: Execute, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    result = execute("import json, os\nprint(json.dumps(dict(os.environ)))", environment={"TASK_DIR": "somewhere"})
    found = json.loads(result.output)
    assert found["TASK_DIR"] == "somewhere"
    assert found["HOME"].startswith(str(folder))
    assert found["TMPDIR"].startswith(str(folder))
    assert found["CUDA_VISIBLE_DEVICES"] == ""
    assert not {"OPENAI_API_KEY", "PYTHONPATH", "PWD"} & found.keys()
    assert "secret-key" not in result.output


def test_standard_input_is_empty_and_no_descriptor_is_inherited(execute: Execute) -> None:
    result = execute("""
        import os, sys
        print(repr(sys.stdin.read()), sorted(set(map(int, os.listdir("/proc/self/fd"))) - {0, 1, 2}))
    """)
    # 3 is the listing's own descriptor.
    assert result.output == "'' [3]\n"


def test_a_program_imports_what_the_server_did_not(execute: Execute) -> None:
    result = execute("import numpy, sqlite3, xml.dom.minidom\nprint(numpy.arange(3).sum())")
    assert result.output == "3\n"


def test_temporary_files_lie_in_the_folder(execute: Execute, folder: Path) -> None:
    """The server has asked for its own temporary folder before."""
    assert execute("import tempfile\nprint(tempfile.mkdtemp())").output.startswith(f"{folder}/.tmp/")


def test_managers_of_multiprocessing_work_below_a_long_path(runner: SandboxClient, base: Path) -> None:
    folder = base / ("n" * 120)
    folder.mkdir()
    (folder / "solution.py").write_text(
        "from multiprocessing import get_context\n"
        "with get_context('fork').Manager() as manager:\n"
        "    shared = manager.dict(x=1)\n"
        "    print(shared['x'])\n"
    )
    request = ExecutionRequest(folder=folder, argv=("solution.py",), unix_sockets=True)
    assert runner.execute(request, NeverStop()).output == "1\n"


# ── seeds ───────────────────────────────────────────────────────────────────────────────────────────────────

DRAW = "import random, numpy\nprint(random.random(), numpy.random.random())"


def test_equal_seeds_give_equal_numbers_and_their_proof(execute: Execute) -> None:
    first, second, other = (execute(DRAW, seed=seed) for seed in (1, 1, 2))
    assert first.output == second.output
    assert not set(first.output.split()) & set(other.output.split())  # each generator has other numbers
    assert first.seed_proof == second.seed_proof != other.seed_proof
    assert len(first.seed_proof) == 64


def test_a_seed_gives_the_numbers_that_it_gives_elsewhere(execute: Execute) -> None:
    import random

    generator = random.Random(7)
    assert execute("import random\nprint(random.random())", seed=7).output == f"{generator.random()}\n"


# ── ends ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_wall_time_ends_a_program_and_shows_where_it_was(execute: Execute) -> None:
    result = execute("import time\ndef slow():\n    time.sleep(600)\nslow()", limits={"wall_seconds": 0.5})
    assert result.end is ExecutionEnd.TIMED_OUT
    assert "in slow" in result.output
    assert "[stopped after 0.5 s]" in result.output


def test_cpu_time_ends_a_program(execute: Execute) -> None:
    result = execute("while True: pass", limits={"cpu_seconds": 0.3})
    assert result.end is ExecutionEnd.TIMED_OUT


def test_a_signal_of_its_own_is_reported(execute: Execute) -> None:
    result = execute("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    assert (result.end, result.signal) == (ExecutionEnd.SIGNALED, 9)


def test_memory_of_the_tree_is_limited(execute: Execute) -> None:
    program = """
        import os, time
        for _ in range(3):
            if os.fork() == 0:
                kept = bytearray(os.urandom(2**20)) * 100
                time.sleep(600)
        time.sleep(600)
    """
    result = execute(program, limits={"memory_bytes": 200 * 2**20})
    assert result.end is ExecutionEnd.MEMORY
    assert result.peak_rss_bytes > 200 * 2**20


def test_what_the_server_has_loaded_does_not_count(execute: Execute) -> None:
    result = execute("import time\ntime.sleep(0.5)", limits={"memory_bytes": 24 * 2**20})
    assert result.is_ok, result


@pytest.mark.parametrize("program", [
    "for n in range(10**6): open(f'f{n}', 'wb').write(bytes(2**18))",
    "import os\nf = open('f', 'wb')\nos.unlink('f')\nwhile True: f.write(bytes(2**18)); f.flush()",
])  # fmt: skip
def test_disk_of_the_folder_is_limited(execute: Execute, folder: Path, program: str) -> None:
    result = execute(program, limits={"disk_bytes": 20 * 2**20})
    assert result.end is ExecutionEnd.DISK


def test_output_is_bounded_and_its_two_ends_are_kept(execute: Execute) -> None:
    result = execute("print('begin')\nprint('x' * 500_000)\nprint('end')", limits={"output_bytes": 1000})
    assert result.is_ok
    assert result.output.startswith("begin\n")
    assert result.output.endswith("end\n")
    assert "bytes cut]" in result.output
    assert len(result.output) < 1100
    assert result.output_bytes == 500_011


def test_a_flood_of_output_ends_a_program(execute: Execute) -> None:
    result = execute("import os\nwhile True: os.write(1, bytes(65536))", limits={"output_bytes": 1000})
    assert result.end is ExecutionEnd.OUTPUT


def test_a_request_to_stop_ends_a_program(runner: SandboxClient, folder: Path) -> None:
    stop, found = Stop(), list[ExecutionEnd]()
    (folder / "solution.py").write_text("open('started', 'w').close()\nimport time\ntime.sleep(600)")
    request = ExecutionRequest(folder=folder, argv=("solution.py",))
    thread = threading.Thread(target=lambda: found.append(runner.execute(request, stop).end))
    thread.start()
    wait_until((folder / "started").exists)
    stop.event.set()
    thread.join(60)
    assert found == [ExecutionEnd.STOPPED]


# ── another program ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_program_by_its_absolute_path(runner: SandboxClient, folder: Path) -> None:
    shell = shutil.which("sh")
    assert shell
    request = ExecutionRequest(
        folder=folder, argv=(shell, "-c", "echo $X; pwd; exit 5"), environment={"X": "given"}
    )
    result = runner.execute(request, NeverStop())
    assert (result.output, result.exit_code) == (f"given\n{folder}\n", 5)


# ── files ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_closed_path_below_a_readable_folder_stays_closed(execute: Execute, base: Path) -> None:
    data = base / "data"
    (data / "deep" / "hidden").mkdir(parents=True)
    for name in ("open.txt", "deep/open.txt", "deep/hidden/labels.txt", "deep/secret.txt"):
        (data / name).write_text("text")
    (data / "deep" / "alias").symlink_to(data / "deep" / "hidden")
    program = f"""
        from pathlib import Path
        for path in ("open.txt", "deep/open.txt", "deep/hidden/labels.txt", "deep/alias/labels.txt", "deep/secret.txt"):
            try:
                print(path, Path({str(data)!r}, path).read_text())
            except PermissionError:
                print(path, "closed")
    """
    denied = (data / "deep" / "hidden", data / "deep" / "secret.txt")
    result = execute(program, readable=(data,), denied=denied)
    assert result.output.splitlines() == [
        "open.txt text",
        "deep/open.txt text",
        "deep/hidden/labels.txt closed",
        "deep/alias/labels.txt closed",
        "deep/secret.txt closed",
    ]


def test_a_closed_path_among_installed_packages_leaves_the_rest_readable(execute: Execute) -> None:
    import numpy

    package = Path(numpy.__file__).parent
    program = f"""
        import os
        print(sorted(os.listdir({str(package)!r})) == {sorted(os.listdir(package))!r})
        import numpy.f2py.crackfortran
        import numpy.testing
    """
    result = execute(program, denied=(package / "testing",))
    assert result.output.startswith("True\n")
    assert "line 5" in result.output
    assert "numpy.testing" in result.output


def test_a_readable_folder_is_not_writable(execute: Execute, base: Path) -> None:
    data = base / "data"
    data.mkdir()
    data.chmod(0o777)
    result = execute(f"open({str(data / 'x')!r}, 'w')", readable=(data,))
    assert "PermissionError" in result.output


def test_the_starter_reads_and_removes_what_a_program_closed(
    execute: Execute, runner: SandboxClient, folder: Path
) -> None:
    result = execute("""
        import os, tempfile
        os.makedirs("out/deep")
        handle, name = tempfile.mkstemp(dir="out")
        os.write(handle, b"atomic")
        os.replace(name, "out/results.json")
        open("out/deep/x", "w").close()
        os.chmod("out/deep", 0)
        os.chmod("out/deep", 0o000)
    """)
    assert result.is_ok, result
    assert stat.S_IMODE((folder / "out" / "results.json").stat().st_mode) & 0o060 == 0o060 or not has_own_user()
    assert (folder / "out" / "results.json").read_text() == "atomic"
    assert not (folder / ".tmp").exists()
    runner.remove(folder)
    assert not folder.exists()


# ── requests ────────────────────────────────────────────────────────────────────────────────────────────────


def request_of(folder: Path, **changes: object) -> ExecutionRequest:
    (folder / "solution.py").touch()
    return ExecutionRequest(**{"folder": folder, "argv": ("solution.py",), **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hosts": ("https://example.org",)}, "is no host"),
        ({"argv": ()}, "names no program"),
        ({"argv": ("../solution.py",)}, "neither a Python file"),
        ({"argv": ("missing.py",)}, "is not a file"),
        ({"argv": ("sh",)}, "neither a Python file"),
        ({"readable": (Path("/nowhere"),)}, "does not exist"),
        ({"environment": {"A": "\0"}}, "contains NUL"),
        ({"environment": {"A": "x" * 200_000}}, "at most"),
    ],
)
def test_a_wrong_request_is_refused_with_its_cause(folder: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(RunError, match=message) as caught:
        check_request(request_of(folder, **changes))
    assert caught.value.code is FailureCode.INVALID_INPUT


def test_a_missing_program_is_refused(runner: SandboxClient, folder: Path) -> None:
    with pytest.raises(RunError, match="not a program"):
        runner.execute(request_of(folder, argv=("/usr/bin/no-such-program",)), NeverStop())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a user that a folder can be closed for")
def test_a_folder_out_of_the_users_reach_is_refused_with_the_fix(runner: SandboxClient, base: Path) -> None:
    if not has_own_user():
        pytest.skip("programs have our user here: no interpreter is open for another one")
    closed = base / "closed"
    (closed / "node").mkdir(parents=True)
    closed.chmod(0o700)
    with pytest.raises(RunError, match=f"chmod o.x {closed}"):
        runner.execute(request_of(closed / "node"), NeverStop())


# ── several at once, and a dead server ──────────────────────────────────────────────────────────────────────


def test_two_threads_execute_at_the_same_time(runner: SandboxClient, base: Path) -> None:
    """Each program ends only when the other one runs."""
    program = """
        import sys, time
        open("here", "w").close()
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                open(sys.argv[1]).close()
                break
            except OSError:
                time.sleep(0.01)
        else:
            sys.exit(1)
    """
    folders, results = [base / name for name in ("one", "two")], list[bool]()
    for folder in folders:
        folder.mkdir()
        (folder / "solution.py").write_text(textwrap.dedent(program))

    def run(mine: Path, other: Path) -> None:
        request = ExecutionRequest(folder=mine, argv=("solution.py", str(other / "here")), readable=(other,))
        results.append(runner.execute(request, NeverStop()).is_ok)

    threads = [threading.Thread(target=run, args=pair) for pair in (folders, folders[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert results == [True, True]


def test_a_limit_of_the_request_can_be_tightened_only(runner: SandboxClient, folder: Path) -> None:
    assert ExecutionLimits().address_space_bytes is None
    (folder / "solution.py").write_text("bytearray(2**32)")
    limits = ExecutionLimits(address_space_bytes=2**31)
    result = runner.execute(ExecutionRequest(folder=folder, argv=("solution.py",), limits=limits), NeverStop())
    assert "MemoryError" in result.output


def test_a_keeper_that_was_killed_leaves_no_process(runner: SandboxClient, folder: Path) -> None:
    (folder / "solution.py").write_text(
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    open('pids.tmp', 'w').write(f'{os.getppid()} {os.getpid()}')\n"
        "    os.rename('pids.tmp', 'pids')\n"
        "time.sleep(600)\n"
    )
    caught = list[RunError]()

    def run() -> None:
        try:
            runner.execute(ExecutionRequest(folder=folder, argv=("solution.py",)), NeverStop())
        except RunError as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until((folder / "pids").exists)
    program, orphan = map(int, (folder / "pids").read_text().split())
    os.kill(psutil.Process(program).ppid(), signal.SIGKILL)
    thread.join(60)
    assert [each.code for each in caught] == [FailureCode.ENVIRONMENT]
    assert not psutil.pid_exists(program)
    assert not psutil.pid_exists(orphan)


def test_the_server_cannot_be_inspected_by_its_own_user(runner: SandboxClient) -> None:
    """The kernel gives the files in /proc of such a process to root."""
    if not has_own_user():
        pytest.skip("the server has our user here, so the owner of the files says nothing")
    assert os.stat(f"/proc/{runner.server.pid}/environ").st_uid == 0 != runner.server.uid


def test_a_server_that_is_worn_starts_again_and_keeps_its_client(
    library_path: dict[str, str], base: Path, folder: Path
) -> None:
    wrapper = base / "python"
    wrapper.write_text(
        f"#!{open_python()}\n"
        "import sys\n"
        "from pod_worker.sandbox import server\n"
        "server.EXECUTIONS_LIMIT = 2\n"
        "server.main(sys.argv[4:])\n"
    )
    wrapper.chmod(0o755)
    with SandboxClient(LocalStarter(["random"], python=str(wrapper), variables=library_path), floor()) as client:
        request = request_of(folder)
        for expected in (0, 1):  # the proof of the layers was the first execution; the second reached the limit
            assert client.execute(request, NeverStop()).is_ok
            wait_until(lambda expected=expected: executions(client) == expected)  # type: ignore[misc]
        assert client._ask(DescribeCommand(), 60).pid == client.server.pid


def executions(client: SandboxClient) -> int:
    description = client._ask(DescribeCommand(), 60)
    assert isinstance(description, ServerDescription)
    return description.executions
