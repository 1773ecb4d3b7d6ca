"""Seals the secrets of a job for the control plane, which alone opens them.

A sealed box: an ephemeral X25519 key, HKDF-SHA256, ChaCha20-Poly1305. The associated data is the secret's name, so
a sealed value cannot be given another one. Nothing here is stored, and no error quotes a value.

Form: base64 of one byte of version, 32 of the ephemeral public key, and the ciphertext with its tag.
"""

from __future__ import annotations

import base64
import binascii

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

VERSION = b"\x01"
KEY_BYTES = 32
VALUE_LIMIT_BYTES = 64 * 1024  # Linux refuses a variable above 128 KiB
_ENCRYPTION_KEY_INFO = b"pod_worker sealed secrets 1: ENCRYPTION_KEY"
_TOKEN_INFO = b"pod_worker sealed secrets 1: CONTROL_PLANE_TOKEN"
_BOX_INFO = b"pod_worker sealed secret box 1"
_NONCE = bytes(12)  # the key of a box is used once


class SealError(ValueError):
    """A value that cannot be sealed or opened; the text never quotes it."""


class PrivateKey:
    """The key of a control plane. It prints nothing of itself."""

    __slots__ = ("_key",)

    def __init__(self, seed: bytes) -> None:
        self._key = X25519PrivateKey.from_private_bytes(seed)

    @classmethod
    def derive(cls, encryption_key: str) -> PrivateKey:
        """The key that ENCRYPTION_KEY stands for."""
        return cls(_derived(encryption_key.encode(), _ENCRYPTION_KEY_INFO))

    @classmethod
    def derive_from_token(cls, control_plane_token: str) -> PrivateKey:
        """The key of a control plane that has no ENCRYPTION_KEY."""
        return cls(_derived(control_plane_token.encode(), _TOKEN_INFO))

    @property
    def public(self) -> str:
        """For `seal`; base64."""
        return base64.b64encode(self._key.public_key().public_bytes_raw()).decode()

    def exchange(self, ephemeral: bytes) -> bytes:
        """Raises ValueError for a point of small order."""
        return self._key.exchange(X25519PublicKey.from_public_bytes(ephemeral))

    def __repr__(self) -> str:
        return "PrivateKey(***)"


def private_key(encryption_key: str | None, control_plane_token: str | None) -> PrivateKey | None:
    """From ENCRYPTION_KEY when set, else CONTROL_PLANE_TOKEN; None without both."""
    if encryption_key:
        return PrivateKey.derive(encryption_key)
    return PrivateKey.derive_from_token(control_plane_token) if control_plane_token else None


def seal(public: str, name: str, value: str) -> str:
    """The value for the owner of the public key.

    Raises SealError for a value that no variable can hold, or a key that is none.
    """
    plain = _checked(name, value)
    try:
        recipient = base64.b64decode(public, validate=True)
        ephemeral = X25519PrivateKey.generate()
        shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(recipient))
    except (ValueError, binascii.Error):
        raise SealError("the control plane's public key is not valid: check CONTROL_PLANE_URL") from None
    sender = ephemeral.public_key().public_bytes_raw()
    box = _box(shared, sender, recipient).encrypt(_NONCE, plain, name.encode())
    return base64.b64encode(VERSION + sender + box).decode()


def open_sealed(private: PrivateKey, name: str, text: str) -> str:
    """The value that `seal` was given.

    Raises SealError for another key, another name, or a text that was changed.
    """
    try:
        sealed = base64.b64decode(text, validate=True)
        sender = sealed[1 : 1 + KEY_BYTES]
        if sealed[:1] != VERSION:
            raise ValueError("version")
        key = _box(private.exchange(sender), sender, base64.b64decode(private.public))
        return key.decrypt(_NONCE, sealed[1 + KEY_BYTES :], name.encode()).decode()
    except (ValueError, InvalidTag):
        raise SealError(
            f"the secret {name[:80]!r} was sealed for another key or name. Submit the job again; set "
            "ENCRYPTION_KEY of the control plane, so that a new CONTROL_PLANE_TOKEN does not change its key"
        ) from None


def _checked(name: str, value: str) -> bytes:
    try:
        plain = value.encode()
    except UnicodeEncodeError:
        raise SealError(f"the secret {name[:80]!r} is not UTF-8: encode it, for example with base64") from None
    if not plain or b"\0" in plain or len(plain) > VALUE_LIMIT_BYTES:
        raise SealError(
            f"the secret {name[:80]!r} must have 1 to {VALUE_LIMIT_BYTES} bytes without NUL: put a larger one "
            "into a file that the job downloads"
        )
    return plain


def _box(shared: bytes, sender: bytes, recipient: bytes) -> ChaCha20Poly1305:
    """Bound to both public keys, as in HPKE (RFC 9180)."""
    return ChaCha20Poly1305(_derived(shared, _BOX_INFO + sender + recipient))


def _derived(secret: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=info).derive(secret)
