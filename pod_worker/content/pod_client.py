"""The pod's side: manifest and packs of a workdir or a data set.

Requests carry the token of the run's attempt.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import msgspec
import requests

from pod_worker.content.manifest import InvalidManifestError, Manifest, decode, sha256_of
from pod_worker.content.wire import PackRef, WorkdirAnswer
from pod_worker.control_plane_client import (
    ControlPlaneClient,
    RefusedRequestError,
    TemporaryRequestError,
    repeat,
)
from pod_worker.core.credentials.bearer import BearerAuth
from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.stop_signal import StopSignal

T = TypeVar("T")
TIMEOUT_SECONDS = (10.0, 120.0)
RETRY_SECONDS = 900.0
BLOCK_BYTES = 256 * 1024


class TreeClient:
    """One tree; `stop` ends waits and downloads.

    `token` speaks for an attempt of the run.
    `data_set` is the key of a folder, None for the workdir of the run.
    """

    def __init__(
        self,
        control_plane_url: str,
        token: str | None,
        run_id: str,
        stop: StopSignal,
        *,
        data_set: str | None = None,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self._client = ControlPlaneClient(control_plane_url, token)
        route = "workdir" if data_set is None else f"data?key={quote(data_set, safe='')}"
        self._path = f"/api/runs/{quote(run_id, safe='')}/{route}"
        self._title = "the workdir" if data_set is None else f"data set {data_set[:200]}"
        self._refusal = FailureCode.STORAGE if data_set is None else FailureCode.INVALID_INPUT
        self._store = requests.Session()
        self._stop = stop
        self._retry_seconds = retry_seconds
        self._has_failed = False  # the last download: its URL may have expired

    def tree(self, expected: str) -> tuple[Manifest, list[PackRef]]:
        """The manifest whose SHA-256 begins so, and the packs with its files.

        Raises RunError: STORAGE, or INVALID_INPUT for a data set that is not there; and what `stop` raises.
        """
        answer = self._repeated(self._ask)
        encoded = answer.manifest.encode()
        if not sha256_of(encoded).startswith(expected):
            raise RunError(FailureCode.STORAGE, "the control plane returned another manifest than the run names")
        try:
            return decode(encoded), answer.packs
        except InvalidManifestError as error:
            raise RunError(FailureCode.STORAGE, f"the manifest of {self._title} is not valid: {error}") from None

    def fetch_pack(self, pack: PackRef, target: Path) -> Path:
        """Download a pack; at most its announced bytes are written.

        A URL that expired meanwhile is asked for again.
        """
        return self._repeated(lambda: self._download(self._renewed(pack), target))

    def _renewed(self, pack: PackRef) -> PackRef:
        if not self._has_failed:
            return pack
        return next((each for each in self._ask().packs if each.sha256 == pack.sha256), pack)

    def _download(self, pack: PackRef, target: Path) -> Path:
        self._has_failed = True  # until it ends well
        try:
            with self._store.get(
                pack.url, auth=BearerAuth(None), stream=True, timeout=TIMEOUT_SECONDS, allow_redirects=False
            ) as answer:
                if answer.status_code != 200:
                    raise TemporaryRequestError(f"the object store answered {answer.status_code}")
                left = pack.bytes
                with open(target, "wb") as file:
                    for block in answer.iter_content(BLOCK_BYTES):
                        self._stop.check()
                        left -= len(block)
                        if left < 0:
                            break
                        file.write(block)
        except requests.RequestException as error:
            raise TemporaryRequestError(f"no answer from the object store ({type(error).__name__})") from None
        if left:
            raise TemporaryRequestError("the object store sent another number of bytes than announced")
        self._has_failed = False
        return target

    def _ask(self) -> WorkdirAnswer:
        try:
            body = self._client.request("GET", self._path, timeout=TIMEOUT_SECONDS)
            return msgspec.json.decode(body, type=WorkdirAnswer)
        except RefusedRequestError as error:
            detail = error.detail or f"it answered {error.status}: check CONTROL_PLANE_URL"
            raise RunError(self._refusal, f"{self._title} cannot be fetched: {detail}") from None
        except msgspec.MsgspecError:
            detail = "it answered 200: check CONTROL_PLANE_URL"
        raise RunError(FailureCode.STORAGE, f"{self._title} cannot be fetched: {detail}")

    def _repeated(self, call: Callable[[], T]) -> T:
        try:
            return repeat(call, self._retry_seconds, first_seconds=0.2, cap_seconds=30.0, stop=self._stop)
        except TemporaryRequestError as error:
            raise RunError(FailureCode.STORAGE, f"{self._title} cannot be fetched: {error}") from None
