"""What a local stack keeps between starts: token and ports.

With it, workers outside the stack find it again.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from pod_worker.local.errors import LocalStackError
from pod_worker.local.folder_lock import write_private
from pod_worker.local.process import require_free

IDENTITY_FILE = "identity.json"
TOKEN_BYTES = 24


@dataclass(frozen=True, slots=True)
class StackIdentity:
    token: str = field(default_factory=lambda: secrets.token_urlsafe(TOKEN_BYTES), repr=False)
    control_port: int | None = None
    mongodb_port: int | None = None

    def free_mongodb_port(self) -> int:
        """The earlier port, or 0 (a random one) where another program has taken it."""
        try:
            require_free(self.mongodb_port or 0)
        except LocalStackError:
            return 0
        return self.mongodb_port or 0


def read_identity(data_dir: Path) -> StackIdentity:
    """That of the last start in this folder; a new one without it."""
    try:
        found = json.loads((data_dir / IDENTITY_FILE).read_text())
        return StackIdentity(str(found["token"]), found["control_port"], found["mongodb_port"])
    except (OSError, ValueError, KeyError, TypeError):
        return StackIdentity()


def write_identity(data_dir: Path, identity: StackIdentity) -> None:
    write_private(data_dir / IDENTITY_FILE, json.dumps(asdict(identity)))


def mongodb_port(url: str) -> int | None:
    """The port of a server of our own; None for a URL with several hosts."""
    try:
        return urlsplit(url).port
    except ValueError:
        return None
