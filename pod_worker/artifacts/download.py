"""An artifact back onto this machine's disk: streamed, resumed, verified.

The file gets its name when it is whole.

A partial file lies beside its target under a name made from the content's hash, so that a later call goes on with
it, also after a crash. Without a known hash every call starts from nothing. No more bytes are written than the
control plane names: a store that sends more is cut off.
"""

from __future__ import annotations

import os
from pathlib import Path

import requests

from pod_worker.artifacts import transfer
from pod_worker.artifacts.api_client import ArtifactApiClient, RetryingCaller
from pod_worker.artifacts.ledger import sync_folder
from pod_worker.artifacts.transfer import TIMEOUT_SECONDS, TransientError
from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.stage import StopSignal

_BLOCK_BYTES = 64 * 1024  # a block cut short by a broken line is lost: small ones lose little


def fetch(
    control: ArtifactApiClient,
    session: requests.Session,
    retrying: RetryingCaller,
    stop: StopSignal,
    key: str,
    target: Path,
    sha256: str | None,
) -> Path:
    """Download to `target`.

    Raises RunError(STORAGE) when the bytes do not match, and what `transfer` raises.
    """
    wanted = sha256 or control.presign_get(key).sha256
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{(wanted or 'unknown')[:16]}.partial")
    if wanted is None:
        partial.unlink(missing_ok=True)
    for _ in range(2):  # a partial file of another process may be wrong: once more from nothing
        _complete(control, session, retrying, stop, key, partial)
        found = _sha256(partial, stop)
        if wanted in (None, found):
            return _moved(partial, target)
        partial.unlink()
    raise RunError(
        FailureCode.STORAGE, f"{key} has sha256 {found}, expected {wanted}: the stored object is not it"
    )


def _complete(
    control: ArtifactApiClient,
    session: requests.Session,
    retrying: RetryingCaller,
    stop: StopSignal,
    key: str,
    partial: Path,
) -> None:
    def go_on() -> None:
        # A URL per try: it may have expired since the last one.
        granted = control.presign_get(key)
        _append(session, granted.url, partial, stop, granted.bytes)

    retrying(go_on)


def _append(session: requests.Session, url: str, partial: Path, stop: StopSignal, size_limit: int | None) -> None:
    """One request for what is missing, appended.

    Raises TransientError and keeps what arrived. Raises RunError(STORAGE), and removes the partial file, when the
    object is longer than `size_limit` bytes.
    """
    have = partial.stat().st_size if partial.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        with session.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as answer:
            if answer.status_code == 416 and have:
                return  # nothing is missing; the hash decides
            if answer.status_code not in (200, 206):
                raise _error(url, answer)
            with open(partial, "ab" if _begins_at(answer) == have else "wb") as file:
                for block in answer.iter_content(_BLOCK_BYTES):
                    stop.check()
                    if size_limit is not None and file.tell() + len(block) > size_limit:
                        partial.unlink()
                        raise _too_long(url, size_limit)
                    file.write(block)
    except requests.RequestException as error:
        raise TransientError(transfer.unreachable(url, error)) from None


def _begins_at(answer: requests.Response) -> int:
    """The offset of the answer's first byte.

    rclone answers 200 to a range, so the status does not show it.
    """
    unit, _, rest = answer.headers.get("Content-Range", "").partition(" ")
    first = rest.partition("-")[0]
    return int(first) if unit == "bytes" and first.isascii() and first.isdigit() else 0


def _too_long(url: str, size_limit: int) -> RunError:
    return RunError(
        FailureCode.STORAGE,
        f"the object store at {transfer.host(url)} sends more than the {size_limit} bytes of the artifact: "
        "the stored object is not it",
    )


def _error(url: str, answer: requests.Response) -> Exception:
    error = transfer.error_from_response(url, answer)
    return TransientError(str(error)) if isinstance(error, transfer.UrlExpiredError) else error


def _sha256(path: Path, stop: StopSignal) -> str:
    with open(path, "rb") as file:
        return transfer.fingerprint(file, stop.check).sha256


def _moved(partial: Path, target: Path) -> Path:
    with open(partial, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(partial, target)
    sync_folder(target.parent)
    return target
