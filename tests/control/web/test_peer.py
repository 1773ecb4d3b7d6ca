"""Who is at the other end of a loopback connection."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pod_worker.control.web.peer import TABLES, peer_uid
from tests.control.runs.test_live import Server

needs_linux = pytest.mark.skipif(not TABLES[0].exists(), reason="needs the socket table of Linux")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")


@needs_linux
@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_the_user_of_a_connection(family: int, host: str) -> None:
    with socket.socket(family) as listener:
        listener.bind((host, 0))
        listener.listen()
        with socket.create_connection(listener.getsockname()[:2]) as client, listener.accept()[0]:
            ends = client.getsockname()[:2], client.getpeername()[:2]
            assert peer_uid(*ends) == os.geteuid()
    assert peer_uid(("127.0.0.1", 1), ("127.0.0.1", 2)) is None


def test_entries_of_mapped_addresses(tmp_path: Path) -> None:
    table = tmp_path / "tcp6"
    rows = [
        "sl local remote st queues timer retrnsmt uid timeout inode",
        "0: 0000000000000000FFFF00000100007F:C350 0000000000000000FFFF00000100007F:2253 01 0:0 0:0 0 33 0 1",
    ]
    table.write_text("\n".join(rows))
    assert peer_uid(("127.0.0.1", 50000), ("::ffff:127.0.0.1", 8787), (table,)) == 33
    assert peer_uid(("127.0.0.1", 50001), ("127.0.0.1", 8787), (table, tmp_path / "absent")) is None


@needs_linux
@needs_root
def test_another_user_of_this_machine_needs_the_key(store: Any, mongodb_url: str) -> None:
    """A proxy with a user of its own (nginx as www-data) and HTTP/1.1 shows in nothing else."""
    server = Server(mongodb_url)
    port = server.url.rpartition(":")[2]
    script = (
        "import os, socket, sys\n"
        "os.setuid(int(sys.argv[2]))\n"
        "with socket.socket() as client:\n"
        "    client.connect((b'127.0.0.1', int(sys.argv[1])))\n"
        "    client.sendall(b'GET /api/stats HTTP/1.1\\r\\nHost: 127.0.0.1\\r\\n\\r\\n')\n"
        "    print(client.recv(4096).split()[1].decode())\n"
    )
    try:
        found = [
            subprocess.run(
                [sys.executable, "-c", script, port, uid],
                capture_output=True,
                text=True,
                check=True,
            ).stdout.strip()
            for uid in ("0", "65534")
        ]
    finally:
        server.close()
    assert found == ["200", "401"]
