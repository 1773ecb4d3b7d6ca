"""A real `mongod` replica set on loopback: one member, or several.

Several for failover tests.

Starts, initiates and restarts safely on the same folder, also with new ports and after a SIGKILL. No
authentication: any local user of this machine can read the data, and other machines cannot reach it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pymongo
from pymongo.errors import ConfigurationError, OperationFailure, PyMongoError

from pod_worker.local.binaries import find_mongod
from pod_worker.local.description import without_password
from pod_worker.local.errors import LocalStackError, NotReadyError
from pod_worker.local.folder_lock import FolderLock
from pod_worker.local.member import START_SECONDS, STOP_SECONDS, Client, MongodMember
from pod_worker.local.process import LOOPBACK, POLL_SECONDS

REPLICA_SET = "pod_worker"
DEFAULT_DATABASE = "ai_scientist"
NOT_YET_INITIALIZED = 94  # error codes: mongo/src/mongo/base/error_codes.yml
ALREADY_INITIALIZED = 23


class Mongod:
    """A replica set of `members` processes in `data_dir`; a context manager.

    `port` 0 means random free ports, else member i listens on `port + i`. `cache_gb` bounds WiredTiger's cache per
    member (≥ 0.25). `parameters` are extra `--setParameter` pairs.
    """

    def __init__(
        self,
        data_dir: Path,
        port: int = 0,
        members: int = 1,
        *,
        binary: Path | None = None,
        cache_gb: float = 0.25,
        oplog_mb: int = 256,
        election_timeout_seconds: float = 2.0,
        parameters: Mapping[str, str] | None = None,
    ) -> None:
        self.data_dir = data_dir
        self._election_timeout_seconds = election_timeout_seconds
        self._lock = FolderLock(data_dir)
        self._ports = [port + i if port else 0 for i in range(members)]
        self._binary = binary
        self._options = _options(cache_gb, oplog_mb, parameters or {})
        self.members: tuple[MongodMember, ...] = ()

    @property
    def url(self) -> str:
        return self.url_for(DEFAULT_DATABASE)

    def url_for(self, database: str) -> str:
        """A connection string for `database` that follows the primary wherever it is."""
        hosts = ",".join(member.address for member in self.members)
        return f"mongodb://{hosts}/{database}?replicaSet={REPLICA_SET}"

    def start(self, timeout_seconds: float = START_SECONDS, stop: threading.Event | None = None) -> None:
        """Start every member; return when the set has a primary and none is behind.

        Raises FolderInUseError, BinaryMissingError, ChildDiedError, NotReadyError, StopRequestedError.
        """
        binary = self._binary or find_mongod()
        self._lock.acquire()
        try:
            self.members = tuple(
                MongodMember(self.data_dir / f"member{i}", (str(binary), *self._options), port, self._lock.fd)
                for i, port in enumerate(self._ports)
            )
            self._start_members(timeout_seconds, stop)
            self.members[0].process.wait_until(self._is_initiated, timeout_seconds, stop)
            self._configure()
            self._wait_for_set(timeout_seconds, stop)
        except PyMongoError as error:
            self.kill()
            raise LocalStackError(
                f"The mongod in {self.data_dir} refused to become a replica set: {error}. Fix: if the folder "
                "comes from elsewhere, use another one."
            ) from error
        except BaseException:
            self.kill()
            raise

    def stop(self, grace_seconds: float = STOP_SECONDS) -> None:
        """Clean shutdown of every member, the primary last."""
        primary = self.primary() if len(self.members) > 1 else None
        for member in sorted(self.members, key=lambda member: member is primary):
            member.stop(grace_seconds)
        self._lock.release()

    def kill(self) -> None:
        """SIGKILL every member."""
        for member in self.members:
            member.kill()
        self._lock.release()

    def primary(self) -> MongodMember | None:
        """The member that accepts writes now, if any."""
        return next((member for member in self.members if member.hello().get("isWritablePrimary")), None)

    def wait_for_primary(self, timeout_seconds: float = START_SECONDS) -> MongodMember:
        """The primary, as soon as there is one; for tests that have just killed it."""
        deadline = time.monotonic() + timeout_seconds
        while (primary := self.primary()) is None:
            if time.monotonic() > deadline:
                raise NotReadyError(f"No primary after {timeout_seconds:g} s.\n{self._log_tails()}")
            time.sleep(POLL_SECONDS)
        return primary

    def __enter__(self) -> Mongod:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _start_members(self, timeout_seconds: float, stop: threading.Event | None) -> None:
        if len(self.members) == 1:
            return self.members[0].start(timeout_seconds, stop)
        with ThreadPoolExecutor(len(self.members)) as pool:
            for started in [pool.submit(member.start, timeout_seconds, stop) for member in self.members]:
                started.result()
        return None

    def _configure(self) -> None:
        """Tell the set where its members listen now."""
        hosts = [member.address for member in self.members]
        with self.members[0].client() as client:
            config: dict[str, Any] = client.admin.command("replSetGetConfig")["config"]
            if len(config["members"]) != len(hosts):
                raise LocalStackError(
                    f"{self.data_dir} holds a replica set of {len(config['members'])} members, not {len(hosts)}. "
                    "Fix: start it with the same number, or use another folder."
                )
            if [member["host"] for member in config["members"]] != hosts:
                _move(client, config, hosts)

    def _is_initiated(self) -> bool:
        """True when the set has a configuration; gives it one if it never had."""
        with self.members[0].client() as client:
            try:
                client.admin.command("replSetGetConfig")
            except OperationFailure as error:
                if error.code != NOT_YET_INITIALIZED:
                    raise
                _initiate(client, [member.address for member in self.members], self._election_timeout_seconds)
                return False
            return True

    def _wait_for_set(self, timeout_seconds: float, stop: threading.Event | None) -> None:
        for member in self.members:
            member.process.wait_until(partial(_is_settled, member), timeout_seconds, stop)
        self.members[0].process.wait_until(lambda: self.primary() is not None, timeout_seconds, stop)

    def _log_tails(self) -> str:
        return "\n".join(member.process.log_tail() for member in self.members)


def require_mongodb(url: str, timeout_seconds: float = 5.0) -> None:
    """Raises LocalStackError, without the password, when no MongoDB answers at `url`."""
    shown, milliseconds = without_password(url), int(timeout_seconds * 1000)
    fix = "Fix: correct MONGODB_URL, or unset it to start a local one."
    try:
        client: Client = pymongo.MongoClient(url, serverSelectionTimeoutMS=milliseconds)
    except (ConfigurationError, ValueError):  # their messages may quote the password
        raise LocalStackError(
            f"{shown} is not a MongoDB connection string; in user and password, characters like @ : / must be "
            f"percent-encoded. {fix}"
        ) from None
    with client:
        try:
            client.admin.command("ping")
        except PyMongoError as error:
            reason = str(error).partition(", Timeout:")[0].partition(", full error:")[0]
            raise LocalStackError(f"No MongoDB at {shown}: {reason}. {fix}") from error


def _options(cache_gb: float, oplog_mb: int, parameters: Mapping[str, str]) -> tuple[str, ...]:
    wanted = {
        "diagnosticDataCollectionEnabled": "false",
        # The wait lets clients of a remote set find the next primary; ours stop before the server does.
        "shutdownTimeoutMillisForSignaledShutdown": "0",
        **parameters,
    }
    options = ["--bind_ip", LOOPBACK, "--nounixsocket", "--quiet", "--replSet", REPLICA_SET]
    options += ["--wiredTigerCacheSizeGB", f"{cache_gb:g}", "--oplogSize", str(oplog_mb)]
    for name, value in wanted.items():
        options += ["--setParameter", f"{name}={value}"]
    return tuple(options)


def _initiate(client: Client, hosts: list[str], election_seconds: float) -> None:
    config = {
        "_id": REPLICA_SET,
        "members": [{"_id": i, "host": host} for i, host in enumerate(hosts)],
        "settings": {"electionTimeoutMillis": int(election_seconds * 1000), "heartbeatIntervalMillis": 500},
    }
    try:
        client.admin.command("replSetInitiate", config)
    except OperationFailure as error:
        if error.code != ALREADY_INITIALIZED:  # its configuration was still being read from disk
            raise


def _move(client: Client, config: dict[str, Any], hosts: list[str]) -> None:
    """Forced: a set whose members all changed address has no primary to agree."""
    for member, host in zip(config["members"], hosts, strict=True):
        member["host"] = host
    config["version"] += 1
    client.admin.command("replSetReconfig", config, force=True)


def _is_settled(member: MongodMember) -> bool:
    hello = member.hello()
    return bool(hello.get("isWritablePrimary") or hello.get("secondary"))
