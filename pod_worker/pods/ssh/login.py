"""The login to a pod: a private key, or a password if no key is set.

Keys are loaded here, so that an unusable key is reported before any connection. Keys of an agent or of the home
folder are never offered.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

import paramiko

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
