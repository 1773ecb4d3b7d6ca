"""Commands on a pod over SSH, with a pinned host key and bounded waits.

It needs the pod's own sshd; RunPod's SSH proxy supports only interactive shells. Secrets are never part of a
command: scripts and files are sent over stdin. A started command is never retried.
"""

from __future__ import annotations

import codecs
import contextlib
import logging
import select
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import paramiko

from pod_worker.pods.pod import SshAddress
from pod_worker.pods.ssh.host_keys import HostKeyChangedError, HostKeyPins, fingerprint
from pod_worker.pods.ssh.login import PrivateKeyError, SshError, SshLogin

# paramiko logs tracebacks of failed connections from its threads; each failure is raised as an SshError as well.
logging.getLogger("paramiko").setLevel(logging.CRITICAL)

KEPT_BYTES = 1024 * 1024
"""The last MiB of each output stream is kept; all of it is streamed."""
KILL_AFTER_SECONDS = 5.0
NETWORK_SLACK_SECONDS = 5.0
"""Added to a time limit for the network, before the client stops waiting for the pod's own timeout."""
TIMED_OUT_CODES = (124, 137)
"""Exit codes of timeout(1): ended by TERM, by KILL."""
OutputSink = Callable[[str, str], None]
"""Called with "stdout" or "stderr" and a piece of text."""


class SshUnreachableError(SshError):
    """No sshd answered (yet)."""


class SshAuthenticationError(SshError):
    """sshd rejected the login; on a booting pod the keys may not be installed yet."""


class SshConnectionLostError(SshError):
    """The connection broke during a command; whether the command finished is unknown."""


@dataclass(frozen=True, slots=True)
class CommandResult:
    exit_code: int
    """-1 when the command timed out or its status was not received."""
    stdout: str
    stderr: str
    timed_out: bool = False

    @property
    def is_success(self) -> bool:
        return self.exit_code == 0


class _PinningPolicy(paramiko.MissingHostKeyPolicy):
    """paramiko calls it for every host, because no known_hosts is loaded."""

    def __init__(self, pins: HostKeyPins, pod_id: str) -> None:
        self._pins = pins
        self._pod_id = pod_id

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        self._pins.check(self._pod_id, fingerprint(key.get_name(), key.asbytes()))


class SSHClient:
    """One connection to one pod."""

    def __init__(
        self,
        address: SshAddress,
        login: SshLogin,
        *,
        pod_id: str,
        pins: HostKeyPins,
        connect_seconds: float = 10.0,
    ) -> None:
        self.address = address
        self._login = login
        self._policy = _PinningPolicy(pins, pod_id)
        self._connect_seconds = connect_seconds
        self._client: paramiko.SSHClient | None = None
        self._transport: paramiko.Transport | None = None

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.disconnect()

    def connect(self) -> None:
        """One attempt.

        Raises SshUnreachableError, SshAuthenticationError, HostKeyChangedError or PrivateKeyError.
        """
        key = self._login.load_key()
        if key is None and self._login.password is None:
            raise PrivateKeyError("no SSH key is set; set RUNPOD_SSH_PRIVATE_KEY_PATH")
        client = paramiko.SSHClient()
        client.set_missing_host_key_policy(self._policy)
        try:
            client.connect(
                self.address.host,
                port=self.address.port,
                username=self.address.username,
                pkey=key,
                password=None if key is not None else self._login.password,
                look_for_keys=False,
                allow_agent=False,
                timeout=self._connect_seconds,
                banner_timeout=self._connect_seconds,
                auth_timeout=self._connect_seconds,
            )
        except (OSError, EOFError, paramiko.SSHException) as error:
            client.close()
            raise self._named(error) from None
        except HostKeyChangedError:
            client.close()
            raise
        transport = client.get_transport()
        assert transport is not None, "connect() made one"
        transport.set_keepalive(15)
        self._client, self._transport = client, transport

    def _named(self, error: Exception) -> SshError:
        where = f"{self.address.username}@{self.address.host}:{self.address.port}"
        if isinstance(error, paramiko.AuthenticationException):
            return SshAuthenticationError(
                f"{where} rejected the login; check that the pod was created with the matching public key "
                "(RUNPOD_SSH_PUBLIC_KEY_PATH) and that its image starts sshd with PUBLIC_KEY"
            )
        return SshUnreachableError(
            f"no SSH at {where} ({type(error).__name__}: {error}); the pod may still be starting, or does not "
            "expose 22/tcp"
        )

    def disconnect(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = self._transport = None

    close = disconnect

    def execute_command(self, command: str, timeout: int = 600) -> tuple[int, str, str]:
        """(exit_code, stdout, stderr); exit code -1 and the output so far after a timeout."""
        result = self.run(command, timeout_seconds=timeout)
        return result.exit_code, result.stdout, result.stderr

    def run(
        self,
        command: str,
        *,
        timeout_seconds: float,
        stdin: str = "",
        on_output: OutputSink = lambda stream, text: None,
    ) -> CommandResult:
        """Run `command` in bash. After `timeout_seconds` it is killed on the pod."""
        # No exec: `timeout` dies of its own SIGKILL, and a shell above it turns that into a readable 137.
        bounded = f"timeout -k {KILL_AFTER_SECONDS:g} {timeout_seconds:g} bash -c {shlex.quote(command)}; exit $?"
        try:
            with contextlib.closing(self._open_channel()) as channel:
                channel.exec_command(bounded)
                _feed(channel, stdin)
                return _collect(channel, timeout_seconds, on_output)
        except (OSError, EOFError, paramiko.SSHException) as broken:
            raise SshConnectionLostError(
                f"the SSH connection to {self.address.host}:{self.address.port} broke during a command "
                f"({type(broken).__name__}); connect again and look at what it left"
            ) from broken

    def put_text(self, path: str, text: str, *, mode: int = 0o600) -> None:
        """Write a file atomically; its content is never part of a command."""
        target, fresh = shlex.quote(path), shlex.quote(f"{path}.new")
        folder = shlex.quote(str(Path(path).parent))
        script = (
            f"umask 077 && mkdir -p {folder} && cat > {fresh} && chmod {mode:o} {fresh} && mv -f {fresh} {target}"
        )
        result = self.run(script, timeout_seconds=60, stdin=text)
        if not result.is_success:
            raise SshError(f"cannot write {path} on the pod: {result.stderr.strip()[-300:]}")

    def _open_channel(self) -> paramiko.Channel:
        if self._transport is None:
            raise SshError("not connected; call connect() first or use the client as a context manager")
        return self._transport.open_session(timeout=self._connect_seconds)


class _Output:
    """One stream, decoded incrementally; its last KEPT_BYTES are kept."""

    def __init__(self, name: str, sink: OutputSink) -> None:
        self._name = name
        self._sink = sink
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._kept = bytearray()

    def add(self, data: bytes) -> None:
        self._kept += data
        if len(self._kept) > 2 * KEPT_BYTES:
            del self._kept[:-KEPT_BYTES]
        if text := self._decoder.decode(data):
            self._sink(self._name, text)

    def text(self) -> str:
        return bytes(self._kept[-KEPT_BYTES:]).decode("utf-8", "replace")


def _feed(channel: paramiko.Channel, stdin: str) -> None:
    if stdin:
        channel.sendall(stdin.encode())
    channel.shutdown_write()


def _collect(channel: paramiko.Channel, timeout_seconds: float, sink: OutputSink) -> CommandResult:
    """Drain both streams while waiting: a command that fills an unread pipe blocks."""
    out, err = _Output("stdout", sink), _Output("stderr", sink)
    start = time.monotonic()
    quiet_since: float | None = None
    while time.monotonic() < start + timeout_seconds + KILL_AFTER_SECONDS + NETWORK_SLACK_SECONDS:
        if channel.eof_received:
            channel.status_event.wait(0.2)  # both streams are closed: select() would always return at once
        else:
            select.select([channel], [], [], 0.2)
        if _drain(channel, out, err) or not channel.exit_status_ready():
            quiet_since = None
            continue
        # A background child may keep the streams open after the command has ended.
        quiet_since = quiet_since or time.monotonic()
        if channel.closed or channel.eof_received or time.monotonic() > quiet_since + 0.5:
            return _result(channel, out, err, time.monotonic() - start >= timeout_seconds)
    return CommandResult(-1, out.text(), err.text(), timed_out=True)


def _result(channel: paramiko.Channel, out: _Output, err: _Output, is_late: bool) -> CommandResult:
    code = int(channel.recv_exit_status())
    transport = channel.get_transport()
    if code == -1 and not (transport is not None and transport.is_active()):
        raise EOFError("no exit status")
    timed_out = is_late and code in TIMED_OUT_CODES
    return CommandResult(-1 if timed_out else code, out.text(), err.text(), timed_out)


def _drain(channel: paramiko.Channel, out: _Output, err: _Output) -> bool:
    moved = False
    while channel.recv_ready():
        out.add(channel.recv(64 * 1024))
        moved = True
    while channel.recv_stderr_ready():
        err.add(channel.recv_stderr(64 * 1024))
        moved = True
    return moved


def connect_with_retry(
    client_for: Callable[[], SSHClient | None],
    *,
    timeout_seconds: float,
    every_seconds: float,
    monotonic: Callable[[], float],
    sleep: Callable[[float], None],
) -> SSHClient:
    """A connected client; retries for `timeout_seconds`.

    `client_for` is called for each try, because a pod's port changes with a restart and is unknown at first
    (None). A changed host key ends the retries at once.
    """
    start = monotonic()
    last: SshError = SshUnreachableError("the pod has no SSH address yet; does it expose 22/tcp?")
    while True:
        client = client_for()
        if client is not None:
            try:
                client.connect()
            except (SshUnreachableError, SshAuthenticationError) as not_yet:
                last = not_yet
            else:
                return client
        if monotonic() - start >= timeout_seconds:
            raise last
        sleep(every_seconds)
