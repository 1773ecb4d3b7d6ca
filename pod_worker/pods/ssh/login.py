"""How to log in to a pod: a private key first, a password only where there is no key.

Keys are read here so that an unusable one is named before any connection is tried. No agent and no key of the
user's home is ever offered.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

import paramiko

_KEY_KINDS: tuple[type[paramiko.PKey], ...] = (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey)
_MAKE_ONE = "ssh-keygen -t ed25519 -N '' -f pod_key"


class SshError(Exception):
    """Base of what can go wrong over SSH; the message says what to do."""


class PrivateKeyError(SshError):
    """The private key itself is unusable."""


@dataclass(frozen=True, slots=True)
class SshLogin:
    private_key_path: Path | None = None
    private_key: str | None = field(default=None, repr=False)
    """The key's text, for machines that get it by environment; goes before the path."""
    password: str | None = field(default=None, repr=False)

    def load_key(self) -> paramiko.PKey | None:
        """None where no key is set. Raises PrivateKeyError."""
        text = self.private_key or self._read()
        if text is None:
            return None
        for kind in _KEY_KINDS:
            try:
                return kind.from_private_key(io.StringIO(text))
            except paramiko.PasswordRequiredException:
                raise PrivateKeyError(
                    f"the SSH private key has a passphrase; make one without: {_MAKE_ONE}"
                ) from None
            except (paramiko.SSHException, ValueError):
                continue
        raise PrivateKeyError(f"the SSH private key is not one that OpenSSH knows; make one: {_MAKE_ONE}")

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
