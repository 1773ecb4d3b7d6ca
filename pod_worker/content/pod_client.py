"""The pod's side: a run's manifest and packs, with the token of its attempt."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import msgspec
import requests

from pod_worker.content.manifest import InvalidManifestError, Manifest, decode, sha256_of
from pod_worker.content.wire import PackRef, WorkdirAnswer
from pod_worker.core.backoff import full_jitter
from pod_worker.core.bearer import BearerAuth
from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.stop_signal import StopSignal

T = TypeVar("T")
TIMEOUT_SECONDS = (10.0, 120.0)
RETRY_SECONDS = 900.0
SLICE_SECONDS = 0.2
BLOCK_BYTES = 256 * 1024


class _TemporaryError(Exception):
    pass


class WorkdirClient:
    """`token` speaks for an attempt of the run; `stop` ends waits and downloads."""

    def __init__(
        self,
        control_plane_url: str,
        token: str | None,
        run_id: str,
        stop: StopSignal,
        *,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self._url = f"{control_plane_url.rstrip('/')}/api/runs/{quote(run_id, safe='')}/workdir"
        self._auth = BearerAuth(token)
        self._session = requests.Session()
        self._stop = stop
        self._retry_seconds = retry_seconds
        self._rng = random.Random()
        self._has_failed = False  # the last download: its URL may have expired

    def workdir(self, expected: str) -> tuple[Manifest, list[PackRef]]:
        """The manifest with that SHA-256, and the packs with its files.

        Raises RunError(STORAGE), and what `stop` raises.
        """
        answer = self._repeated(self._ask)
        encoded = answer.manifest.encode()
        if sha256_of(encoded) != expected:
            raise RunError(FailureCode.STORAGE, "the control plane returned another manifest than the run names")
        try:
            return decode(encoded), answer.packs
        except InvalidManifestError as error:
            raise RunError(FailureCode.STORAGE, f"the manifest of the workdir is not valid: {error}") from None

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
            with self._session.get(
                pack.url, auth=BearerAuth(None), stream=True, timeout=TIMEOUT_SECONDS, allow_redirects=False
            ) as answer:
                if answer.status_code != 200:
                    raise _TemporaryError(f"the object store answered {answer.status_code}")
                left = pack.bytes
                with open(target, "wb") as file:
                    for block in answer.iter_content(BLOCK_BYTES):
                        self._stop.check()
                        left -= len(block)
                        if left < 0:
                            break
                        file.write(block)
        except requests.RequestException as error:
            raise _TemporaryError(f"no answer from the object store ({type(error).__name__})") from None
        if left:
            raise _TemporaryError("the object store sent another number of bytes than announced")
        self._has_failed = False
        return target

    def _ask(self) -> WorkdirAnswer:
        try:
            answer = self._session.get(self._url, auth=self._auth, timeout=TIMEOUT_SECONDS, allow_redirects=False)
        except requests.RequestException as error:
            raise _TemporaryError(f"no answer from the control plane ({type(error).__name__})") from None
        status = answer.status_code
        if status in (408, 425, 429) or status >= 500:
            raise _TemporaryError(f"the control plane answered {status}")
        try:
            if status == 200:
                return msgspec.json.decode(answer.content, type=WorkdirAnswer)
            detail = str(msgspec.json.decode(answer.content)["detail"])[:500]
        except (msgspec.MsgspecError, KeyError, TypeError):
            detail = f"it answered {status}: check CONTROL_PLANE_URL"
        raise RunError(FailureCode.STORAGE, f"the workdir cannot be fetched: {detail}")

    def _repeated(self, call: Callable[[], T]) -> T:
        end, tries = time.monotonic() + self._retry_seconds, 0
        while True:
            self._stop.check()
            try:
                return call()
            except _TemporaryError as error:
                tries += 1
                wait = full_jitter(tries, 0.2, 30.0, self._rng)
                if time.monotonic() + wait > end:
                    raise RunError(FailureCode.STORAGE, f"the workdir cannot be fetched: {error}") from None
            self._sleep(wait)

    def _sleep(self, seconds: float) -> None:
        while seconds > 0:
            self._stop.check()
            time.sleep(min(seconds, SLICE_SECONDS))
            seconds -= SLICE_SECONDS
