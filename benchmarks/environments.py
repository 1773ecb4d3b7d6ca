"""What peers need to run here: a virtual environment for each, Redis and PostgreSQL from Debian's packages.

Everything is pinned, installed on first use and kept under `.tools/`; only the servers need root, once.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pod_worker.local.process import ChildProcess, free_port

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".tools"
PACKAGES = {
    "celery": ["celery[redis]==5.7.0"],
    "rq": ["rq==3.0.0"],
    "dramatiq": ["dramatiq[redis]==2.2.1"],
    "procrastinate": ["procrastinate==3.10.0", "psycopg[binary]==3.3.9"],
    "mlflow": ["mlflow==3.17.2"],
    "trackio": ["trackio==0.43.0"],
    "tensorboard": ["tensorboard==2.21.0", "setuptools<81"],
    "wandb": ["wandb==0.31.0"],
}
DEBIAN = "apt-get install -y --no-install-recommends redis-server postgresql"
START_SECONDS = 60.0


def python_for(name: str) -> str:
    """The interpreter of a peer's own environment, which is made when it is missing."""
    home = TOOLS / f"bench-{name}"
    interpreter = home / "bin" / "python"
    if not (home / "ready").exists():
        print(f"installing {PACKAGES[name][0]} into {home.relative_to(ROOT)} …", file=sys.stderr)
        shutil.rmtree(home, ignore_errors=True)
        venv.create(home, with_pip=True)
        subprocess.run([interpreter, "-m", "pip", "install", "-qq", *PACKAGES[name]], check=True)
        (home / "ready").touch()
    return str(interpreter)


def require_servers() -> None:
    """Install Redis and PostgreSQL where root runs this and they are missing; else say what to type."""
    if shutil.which("redis-server") and _postgres_folder():
        return
    if os.geteuid() != 0:
        raise SystemExit(f"redis-server and postgresql are needed for the peers. Fix: sudo {DEBIAN}")
    print("installing redis-server and postgresql …", file=sys.stderr)
    # Debian starts what it installs; these servers are ours to start, on ports of our own.
    environment = os.environ | {"RUNLEVEL": "1", "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        DEBIAN.split(), env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise SystemExit(f"{DEBIAN} failed:\n{done.stderr[-2000:]}")


@contextmanager
def redis(folder: Path, *, durable: bool) -> Iterator[str]:
    """Its URL. `durable`: each write is on disk before it is answered, as MongoDB's and PostgreSQL's are here."""
    folder.mkdir(parents=True)
    port = free_port()
    words = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    words += ["--appendonly", "yes", "--appendfsync", "always"] if durable else []  # else Debian's: snapshots
    with _server("redis", words, folder, port):
        yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """Its URL; settings as shipped (fsync and synchronous_commit on)."""
    programs, port, data = _postgres_folder(), free_port(), folder / "data"
    assert programs is not None
    folder.mkdir(parents=True)
    as_user: list[str] = []
    if os.geteuid() == 0:  # it refuses to run as root
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]
        shutil.chown(folder, "postgres", "postgres")
        for parent in folder.parents[:2]:
            parent.chmod(parent.stat().st_mode | 0o011)
    initdb = [*as_user, str(programs / "initdb"), "-D", str(data), "-A", "trust", "-U", "bench", "-E", "UTF8"]
    subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, cwd=folder)
    words = [*as_user, str(programs / "postgres"), "-D", str(data), "-p", str(port)]
    words += ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
    with _server("postgres", words, folder, port):
        yield f"postgresql://bench@127.0.0.1:{port}/postgres"


def _postgres_folder() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


@contextmanager
def _server(name: str, words: list[str], folder: Path, port: int) -> Iterator[None]:
    process = ChildProcess(name, words, folder / f"{name}.log", cwd=folder)
    process.start()
    try:
        process.wait_until(lambda: _answers(port), START_SECONDS)
        yield
    finally:
        process.stop()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
