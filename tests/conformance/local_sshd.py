"""A real sshd on loopback with a throw-away key, for the check that opens a shell on a pod."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SBIN = "/usr/sbin:/usr/local/sbin:/sbin"


@contextmanager
def local_sshd(folder: Path, key_folder: Path) -> Iterator[int | None]:
    """Yields the port, or None where no sshd is installed or root may not log in (the clients log in as root).
    The private key is left in `key_folder`."""
    program = shutil.which("sshd") or shutil.which("sshd", path=SBIN)
    if program is None or os.geteuid() != 0:
        yield None
        return
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    _make_key(folder / "host_key")
    _make_key(key_folder / "id_conformance")
    port = _free_port()
    config = folder / "sshd_config"
    config.write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {folder / 'host_key'}\nPidFile none\nStrictModes no\n"
        f"AuthorizedKeysFile {key_folder / 'id_conformance.pub'}\nUsePAM no\nPermitRootLogin yes\n"
    )
    process = subprocess.Popen([program, "-D", "-e", "-f", str(config)], stderr=subprocess.DEVNULL)
    try:
        _await(port)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def _make_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # PEM RSA: the oldest of the clients reads nothing newer for sure.
    command = ["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-m", "PEM", "-N", "", "-f", str(path)]
    subprocess.run(command, check=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await(port: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError("sshd did not start within 10 seconds")
