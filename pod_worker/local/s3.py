"""A real S3 server on a folder: `rclone serve s3`, loopback only, keys made once and kept beside the data.

The secret travels in the environment of the child, never in its arguments.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path

import urllib3
from minio import Minio
from minio.error import MinioException

from pod_worker.local.binaries import find_rclone
from pod_worker.local.errors import LocalStackError
from pod_worker.local.folder import FolderLock, write_private
from pod_worker.local.process import LOOPBACK, ChildProcess, start_listening

START_SECONDS = 30.0
STOP_SECONDS = 10.0
DEFAULT_BUCKET = "ai-scientist"
LEFTOVER_PREFIX = ".rclone_temp_"


@dataclass(frozen=True)
class S3Access:
    """Where an S3 server is and how to sign for it. `endpoint` is host:port, as the minio client wants it."""

    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)
    bucket: str = DEFAULT_BUCKET
    secure: bool = False

    @property
    def url(self) -> str:
        return f"{'https' if self.secure else 'http'}://{self.endpoint}"


class ObjectStoreServer:
    """`rclone serve s3` on `data_dir/objects`, one folder per bucket; a context manager."""

    def __init__(
        self,
        data_dir: Path,
        port: int = 0,
        access_key: str | None = None,
        secret_key: str | None = None,
        bucket: str = DEFAULT_BUCKET,
        *,
        binary: Path | None = None,
    ) -> None:
        """Without keys, those in `data_dir/keys.json` are used, made at the first start. Keys: ≥ 8 characters."""
        if bool(access_key) != bool(secret_key):
            raise LocalStackError("Give both the S3 access key and the secret key, or neither.")
        self.data_dir = data_dir
        self.objects_dir = data_dir / "objects"
        self.port = port
        self._given_keys = (access_key, secret_key) if access_key and secret_key else None
        self._keys: tuple[str, str] | None = None
        self._bucket = bucket
        self._binary = binary
        self._lock = FolderLock(data_dir)
        self._process: ChildProcess | None = None

    @property
    def access(self) -> S3Access:
        if self._keys is None:
            raise LocalStackError("The S3 server was not started.")
        return S3Access(f"{LOOPBACK}:{self.port}", *self._keys, bucket=self._bucket)

    @property
    def process(self) -> ChildProcess:
        if self._process is None:
            raise LocalStackError("The S3 server was not started.")
        return self._process

    def start(self, timeout_seconds: float = START_SECONDS, stop: threading.Event | None = None) -> None:
        """Raises FolderInUseError, BinaryMissingError, ChildDiedError, NotReadyError, StopRequestedError."""
        self._lock.acquire()
        try:
            self._keys = self._given_keys or _kept_keys(self.data_dir / "keys.json")
            (self.objects_dir / self._bucket).mkdir(parents=True, exist_ok=True)
            _remove_leftovers(self.objects_dir)
            self._process, self.port = start_listening(
                self._describe, self._answers, self.port, timeout_seconds, stop
            )
        except BaseException:
            self.kill()
            raise

    def stop(self, grace_seconds: float = STOP_SECONDS) -> None:
        if self._process is not None:
            self._process.stop(grace_seconds)
        self._lock.release()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
        self._lock.release()

    def __enter__(self) -> ObjectStoreServer:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _describe(self, port: int) -> ChildProcess:
        binary = self._binary or find_rclone()
        argv = [str(binary), "serve", "s3", str(self.objects_dir), "--addr", f"{LOOPBACK}:{port}"]
        argv += ["--config", os.devnull, "--cache-dir", str(self.data_dir / "cache"), "--log-level", "NOTICE"]
        argv += ["--no-cleanup"]
        access = self.access
        env = {"PATH": os.defpath, "HOME": str(self.data_dir)}
        env["RCLONE_AUTH_KEY"] = f'"{access.access_key},{access.secret_key}"'
        return ChildProcess("rclone serve s3", argv, self.data_dir / "s3.log", env=env, keep_fds=(self._lock.fd,))

    def _answers(self, process: ChildProcess, port: int) -> bool:
        """True when the server on the port accepts our signature, which a stranger's would not."""
        access = replace(self.access, endpoint=f"{LOOPBACK}:{port}")
        http = urllib3.PoolManager(retries=False, timeout=2.0)
        client = Minio(access.endpoint, access.access_key, access.secret_key, secure=False, http_client=http)
        try:
            return bool(client.bucket_exists(access.bucket))
        except (urllib3.exceptions.HTTPError, MinioException):
            return False
        finally:
            http.clear()


def _kept_keys(path: Path) -> tuple[str, str]:
    """The keys in `path`, made and stored there (0600) when there are none."""
    try:
        stored = json.loads(path.read_text())
        return str(stored["access_key"]), str(stored["secret_key"])
    except FileNotFoundError:
        keys = f"local-{secrets.token_hex(6)}", secrets.token_urlsafe(32)
    except (ValueError, KeyError, TypeError) as error:
        raise LocalStackError(f"{path} is not readable as S3 keys. Fix: delete it; new keys are made.") from error
    write_private(path, json.dumps({"access_key": keys[0], "secret_key": keys[1]}))
    return keys


def _remove_leftovers(objects_dir: Path) -> None:
    """Halves of uploads that a killed server left: never acknowledged, hidden from listings, safe to delete."""
    for leftover in objects_dir.rglob(f"{LEFTOVER_PREFIX}*"):
        leftover.unlink(missing_ok=True)
