"""The user under which the processes of runs work, where the worker is root.

A run then cannot signal, trace or read the worker and its guard, nor the spool of other runs. The default is a
user id of its own without an account. POD_WORKER_CHILD_USER names another user, or `none` to keep the worker's.
The run's folder, a home folder for caches, and cache folders named in the environment are handed over.
"""

from __future__ import annotations

import glob
import os
import pwd
import stat
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pod_worker.process.folder_access import closed_folder
from pod_worker.sandbox.identity import SANDBOX_UID

AUTO, NONE = "auto", "none"
DEFAULT_UID = 61_999  # outside the ranges that Debian and systemd give out
HOME_FOLDER = ".home"  # below the work root; no run's folder begins with a dot
CACHE_FOLDERS = (".environments", ".content")  # below the work root too, shared by the runs of a pod
PROBE = "import pod_worker.worker.child"
PROBE_SECONDS = 60.0
GPU_DEVICES = ("/dev/nvidia*", "/dev/nvidia-caps/*", "/dev/dri/*", "/dev/kfd")
CACHE_VARIABLES = (
    "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_DATASETS_CACHE", "TRANSFORMERS_CACHE", "TORCH_HOME",
    "XDG_CACHE_HOME", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "MPLCONFIGDIR", "CUDA_CACHE_PATH",
)  # fmt: skip


class ChildUserError(Exception):
    """Runs cannot work under the user; the message has the cause and the fix."""


@dataclass(frozen=True, slots=True)
class ChildUser:
    uid: int
    gid: int
    groups: tuple[int, ...]  # of the GPU devices
    name: str

    @property
    def is_dedicated(self) -> bool:
        """Whether only runs have processes of this user."""
        return self.uid == DEFAULT_UID


def find_user(setting: str) -> ChildUser | None:
    """The user of runs; None: they keep the worker's.

    Raises ChildUserError for a user that cannot be had.
    """
    if setting == NONE or (setting == AUTO and os.geteuid() != 0):
        return None
    if os.geteuid() != 0:
        raise ChildUserError(
            f"POD_WORKER_CHILD_USER={setting} needs a worker that is root; unset it, or start the worker as root"
        )
    if setting == AUTO:
        return ChildUser(DEFAULT_UID, DEFAULT_UID, _device_groups(), "pod-worker-run")
    try:
        account = pwd.getpwuid(int(setting)) if setting.isdigit() else pwd.getpwnam(setting)
    except KeyError:
        raise ChildUserError(f"POD_WORKER_CHILD_USER={setting}: there is no such user here; create it") from None
    if account.pw_uid == 0:
        raise ChildUserError("POD_WORKER_CHILD_USER=root protects nothing; write `none` to keep the worker's user")
    return ChildUser(account.pw_uid, account.pw_gid, _device_groups(), account.pw_name)


def usable_user(setting: str, folders: Iterable[Path]) -> ChildUser | None:
    """`find_user`, checked. Raises ChildUserError."""
    user = find_user(setting)
    if user:
        check_user(user, folders)
    return user


def sandbox_user(user: ChildUser | None) -> ChildUser | None:
    """The user of programs that a run of `user` executes in the sandbox.

    It has the group of the run, so that both can enter the run's folder; what they share has the group's modes.
    None where runs keep the worker's user.
    """
    return replace(user, uid=SANDBOX_UID, name="pod-worker-sandbox") if user else None


def make_way(folder: Path) -> None:
    """Create the missing parents of a folder: others may enter and not list them.

    The umask does not matter.
    """
    for parent in reversed([parent for parent in folder.parents if not parent.exists()]):
        parent.mkdir(exist_ok=True)
        parent.chmod(0o711)


def check_user(user: ChildUser, folders: Iterable[Path], cwd: Path | None = None) -> None:
    """Raises ChildUserError unless the user can start our child program.

    It must reach the folders.
    """
    for path in (*folders, Path(sys.executable).resolve(), Path(__file__)):
        if closed := closed_folder(path, user.uid, (user.gid, *user.groups)):
            raise ChildUserError(
                f"user {user.name} ({user.uid}) cannot enter {closed}, which leads to {path}; move it to a folder "
                f"that others may enter, or run `chmod o+x {closed}`"
            )
    env = {name: value for name, value in os.environ.items() if name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")}
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBE],
            env=env,
            cwd=cwd,
            user=user.uid,
            group=user.gid,
            extra_groups=list(user.groups),
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ChildUserError(f"user {user.name} ({user.uid}) cannot start Python: {error}") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ChildUserError(f"user {user.name} ({user.uid}) cannot import pod_worker: {lines[-1][:300]}")


def prepare_home(user: ChildUser, work_root: Path, env: Mapping[str, str]) -> dict[str, str]:
    """The environment of a run under this user.

    Home and cache folders exist and belong to it.
    """
    home = work_root / HOME_FOLDER
    given = {"HOME": str(home), "USER": user.name, "LOGNAME": user.name}
    prepared = {name: value for name, value in env.items() if name != "XDG_RUNTIME_DIR"} | given
    for folder in (home, *(work_root / name for name in CACHE_FOLDERS)):
        hand_over(folder, user)
    for variable in CACHE_VARIABLES:
        if path := prepared.get(variable):
            hand_over(Path(path), user)
    scratch = prepared.get("TMPDIR")
    if (scratch and not os.path.isdir(scratch)) or (scratch and not os.stat(scratch).st_mode & stat.S_IWOTH):
        del prepared["TMPDIR"]  # ours; everyone may write to /tmp
    return prepared


def hand_over(folder: Path, user: ChildUser) -> None:
    """Give the folder and all in it to the user, unless it belongs to it already.

    Nothing in it was writable for a run before, so it has no link that a run could have placed.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_uid == user.uid:
        return
    for parent, _, names in os.walk(folder):
        for name in names:
            os.chown(os.path.join(parent, name), user.uid, user.gid, follow_symlinks=False)
        os.chown(parent, user.uid, user.gid, follow_symlinks=False)


def _device_groups() -> tuple[int, ...]:
    """The groups of GPU devices that are not open to everyone."""
    found = set()
    for path in (path for pattern in GPU_DEVICES for path in glob.glob(pattern)):
        device = os.stat(path)
        if device.st_gid and stat.S_ISCHR(device.st_mode) and not device.st_mode & stat.S_IWOTH:
            found.add(device.st_gid)
    return tuple(sorted(found))
