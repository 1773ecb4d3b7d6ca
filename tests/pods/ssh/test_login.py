"""Private keys as environments, web forms and Windows editors deliver them, and what an unusable one is."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from pod_worker.pods.ssh.login import PrivateKeyError, SshLogin, parse_private_key
from tests.pods.sshd import make_key, program


@pytest.fixture(scope="module")
def key_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("key") / "key"
    make_key(path)
    return path.read_text()


FORMS: dict[str, Callable[[str], str]] = {
    "as it is": lambda text: text,
    "CRLF": lambda text: text.replace("\n", "\r\n"),
    "no last newline": str.strip,
    "escaped newlines": lambda text: text.strip().replace("\n", "\\n"),
    "escaped newlines and CR": lambda text: text.strip().replace("\n", "\\r\\n"),
    "double quotes": lambda text: f'"{text.strip()}"',
    "single quotes and escapes": lambda text: "'" + text.replace("\n", "\\n") + "'",
    "byte order mark": lambda text: "\ufeff" + text,
    "indented": lambda text: "\n\n" + text.replace("\n", "\n    "),
    "blank lines between": lambda text: text.replace("\n", "\n\n"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_changed_text_is_the_same_key(key_text: str, form: str) -> None:
    key = parse_private_key(FORMS[form](key_text))
    assert key.get_base64() == parse_private_key(key_text).get_base64()
    assert SshLogin(private_key=FORMS[form](key_text)).public_key() == f"ssh-ed25519 {key.get_base64()}"


@pytest.mark.parametrize(
    "key",
    [
        ed25519.Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP256R1()),
        rsa.generate_private_key(public_exponent=65537, key_size=2048),
    ],
    ids=["ed25519", "ecdsa", "rsa"],
)
@pytest.mark.parametrize("form", [serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.OpenSSH])
def test_every_common_type_and_form_is_read(
    key: ed25519.Ed25519PrivateKey, form: serialization.PrivateFormat
) -> None:
    text = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()
    openssh = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    assert SshLogin(private_key=text).public_key() == openssh.decode()


def test_an_unusable_text_is_named_and_never_quoted(key_text: str, tmp_path: Path) -> None:
    public = SshLogin(private_key=key_text).public_key()
    assert public is not None
    body = "sentinel" * 8
    cut = key_text[: len(key_text) // 2]
    locked = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"x"),
    )
    make_key(tmp_path / "locked")
    subprocess.run([program("ssh-keygen"), "-q", "-p", "-N", "secret", "-f", tmp_path / "locked"], check=True)
    cases = {
        public: "is a public key",
        f"PuTTY-User-Key-File-3: ssh-ed25519\n{body}": "puttygen",
        f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----": "does not begin with",
        body: "does not begin with",
        cut: "is cut",
        f"-----BEGIN OPENSSH PRIVATE KEY-----\n{body}\n-----END OPENSSH PRIVATE KEY-----": "damaged",
        f"-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----": "damaged",
        locked.decode(): "has a passphrase",
        (tmp_path / "locked").read_text(): "has a passphrase",
    }
    for text, cause in cases.items():
        with pytest.raises(PrivateKeyError, match=cause) as caught:
            SshLogin(private_key=text).load_key()
        assert "sentinel" not in str(caught.value)
        assert SshLogin(private_key=text).public_key() is None
