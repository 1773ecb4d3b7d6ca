"""Downloads of artifacts through the control plane; a download's hash is checked."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

import requests

from pod_worker.artifacts.keys import ArtifactKey, InvalidNameError
from pod_worker.cli.composition import StoreSession
from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.core.credentials.bearer import BearerAuth
from pod_worker.core.credentials.secret import revealed
from pod_worker.store.artifact_registry import ArtifactRow

_TIMEOUT_SECONDS = (10.0, 60.0)
_BLOCK_BYTES = 1024 * 1024
STDOUT = Path("-")


def latest_artifacts(rows: list[ArtifactRow]) -> dict[str, ArtifactRow]:
    """By filename, the registered artifact of the latest attempt."""
    found: dict[str, tuple[int, ArtifactRow]] = {}
    for row in rows:
        try:
            key = ArtifactKey.read(row.key)
        except InvalidNameError:
            continue
        if row.verified_at is not None and key.attempt >= found.get(key.filename, (0, row))[0]:
            found[key.filename] = key.attempt, row
    return {filename: row for filename, (_, row) in found.items()}


class ArtifactDownloader:
    def __init__(self, store: StoreSession) -> None:
        self._url = store.settings.control_plane_url.rstrip("/")
        self._auth = BearerAuth(revealed(store.settings.control_plane_token))
        self._session = requests.Session()
        self._session.auth = BearerAuth(None)

    def __enter__(self) -> ArtifactDownloader:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def download(
        self, row: ArtifactRow, target: Path, on_received: Callable[[int], None] = lambda count: None
    ) -> str:
        """The hash that was checked; `on_received` gets the number of bytes of each block.

        Raises CommandError; writes nothing under the target's name then.
        """
        digest, received = hashlib.sha256(), 0
        with self._opened(row.key) as response, _written(target) as out:
            for block in response.iter_content(_BLOCK_BYTES):
                received += len(block)
                if row.bytes is not None and received > row.bytes:
                    raise CommandError(
                        f"{row.key} is longer than the {row.bytes} bytes that were registered. The "
                        "stored object is damaged: publish it again."
                    )
                digest.update(block)
                out.write(block)
                on_received(len(block))
            if row.sha256 and digest.hexdigest() != row.sha256:
                raise CommandError(
                    f"{row.key} arrived with another hash than was registered. The stored object is damaged: "
                    "publish it again."
                )
        return digest.hexdigest()

    @contextmanager
    def _opened(self, key: str) -> Iterator[requests.Response]:
        """The object's bytes.

        The control plane's key goes to the control plane only, not to the object store.
        """
        try:
            link = self._session.get(
                f"{self._url}/api/artifacts/{quote(key)}",
                auth=self._auth,
                timeout=_TIMEOUT_SECONDS,
                allow_redirects=False,
            )
            if link.status_code != 307:
                raise _failed(link)
            with self._session.get(link.headers["Location"], stream=True, timeout=_TIMEOUT_SECONDS) as response:
                if not response.ok:
                    raise _failed(response)
                yield response
        except requests.RequestException as error:
            raise CommandError(
                f"The download of {key} failed ({type(error).__name__}). Check that {self._url} and the object "
                "store can be reached.",
                ExitCode.TEMPORARY,
            ) from None


def _failed(response: requests.Response) -> CommandError:
    codes = {401: ExitCode.AUTH, 403: ExitCode.AUTH, 404: ExitCode.NOT_FOUND, 503: ExitCode.TEMPORARY}
    return CommandError(
        f"The download failed: {response.status_code} {response.text[:200]}",
        codes.get(response.status_code, ExitCode.FAILED),
    )


@contextmanager
def _written(target: Path) -> Iterator[BinaryIO]:
    """stdout, or a file that gets its name only when the block ends without an error."""
    if target == STDOUT:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.part")
    try:
        with open(partial, "wb") as file:
            yield file
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
