"""Against a real sshd: login, pinned host keys, streams, time limits, large and invalid output."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pod_worker.core.clock import ManualClock
from pod_worker.pods.pod import SshAddress
from pod_worker.pods.ssh import client as ssh_client
from pod_worker.pods.ssh.client import (
    KEPT_BYTES,
    SshAuthenticationError,
    SSHClient,
    SshConnectionLostError,
    SshUnreachableError,
    connect_with_retry,
)
from pod_worker.pods.ssh.host_keys import HostKeyChangedError, PinFolder
from pod_worker.pods.ssh.login import PrivateKeyError, SshError, SshLogin
from tests.pods.sshd import Sshd, free_port, make_folder, make_key, running


@pytest.fixture
def pins(tmp_path: Path) -> PinFolder:
    return PinFolder(tmp_path / "pins")


@pytest.fixture
def client(sshd: Sshd, pins: PinFolder) -> Iterator[SSHClient]:
    with SSHClient(sshd.address, sshd.login, pod_id="p1", pins=pins) as client:
        yield client


def test_a_command_gives_code_and_both_streams(client: SSHClient) -> None:
    assert client.execute_command("echo out; echo err >&2; exit 3") == (3, "out\n", "err\n")
    assert client.execute_command("echo $((6 * 7)) && [[ a == a ]]") == (0, "42\n", "")


@pytest.mark.parametrize("kind", ["ed25519", "rsa", "ecdsa"])
def test_all_kinds_of_keys(sshd: Sshd, pins: PinFolder, tmp_path: Path, kind: str) -> None:
    make_key(tmp_path / "key", kind)
    allowed = sshd.folder / "authorized_keys"
    allowed.write_text(allowed.read_text() + (tmp_path / "key.pub").read_text())
    login = SshLogin(private_key=(tmp_path / "key").read_text())
    with SSHClient(sshd.address, login, pod_id="p1", pins=pins) as client:
        assert client.execute_command("true")[0] == 0


def test_output_is_streamed_while_the_command_runs(client: SSHClient, tmp_path: Path) -> None:
    """The command goes on only after its first line has been seen here."""
    seen: list[str] = []

    def on_output(stream: str, text: str) -> None:
        seen.append(text)
        (tmp_path / "seen").touch()

    script = f"echo first; until [ -e {tmp_path}/seen ]; do sleep 0.02; done; echo second"
    result = client.run(script, timeout_seconds=20, on_output=on_output)
    assert result.stdout == "first\nsecond\n"
    assert "".join(seen) == result.stdout
    assert len(seen) == 2


def test_both_pipes_full_do_not_block(client: SSHClient) -> None:
    code, out, err = client.execute_command(
        "head -c 3000000 /dev/zero | tr '\\0' e >&2; head -c 3000000 /dev/zero"
    )
    assert code == 0
    assert len(out) == len(err) == KEPT_BYTES


def test_a_character_split_between_packets_stays_whole(client: SSHClient) -> None:
    pieces: list[str] = []
    script = "printf '\\xe2\\x82'; sleep 0.3; printf '\\xac'; printf '\\xff'"
    result = client.run(script, timeout_seconds=10, on_output=lambda stream, text: pieces.append(text))
    assert result.stdout == "€\ufffd"
    assert "".join(pieces) == "€\ufffd"


def test_a_command_out_of_time_is_killed_on_the_pod(
    client: SSHClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh_client, "KILL_AFTER_SECONDS", 0.5)
    script = f"trap '' TERM; echo $$ > {tmp_path}/pid; echo begun; while true; do sleep 0.1; done"
    result = client.run(script, timeout_seconds=0.5)
    assert (result.exit_code, result.timed_out, result.stdout) == (-1, True, "begun\n")
    assert is_over(int((tmp_path / "pid").read_text()))


def is_over(pid: int) -> bool:
    """A killed orphan stays a zombie where no parent reaps it."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("code", [124, 137])
def test_a_command_with_such_an_exit_code_is_not_out_of_time(client: SSHClient, code: int) -> None:
    result = client.run(f"exit {code}", timeout_seconds=30)
    assert (result.exit_code, result.timed_out) == (code, False)


def test_a_background_child_that_keeps_the_streams_does_not_hold_us(client: SSHClient) -> None:
    start = time.monotonic()
    assert client.execute_command("sleep 15 & echo $!")[0] == 0
    assert time.monotonic() - start < 8


def test_stdin_carries_what_argv_must_not(client: SSHClient, tmp_path: Path) -> None:
    result = client.run(f"cat > {tmp_path}/got; ps -o args= -p $$", timeout_seconds=10, stdin="secret ' $x\n")
    assert (tmp_path / "got").read_text() == "secret ' $x\n"
    assert "secret" not in result.stdout


def test_a_file_is_put_whole_and_private(client: SSHClient, tmp_path: Path) -> None:
    target = tmp_path / "new folder" / "it's.env"
    client.put_text(str(target), "A=1\n")
    client.put_text(str(target), "A=2\n")
    assert target.read_text() == "A=2\n"
    assert target.stat().st_mode & 0o777 == 0o600
    assert target.parent.stat().st_mode & 0o777 == 0o700
    with pytest.raises(SshError, match="cannot write"):
        client.put_text("/proc/nowhere/file", "x")


def test_a_wrong_key_is_refused_with_the_fix(sshd: Sshd, pins: PinFolder, tmp_path: Path) -> None:
    make_key(tmp_path / "stranger")
    client = SSHClient(sshd.address, SshLogin(tmp_path / "stranger"), pod_id="p1", pins=pins)
    with pytest.raises(SshAuthenticationError, match="RUNPOD_SSH_PUBLIC_KEY_PATH"):
        client.connect()


def test_the_password_is_used_only_without_a_key(sshd: Sshd, pins: PinFolder, tmp_path: Path) -> None:
    log = sshd.folder / "log"
    with_key = SshLogin(sshd.folder / "user_key", password="wrong")
    with SSHClient(sshd.address, with_key, pod_id="p1", pins=pins) as client:
        assert client.execute_command("true")[0] == 0
    make_key(tmp_path / "stranger")
    for login in (SshLogin(tmp_path / "stranger", password="wrong"), SshLogin(password="wrong")):
        assert "Failed password" not in log.read_text()
        with pytest.raises(SshAuthenticationError):
            SSHClient(sshd.address, login, pod_id="p1", pins=pins).connect()
    assert "Failed password" in log.read_text()


@pytest.mark.parametrize(
    ("content", "message"), [(None, "cannot read"), (b"not a key", "ssh-keygen"), (b"\xff\xfe", "not a text file")]
)
def test_an_unusable_key_is_named_before_any_connection(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PrivateKeyError, match=message):
        SshLogin(path).load_key()


def test_a_key_with_a_passphrase_says_so(tmp_path: Path) -> None:
    make_key(tmp_path / "key")
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", "words", "-f", str(tmp_path / "key")], check=True)
    with pytest.raises(PrivateKeyError, match="passphrase"):
        SshLogin(tmp_path / "key").load_key()


def test_no_key_at_all_is_named(sshd: Sshd, pins: PinFolder) -> None:
    with pytest.raises(PrivateKeyError, match="RUNPOD_SSH_PRIVATE_KEY_PATH"):
        SSHClient(sshd.address, SshLogin(), pod_id="p1", pins=pins).connect()


def test_secrets_stay_out_of_reprs() -> None:
    assert "hunter2" not in repr(SshLogin(private_key="hunter2", password="hunter2"))


def test_the_host_key_is_pinned_on_first_use_and_a_change_is_refused(tmp_path: Path, pins: PinFolder) -> None:
    folder = tmp_path / "sshd"
    folder.mkdir()
    sshd = make_folder(folder)
    client = SSHClient(sshd.address, sshd.login, pod_id="p1", pins=pins)
    with running(sshd):
        with client:
            assert client.execute_command("true")[0] == 0
        with client:
            assert client.execute_command("true")[0] == 0
    sshd.new_host_key()
    with running(sshd):
        with pytest.raises(HostKeyChangedError, match="--forget-host-key"):
            client.connect()
        with SSHClient(sshd.address, sshd.login, pod_id="another-pod", pins=pins):
            pass
        pins.forget("p1")
        with client:
            assert client.execute_command("true")[0] == 0


def test_nothing_listening_is_unreachable(sshd: Sshd, pins: PinFolder) -> None:
    address = SshAddress("127.0.0.1", free_port())
    with pytest.raises(SshUnreachableError, match="still be starting"):
        SSHClient(address, sshd.login, pod_id="p1", pins=pins).connect()


def test_a_connection_lost_during_a_command_is_named(tmp_path: Path, pins: PinFolder) -> None:
    folder = tmp_path / "sshd"
    folder.mkdir()
    sshd = make_folder(folder)
    with (
        running(sshd),
        SSHClient(sshd.address, sshd.login, pod_id="p1", pins=pins) as client,
        pytest.raises(SshConnectionLostError, match="connect again"),
    ):
        client.run("echo begun; sleep 30", timeout_seconds=40, on_output=lambda *piece: sshd.cut_sessions())


def test_a_command_without_a_connection_says_what_to_do(sshd: Sshd, pins: PinFolder) -> None:
    with pytest.raises(SshError, match="connect"):
        SSHClient(sshd.address, sshd.login, pod_id="p1", pins=pins).execute_command("true")


def test_connecting_patiently_asks_for_the_address_each_time(sshd: Sshd, pins: PinFolder) -> None:
    """A pod first has no port, then a stale one, then the right one."""
    clock = ManualClock()
    stale = SshAddress("127.0.0.1", free_port())
    addresses = iter([None, stale, sshd.address])

    def client_for() -> SSHClient | None:
        address = next(addresses)
        return SSHClient(address, sshd.login, pod_id="p1", pins=pins) if address else None

    client = connect_with_retry(
        client_for, timeout_seconds=90, every_seconds=3, monotonic=clock.monotonic, sleep=clock.advance
    )
    assert client.execute_command("true")[0] == 0
    client.disconnect()


def test_a_timeout_reports_the_last_reason(sshd: Sshd, pins: PinFolder, tmp_path: Path) -> None:
    clock = ManualClock()
    make_key(tmp_path / "stranger")

    def client_for() -> SSHClient:
        return SSHClient(sshd.address, SshLogin(tmp_path / "stranger"), pod_id="p1", pins=pins)

    with pytest.raises(SshAuthenticationError):
        connect_with_retry(
            client_for, timeout_seconds=6, every_seconds=3, monotonic=clock.monotonic, sleep=clock.advance
        )
    with pytest.raises(SshUnreachableError, match="22/tcp"):
        connect_with_retry(
            lambda: None, timeout_seconds=6, every_seconds=3, monotonic=clock.monotonic, sleep=clock.advance
        )
