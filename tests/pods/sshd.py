"""A real OpenSSH server on loopback, with its own host key, for the user who runs the tests."""

from __future__ import annotations

import getpass
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from pod_worker.pods.pod import SshAddress
from pod_worker.pods.ssh.login import SshLogin


@dataclass
class Sshd:
    folder: Path
    port: int
    pid: int = 0

    @property
    def address(self) -> SshAddress:
        return SshAddress("127.0.0.1", self.port, getpass.getuser())

    @property
    def login(self) -> SshLogin:
        return SshLogin(private_key_path=self.folder / "user_key")

    @property
    def public_key(self) -> str:
        return (self.folder / "user_key.pub").read_text()

    def cut_sessions(self) -> None:
        """Kill what serves the open connections, as a pod does when it is terminated."""
        for child in psutil.Process(self.pid).children(recursive=True):
            if child.name().startswith("sshd"):
                child.kill()

    def new_host_key(self) -> None:
        """As a container that was stopped and started: sshd reads the key at its next start."""
        (self.folder / "host_key").unlink()
        make_key(self.folder / "host_key")


def program(name: str) -> str:
    """The path of one of OpenSSH's programs. None of them runs for a user without a passwd entry."""
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        pytest.skip("OpenSSH refuses to run for a user without a passwd entry")
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin")
    if found is None:
        pytest.fail(f"{name} is missing: apt-get install -y openssh-server", pytrace=False)
    return found


def make_key(path: Path, kind: str = "ed25519") -> None:
    subprocess.run([program("ssh-keygen"), "-q", "-t", kind, "-N", "", "-f", str(path)], check=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_folder(folder: Path) -> Sshd:
    make_key(folder / "host_key")
    make_key(folder / "user_key")
    (folder / "authorized_keys").write_text((folder / "user_key.pub").read_text())
    return Sshd(folder, free_port())


@contextmanager
def running(sshd: Sshd) -> Iterator[Sshd]:
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd drops its privileges
    config = sshd.folder / "sshd_config"
    config.write_text(
        f"ListenAddress 127.0.0.1\nPort {sshd.port}\nHostKey {sshd.folder}/host_key\n"
        f"AuthorizedKeysFile {sshd.folder}/authorized_keys\nPidFile none\nStrictModes no\nUsePAM no\n"
        "PasswordAuthentication yes\nPermitRootLogin yes\nLogLevel VERBOSE\n"
    )
    with (sshd.folder / "log").open("ab") as log:
        process = subprocess.Popen([program("sshd"), "-D", "-e", "-f", str(config)], stderr=log, stdout=log)
    sshd.pid = process.pid
    try:
        wait_for_port(sshd, process)
        yield sshd
    finally:
        process.terminate()
        process.wait(10)


def wait_for_port(sshd: Sshd, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", sshd.port)) == 0:
                return
    pytest.fail(f"sshd did not start: {(sshd.folder / 'log').read_text()[-2000:]}", pytrace=False)
