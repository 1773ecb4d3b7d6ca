"""`stack.json`: how to reach a running local stack.

Readable by its owner only. Holds the ingest token but no S3 secret: that stays in the file it names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pod_worker.local.errors import LocalStackError
from pod_worker.local.folder_lock import FolderLock

STACK_FILE = "stack.json"


@dataclass(frozen=True)
class StackDescription:
    """`pids` maps `stack` (the owner) and the names of its children to process ids.

    `s3_keys_file` is None for a server that was given.
    """

    mongodb_url: str
    control_plane_url: str | None
    s3_url: str
    s3_bucket: str
    s3_keys_file: str | None
    token: str | None
    pids: Mapping[str, int]

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))


def read_description(data_dir: Path) -> StackDescription | None:
    """The description of the stack that runs in `data_dir`; None when none does.

    A leftover file is not one.
    """
    path = data_dir / STACK_FILE
    if not path.exists() or not FolderLock(data_dir).is_locked():
        return None
    try:
        return StackDescription(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise LocalStackError(
            f"{path} is not a stack description. Fix: stop that stack and start it again."
        ) from error


def read_keys(keys_file: str | None) -> tuple[str, str] | None:
    """Access key and secret key of the stack's own S3 server; None for a given server."""
    if keys_file is None:
        return None
    try:
        keys = json.loads(Path(keys_file).read_text())
        return str(keys["access_key"]), str(keys["secret_key"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def without_password(url: str) -> str:
    """`url` as it may be shown: with `***` for a password.

    For malformed URLs too.
    """
    return re.sub(r"(://[^:@]*):.*@", r"\1:***@", url, count=1, flags=re.DOTALL)
