"""The login to a pod: a private key, or a password if no key is set.

Keys are loaded here, so that an unusable key is reported before any connection. Keys of an agent or of the home
folder are never offered.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

_KEY_KINDS: tuple[type[paramiko.PKey], ...] = (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey)
_MAKE_ONE = "ssh-keygen -t ed25519 -N '' -f pod_key"


class SshError(Exception):
    """Base of SSH errors; the message names the cause and the fix."""


class PrivateKeyError(SshError):
    """The private key is unusable."""


@dataclass(frozen=True, slots=True)
class SshLogin:
    private_key_path: Path | None = None
    private_key: str | None = field(default=None, repr=False)
    """The key's text, from the environment; takes precedence over the path."""
    password: str | None = field(default=None, repr=False)

    def load_key(self) -> paramiko.PKey | None:
        """None where no key is set. Raises PrivateKeyError."""
        text = self.private_key or self._read()
        return None if text is None else parse_private_key(text)

    def public_key(self) -> str | None:
        """In the form of authorized_keys; None without a usable private key."""
        try:
            key = self.load_key()
        except PrivateKeyError:
            return None
        return None if key is None else f"{key.get_name()} {key.get_base64()}"

    def _read(self) -> str | None:
        if self.private_key_path is None:
            return None
        try:
            return self.private_key_path.expanduser().read_text()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not a text file"
            raise PrivateKeyError(
                f"cannot read the SSH private key {self.private_key_path}: {reason}; "
                "set RUNPOD_SSH_PRIVATE_KEY_PATH to a readable key file"
            ) from None


def parse_private_key(text: str) -> paramiko.PKey:
    """A key in OpenSSH, PEM or PKCS#8 form, also with changed line ends or quotes.

    Raises PrivateKeyError that names the problem and never quotes the text.
    """
    text = _clean(text)
    if problem := _form_problem(text):
        raise PrivateKeyError(f"the SSH private key {problem}")
    for kind in _KEY_KINDS:
        try:
            return kind.from_private_key(io.StringIO(_openssh_form(text)))
        except paramiko.PasswordRequiredException:
            raise PrivateKeyError(f"the SSH private key has a passphrase; make one without: {_MAKE_ONE}") from None
        except (paramiko.SSHException, UnsupportedAlgorithm, ValueError, IndexError, TypeError):
            continue
    raise PrivateKeyError(
        f"the SSH private key cannot be read: it is cut, damaged, or of an unsupported type; make one: {_MAKE_ONE}"
    )


def _clean(text: str) -> str:
    """Without BOM, quotes and CRLF, with real line breaks."""
    text = text.removeprefix("\ufeff").strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1].strip()
    if "\n" not in text:
        text = text.replace("\\r", "").replace("\\n", "\n")
    return "\n".join(line.strip() for line in text.splitlines() if line.strip()) + "\n"


def _form_problem(text: str) -> str | None:
    """What the text is where it is no private key."""
    if text.startswith("PuTTY-User-Key-File"):
        return "is in PuTTY's form; convert it with: puttygen KEY -O private-openssh -o pod_key"
    if text.startswith(("ssh-", "ecdsa-", "sk-")) or "BEGIN PUBLIC KEY" in text or "SSH2 PUBLIC KEY" in text:
        return "is a public key; give the file without .pub"
    if not text.startswith("-----BEGIN ") or "PRIVATE KEY-----" not in text:
        return f"does not begin with -----BEGIN … PRIVATE KEY-----; make one: {_MAKE_ONE}"
    if "-----END " not in text:
        return "is cut: its last line, -----END … PRIVATE KEY-----, is missing; give the whole text"
    return None


def _openssh_form(text: str) -> str:
    """PKCS#8, which paramiko does not read, as OpenSSH; any other form unchanged."""
    if "BEGIN ENCRYPTED PRIVATE KEY" in text:
        raise paramiko.PasswordRequiredException("PKCS#8 with a passphrase")
    if "-----BEGIN PRIVATE KEY-----" not in text:
        return text
    key = serialization.load_pem_private_key(text.encode(), None)
    form = serialization.PrivateFormat.OpenSSH
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()
