"""Programs reach the hosts that their run names, and nothing else."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pod_worker.core.execution import ExecutionRequest, ExecutionResult
from pod_worker.core.failure import FailureCode, RunError
from pod_worker.sandbox.client import check_request
from pod_worker.sandbox.named_hosts import HOSTS_LIMIT, host_problem, read_host

Execute = Callable[..., ExecutionResult]


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = f"page {self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    server.daemon_threads = True
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving() as found:
        yield found


@pytest.fixture(scope="module")
def other_port() -> Iterator[int]:
    """Of a host that no run names."""
    with serving() as found:
        yield found


def reaching(port: int) -> dict[str, Any]:
    return {"hosts": (f"localhost:{port}",)}


def test_libraries_reach_a_named_host_and_no_other(execute: Execute, port: int, other_port: int) -> None:
    program = f"""
        import http.client, socket, urllib.request
        print(urllib.request.urlopen("http://localhost:{port}/a", timeout=30).read().decode())
        connection = http.client.HTTPConnection("LOCALHOST", {port})
        for name in "bc":
            connection.request("GET", "/" + name)
            print(connection.getresponse().read().decode())
        plain = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.settimeout(30)
        plain.connect(("localhost", {port}))
        print(plain.getpeername()[1], plain.gettimeout())
        for address in (("localhost", {other_port}), ("127.0.0.1", {port}), ("example.org", 443)):
            try:
                socket.create_connection(address)
            except PermissionError as error:
                print(error)
    """
    result = execute(program, **reaching(port))
    assert result.output.splitlines() == [
        "page /a",
        "page /b",
        "page /c",
        f"{port} 30.0",
        f"[Errno 13] localhost:{other_port} is not among the hosts that this run may reach",
        f"[Errno 13] 127.0.0.1:{port} is not among the hosts that this run may reach",
        "[Errno 13] example.org:443 is not among the hosts that this run may reach",
    ]


def test_requests_work_through_their_own_library(execute: Execute, port: int) -> None:
    program = f"import requests\nprint(requests.get('http://localhost:{port}/r', timeout=30).text)"
    assert execute(program, **reaching(port)).output == "page /r\n"


ATTACKS = """
    import _socket, errno, os, socket
    PORT, OTHER = {port}, {other}
    def attempt(name, action):
        try:
            action()
        except OSError as error:
            print(name, errno.errorcode[error.errno])
        else:
            print(name, "WORKED")
    attempt("socket", lambda: _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM))
    attempt("datagram", lambda: _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM))
    attempt("unix", lambda: _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM))
    found = socket.create_connection(("localhost", PORT))
    raw = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM, 0, os.dup(found.fileno()))
    attempt("connect again", lambda: raw.connect(("127.0.0.1", OTHER)))
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    def disconnect():
        if libc.connect(raw.fileno(), bytes(16), 16):
            raise OSError(ctypes.get_errno(), "connect")
    attempt("disconnect", disconnect)
    attempt("bind", lambda: raw.bind(("127.0.0.1", 0)))
    attempt("listen", lambda: raw.listen())
    attempt("accept", lambda: raw._accept())
    ours, theirs = socket.socketpair()
    channel = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, os.dup(4))
    for message in (f"localhost {{OTHER}}", f"127.0.0.1 {{PORT}}", "x", "", "localhost 99999999999", "\\xff 1"):
        ours, theirs = socket.socketpair()
        socket.send_fds(channel, [message.encode("latin-1") or b" "], [theirs.fileno()])
        theirs.close()
        print("asked", len(socket.recv_fds(ours, 600, 1)[1]))
"""


def test_what_a_program_may_do_with_its_connections_opens_no_way_out(
    execute: Execute, port: int, other_port: int
) -> None:
    result = execute(ATTACKS.format(port=port, other=other_port), **reaching(port))
    assert "WORKED" not in result.output, result.output
    lines = result.output.splitlines()
    assert [line.split()[-1] for line in lines[:8]] == ["EPERM"] * 8, result.output
    assert lines[8:] == ["asked 0"] * 6


def test_processes_of_the_program_may_ask_too_and_closed_requests_do_no_harm(execute: Execute, port: int) -> None:
    program = f"""
        import multiprocessing, os, socket, urllib.request
        def fetch(number):
            return urllib.request.urlopen("http://localhost:{port}/" + str(number), timeout=60).read().decode()
        channel = socket.socket(fileno=os.dup(4))
        channel.send(b"no descriptor")
        ours, theirs = socket.socketpair()
        socket.send_fds(channel, [b"localhost {port}"], [theirs.fileno()])
        ours.close(); theirs.close()
        with multiprocessing.get_context("fork").Pool(4) as pool:
            print(pool.map(fetch, range(8)))
    """
    assert execute(program, **reaching(port)).output == f"{[f'page /{number}' for number in range(8)]}\n"


@pytest.mark.skipif(not shutil.which("openssl"), reason="the certificate is made with openssl")
def test_a_program_speaks_tls_with_a_named_host(execute: Execute, folder: Path) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    with serving(context) as port:
        program = f"""
            import ssl, urllib.request
            context = ssl.create_default_context(cafile="cert.pem")
            print(urllib.request.urlopen("https://localhost:{port}/tls", context=context, timeout=60).read().decode())
        """
        assert execute(program, **reaching(port)).output == "page /tls\n"


def test_without_named_hosts_nothing_is_reached(execute: Execute, port: int) -> None:
    program = f"import socket\nsocket.create_connection(('127.0.0.1', {port}))"
    assert "Operation not permitted" in execute(program).output


def request_of(folder: Path, **changes: Any) -> ExecutionRequest:
    (folder / "solution.py").write_text("")
    return ExecutionRequest(**{"folder": folder, "argv": ("solution.py",), "hosts": ("a.org",)} | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unix_sockets": True}, "exclude sockets of the program's own"),
        ({"loopback": True}, "exclude sockets of the program's own"),
        ({"argv": ("/bin/true",)}, "only Python files"),
        ({"hosts": ("a.org",) * (HOSTS_LIMIT + 1)}, "at most"),
        ({"hosts": ("a.org", "https://a.org/x")}, "without a scheme"),
    ],
)
def test_a_request_that_would_open_more_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    check_request(request_of(tmp_path))
    with pytest.raises(RunError, match=message) as caught:
        check_request(request_of(tmp_path, **changes))
    assert caught.value.code is FailureCode.INVALID_INPUT


@pytest.mark.parametrize(
    "host", ["", "*", "*.org", "A.org", "a.org:0", "a.org:65536", "a b", "a.org/", "-a", "a.", "[::1]"]
)
def test_what_is_no_host_is_named(host: str) -> None:
    assert host_problem(host)


def test_the_port_is_that_of_https_unless_named() -> None:
    assert (read_host("a.org"), read_host("a.org:80")) == (("a.org", 443), ("a.org", 80))
    assert not host_problem("huggingface.co")
    assert not host_problem("10.0.0.1:8080")
