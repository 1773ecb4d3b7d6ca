"""The servers of a chaos run: a three-node replica set, S3, control planes and pods, and the links between them.

Every pod reaches each member of the replica set through a proxy of its own, and so does each control plane, so a
fault can hit one path and spare the others. The harness itself, the replication between members and a control
plane's way to S3 are direct. Starts and stops everything; breaks nothing.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from chaos.mongo_wire import Rewriter
from chaos.pod import Pod
from chaos.proxy import Address, Link, Proxy
from chaos.sabotage import VARIABLE
from pod_worker.cli.stack.up import is_ready
from pod_worker.config import INSTANCE_VARIABLE
from pod_worker.local.mongod import Mongod
from pod_worker.local.process import LOOPBACK, ChildProcess, free_port
from pod_worker.local.s3 import ObjectStoreServer
from pod_worker.store.mongo import connect

DATABASE = "chaos"
INSIDE = Path(__file__).parent / "inside"  # what every Python process of the product loads first here


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds; short, so that minutes hold many rescues. The rules between them are the product's own."""

    lease: float = 6.0
    renew: float = 1.5
    poll: float = 2.0
    grace: float = 5.0
    cancel: float = 2.0
    kill: float = 2.0

    def environment(self) -> dict[str, str]:
        return {
            "POD_WORKER_LEASE_SECONDS": f"{self.lease:g}",
            "POD_WORKER_RENEW_SECONDS": f"{self.renew:g}",
            "POD_WORKER_POLL_SECONDS": f"{self.poll:g}",
            "POD_WORKER_HEARTBEAT_SECONDS": "2",
            "POD_WORKER_GRACE_SECONDS": f"{self.grace:g}",
            "POD_WORKER_CANCEL_SECONDS": f"{self.cancel:g}",
            "POD_WORKER_KILL_SECONDS": f"{self.kill:g}",
            "POD_WORKER_FLUSH_SECONDS": "3",
            "POD_WORKER_BATCH_SECONDS": "0.5",
            "POD_WORKER_SPOOL_MAX_MB": "24",
            "POD_WORKER_MIN_DISK_GB": "0.1",
            "POD_WORKER_REQUIRED_GPUS": "0",
        }


@dataclass
class ControlPlaneProcess:
    """A control plane: its process, its port, and its own paths to MongoDB."""

    name: str
    port: int
    process: ChildProcess
    instance: str
    db: tuple[Link, ...] = ()

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def is_ready(self) -> bool:
        return is_ready(self.url, self.instance)


@dataclass
class ChaosCluster:
    """Everything that runs. A context manager; `data` must not hold an arena already.

    `given_mongodb` is the URL of an existing replica set, spoken to without TLS, with an empty database as its
    path; it is never killed. Without one, the arena starts three members of its own.
    """

    data: Path
    pod_count: int
    control_count: int = 1
    timing: Timing = field(default_factory=Timing)
    say: Callable[[str], None] = lambda text: None
    given_mongodb: str | None = None
    sabotage: str | None = None

    def __post_init__(self) -> None:
        self.token = secrets.token_urlsafe(16)
        self.proxy = Proxy()
        self.mongod = None if self.given_mongodb else Mongod(self.data / "mongodb", members=3)
        self.s3 = ObjectStoreServer(self.data / "s3")
        self._members: list[str] = []
        self.controls: list[ControlPlaneProcess] = []
        self.pods: list[Pod] = []
        self._cleanup = ExitStack()

    @property
    def pods_dir(self) -> Path:
        return self.data / "pods"

    @property
    def mongodb_url(self) -> str:
        """Direct, for the harness."""
        return self.given_mongodb or self._own().url_for(DATABASE)

    def _own(self) -> Mongod:
        assert self.mongod is not None, "the replica set was not started by this cluster"
        return self.mongod

    def __enter__(self) -> ChaosCluster:
        with ExitStack() as undo:
            undo.callback(self.kill)
            self._start_servers()
            undo.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()

    def _start_servers(self) -> None:
        self.data.mkdir(parents=True, exist_ok=True)
        self._cleanup.enter_context(self.proxy)
        self.say("starting MongoDB and S3 …")
        starting = threading.Thread(target=self.s3.start)
        starting.start()
        self._cleanup.callback(self.s3.kill)
        if self.given_mongodb:
            self._members = members_of(self.given_mongodb)
        else:
            self._cleanup.callback(self._own().kill)
            self._own().start()
            self._members = [member.address for member in self._own().members]
        starting.join()
        self.s3_link = self.proxy.add("s3", _address(self.s3.access.endpoint))

    def start_controls(self) -> None:
        """After the database was prepared: a control plane creates indexes."""
        for number in range(self.control_count):
            name = f"control-{number}"
            links = self._database_links(name)
            port = free_port()
            argv = [sys.executable, "-m", "pod_worker", "control", "--port", str(port), "--require-key"]
            instance = secrets.token_hex(8)
            env = self._control_environment(through(self.mongodb_url, links)) | {INSTANCE_VARIABLE: instance}
            process = ChildProcess(name, argv, self.data / "logs" / f"{name}.log", env=env)
            self.controls.append(ControlPlaneProcess(name, port, process, instance, links))
            process.start()
        for control in self.controls:
            control.process.wait_until(control.is_ready, 60)

    def start_pods(self) -> None:
        for number in range(self.pod_count):
            control = self.controls[number % len(self.controls)]
            name = f"pod-{number}"
            ingest = self.proxy.add(f"{name}.ingest", Address(LOOPBACK, control.port))
            links = {"db": self._database_links(name), "ingest": (ingest,)}
            env = self._pod_environment(through(self.mongodb_url, links["db"]), f"http://{ingest.address}")
            pod = Pod(name, self.pods_dir / name, env, links)
            self.pods.append(pod)
            pod.prepare()
            pod.start_worker()

    def stop_workers(self, grace_seconds: float) -> list[ChildProcess]:
        """SIGTERM to all, then wait; returns those that had to be killed."""
        processes = [process for pod in self.pods for process in pod.processes]
        for process in processes:
            process.signal(signal.SIGTERM)
        return [process for process in processes if process.wait_or_kill(grace_seconds) == -signal.SIGKILL]

    def kill(self) -> None:
        for pod in self.pods:
            for process in pod.processes:
                process.kill()
            pod.release()
        for control in self.controls:
            control.process.kill()
        self._cleanup.close()

    # ── links and environments ──────────────────────────────────────────────────────────────────────────

    def _database_links(self, name: str) -> tuple[Link, ...]:
        links = tuple(self.proxy.add(f"{name}.db{n}", _address(member)) for n, member in enumerate(self._members))
        rewriter = Rewriter(dict(zip(self._members, (str(link.address) for link in links), strict=True)))
        for link in links:
            link.rewriter = rewriter
        return links

    def _common_environment(self) -> dict[str, str]:
        sabotage = {VARIABLE: self.sabotage} if self.sabotage else {}
        return _plain_environment() | {"PYTHONPATH": str(INSIDE)} | sabotage

    def _control_environment(self, mongodb_url: str) -> dict[str, str]:
        access = self.s3.access
        return self._common_environment() | {
            "MONGODB_URL": mongodb_url,
            "CONTROL_PLANE_TOKEN": self.token,
            "MINIO_ENDPOINT": access.url,
            "MINIO_PUBLIC_ENDPOINT": f"http://{self.s3_link.address}",
            "MINIO_ACCESS_KEY": access.access_key,
            "MINIO_SECRET_KEY": access.secret_key,
            "MINIO_BUCKET": access.bucket,
        }

    def _pod_environment(self, mongodb_url: str, control_plane_url: str) -> dict[str, str]:
        return (
            self._common_environment()
            | self.timing.environment()
            | {
                "MONGODB_URL": mongodb_url,
                "CONTROL_PLANE_URL": control_plane_url,
                "CONTROL_PLANE_TOKEN": self.token,
            }
        )


def through(url: str, links: tuple[Link, ...]) -> str:
    """The same URL (user, database, options) with the links' addresses for hosts."""
    parts = urlsplit(url)
    login, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=login + at + ",".join(str(link.address) for link in links)))


def members_of(url: str) -> list[str]:
    """host:port of every member of the replica set at `url`, as the set itself names them."""
    database = connect(url)
    try:
        hello = database.client.admin.command("hello")
    finally:
        database.client.close()
    if "hosts" not in hello:
        raise ValueError("the chaos harness needs a replica set; that is a standalone server or a sharded cluster")
    return [str(host) for host in hello["hosts"]]


def _address(endpoint: str) -> Address:
    host, _, port = endpoint.rpartition(":")
    return Address(host, int(port))


def _plain_environment(own: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Ours without what would configure the product: the harness's settings are all it gets."""
    foreign = ("POD_WORKER_", "MONGODB_", "MINIO_", "CONTROL_PLANE_", "RUNPOD_", "WORKER_MODE", "CHAOS_")
    return {name: value for name, value in own.items() if not name.startswith(foreign)}
