"""Runs a pod's start command as a local process in a folder of its own.

All processes of a pod are descendants of one `init_process.py`, so none survives the pod or this server. There
is no image and no isolation: commands run on this machine as this user.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

from pod_worker.fake_runpod.cloud.pod import Pod
from pod_worker.fake_runpod.containers.runner import ContainerEvents

CONTAINER = Path(__file__).with_name("init_process.py")
CLOSE_TIMEOUT_SECONDS = 10.0


class ProcessRunner:
    def __init__(self, root: Path, events: ContainerEvents, *, search_path: str = os.defpath) -> None:
        """`root`: folder of the pods' folders and network volumes.

        `search_path`: PATH in pods, after this Python's folder, so that `pod-worker` and `python` are those of
        this installation.
        """
        self._root = root.resolve()
        self._events = events
        self._path = f"{Path(sys.executable).parent}{os.pathsep}{search_path}"
        self._containers: dict[str, ContainerProcess] = {}

    def start(self, pod: Pod, env: dict[str, str], start_command: tuple[str, ...]) -> None:
        if not start_command:
            self._events.report_output(
                pod.id, "no start command; the fake has no image that could have one: this pod idles"
            )
            return
        folder = self._folder(pod)
        system = {"PATH": self._path, "HOME": str(folder), "TMPDIR": str(folder), "LANG": "C.UTF-8"}
        previous = self._containers.get(pod.id)
        container = ContainerProcess(
            pod.id, pod.generation, folder, start_command, system | env, self._events, previous
        )
        self._containers[pod.id] = container
        container.start()

    def stop(self, pod_id: str, reason: str, notice_seconds: float, *, is_final: bool) -> None:
        container = self._containers.get(pod_id)
        if container is not None:
            container.stop(notice_seconds)
        if is_final:
            self._containers.pop(pod_id, None)
            folder = self._root / "pods" / pod_id
            if container is None:
                shutil.rmtree(folder, ignore_errors=True)
            else:
                container.remove_folder_at_end()

    def close(self) -> None:
        for container in self._containers.values():
            container.stop(0)
        for container in self._containers.values():
            container.wait(CLOSE_TIMEOUT_SECONDS)

    def _folder(self, pod: Pod) -> Path:
        """The pod's working folder.

        The volume is at the mount path below it: `/workspace` is `./workspace`.
        """
        folder = self._root / "pods" / pod.id
        mount = folder / pod.spec.mount_path.strip("/")
        mount.parent.mkdir(parents=True, exist_ok=True)
        if pod.spec.network_volume_id is None:
            mount.mkdir(exist_ok=True)
        elif not mount.is_symlink():
            volume = self._root / "volumes" / pod.spec.network_volume_id
            volume.mkdir(parents=True, exist_ok=True)
            mount.symlink_to(volume, target_is_directory=True)
        return folder


class ContainerProcess:
    """One generation of one pod's container.

    It waits for the previous generation to end, then runs the command.
    """

    def __init__(
        self,
        pod_id: str,
        generation: int,
        folder: Path,
        command: tuple[str, ...],
        env: dict[str, str],
        events: ContainerEvents,
        previous: ContainerProcess | None,
    ) -> None:
        self._pod_id = pod_id
        self._generation = generation
        self._folder = folder
        self._command = command
        self._env = env
        self._events = events
        self._previous = previous
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopped = False
        self._is_removed = False
        self._is_over = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name=f"pod-{self._pod_id}", daemon=True).start()

    def _run(self) -> None:
        if self._previous is not None:
            self._previous.wait()
            self._previous = None
        try:
            with self._lock:
                self._process = None if self._is_stopped else self._spawn()
            if self._process is not None:
                self._follow(self._process)
        except OSError as error:
            self._events.report_output(self._pod_id, f"cannot start the container: {error}")
            self._events.report_exit(self._pod_id, self._generation, 1)
        with self._lock:
            self._process = None
            self._is_over.set()
            if self._is_removed:
                shutil.rmtree(self._folder, ignore_errors=True)

    def _follow(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        for line in process.stdout:
            self._events.report_output(self._pod_id, line.decode(errors="replace").rstrip("\r\n"))
        process.stdout.close()
        code = process.wait()
        with self._lock, contextlib.suppress(OSError):
            process.stdin.close()
        self._events.report_exit(self._pod_id, self._generation, code)

    def stop(self, notice_seconds: float) -> None:
        with self._lock:
            self._is_stopped = True
            self._send_stop(notice_seconds)

    def remove_folder_at_end(self) -> None:
        with self._lock:
            self._is_removed = True
            if self._is_over.is_set():
                shutil.rmtree(self._folder, ignore_errors=True)

    def wait(self, seconds: float | None = None) -> None:
        """Wait for the container's end; kill it after `seconds`."""
        if not self._is_over.wait(seconds) and self._process is not None:
            self._process.kill()
            self._is_over.wait(seconds)

    def _spawn(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(CONTAINER), *self._command],
            cwd=self._folder,
            env=self._env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _send_stop(self, notice_seconds: float) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError, ValueError):
                self._process.stdin.write(b"stop %f\n" % notice_seconds)
                self._process.stdin.flush()
