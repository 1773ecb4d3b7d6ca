"""The parameters of the pipeline `command`: what a run's document keeps of a job.

Read at enqueue and again by the stage that executes the command. It looks at no file: the workdir is in the
artifact store, and the interpreter is on the machine of the worker.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from pod_worker.core.run import Json
from pod_worker.parameters import read_params

PIPELINE = "command"
MAX_GPUS = 1024
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
INTERPRETER = re.compile(r"|venv|uv|3\.\d{1,2}(\.\d{1,2})?|uv:3\.\d{1,2}(\.\d{1,2})?", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?", re.ASCII)
GIT_SCHEMES = ("https", "http", "ssh", "git", "file")
# The worker sets them for every command.
RESERVED = frozenset({"OUTPUT_DIR", "CHECKPOINT_DIR", "RESUME"})
RESERVED_PREFIX = "POD_WORKER_"

Text = Annotated[str, Meta(pattern=r"^[^\x00]*$")]
Hash = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class WorkdirSource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The files of the working directory: a manifest, or a commit of a repository."""

    manifest: Hash | None = None  # SHA-256 of the manifest in the content store
    files: Annotated[int, Meta(ge=0)] = 0
    bytes: Annotated[int, Meta(ge=0)] = 0
    git: Text | None = None  # URL
    commit: str | None = None  # full hash


class SourceRevision(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The Git state of the submitted folder; information only."""

    commit: str | None = None
    branch: str | None = None
    is_dirty: bool = False
    diff_sha256: str | None = None


class OutputGlob(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Files of the working directory that are uploaded."""

    glob: Annotated[str, Meta(min_length=1)]
    required: bool = False  # a success without a match is a failure


class CommandParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every field may be left out but `run`."""

    run: Annotated[
        Annotated[str, Meta(min_length=1)] | Annotated[list[Text], Meta(min_length=1)],
        Meta(description="the command: a text for `bash -euo pipefail`, or a list of program and arguments"),
    ]
    setup: Annotated[Text, Meta(description="shell text that prepares the environment; its result is cached")] = ""
    lock_files: Annotated[
        list[Text], Meta(description="files of the workdir whose content decides whether `setup` runs again")
    ] = []
    workdir: Annotated[
        WorkdirSource | None,
        Meta(description="files of the job: {manifest, files, bytes} or {git, commit}; null for an empty folder"),
    ] = None
    source: Annotated[
        SourceRevision | None, Meta(description="Git state of the submitted folder; information only")
    ] = None
    python: Annotated[
        str,
        Meta(
            description='interpreter: empty for the worker\'s, "venv", a version such as "3.11", "uv" or "uv:3.12"'
        ),
    ] = ""
    envs: Annotated[dict[str, Text], Meta(description="environment variables of setup and command")] = {}
    secrets: Annotated[list[str], Meta(description="names of secret variables; the command alone gets them")] = []
    gpus: Annotated[int, Meta(ge=0, le=MAX_GPUS, description="GPUs of the job; sets NPROC_PER_NODE")] = 0
    outputs: Annotated[
        list[OutputGlob], Meta(description="further files to upload: list of {glob, required}")
    ] = []
    checkpoint_dir: Annotated[
        str, Meta(description="folder of the workdir that holds the checkpoints; empty for $CHECKPOINT_DIR")
    ] = ""
    checkpoint_every: Annotated[
        float, Meta(ge=1, le=86_400, description="shortest time between two snapshots of the checkpoints")
    ] = 300.0
    keep_checkpoints: Annotated[int, Meta(ge=1, le=100, description="newest snapshots kept, 1 to 100")] = 3
    sandbox: Annotated[bool, Meta(description="run in the sandbox: no network, no other files")] = False
    tensorboard: Annotated[
        str, Meta(description="folder of the workdir whose TensorBoard event files are read")
    ] = ""


UNITS = {"checkpoint_every": "seconds", "keep_checkpoints": "snapshots"}

# What other job specifications call the same thing.
OTHER_NAMES = {
    "command": "run",
    "commands": "run",
    "cmd": "run",
    "script": "run",
    "entrypoint": "run",
    "env": "envs",
    "environment": "envs",
    "working_dir": "workdir",
}


def parse(params: Mapping[str, Json]) -> CommandParams:
    """Raises RunError(INVALID_INPUT) that lists every problem and its fix."""
    return read_params(CommandParams, params, "command parameters", OTHER_NAMES, _problems)


def complete(params: Mapping[str, Json]) -> dict[str, Json]:
    """The same parameters checked, with defaults: what a run document keeps."""
    completed: dict[str, Json] = msgspec.to_builtins(parse(params))
    return completed


def _problems(params: Mapping[str, Json]) -> Iterator[str]:
    """What the types alone do not say; values of a wrong type are reported elsewhere."""
    yield from _run_problems(params.get("run"))
    yield from _variable_problems(params.get("envs"), params.get("secrets"))
    yield from _workdir_problems(params.get("workdir"))
    if not INTERPRETER.fullmatch(str(params.get("python", ""))):
        yield f'\'python\' is {params["python"]!r:.80}: give "venv", "3.11", "uv", "uv:3.12" or nothing'
    for name in ("checkpoint_dir", "tensorboard"):
        yield from _path_problems(name, params.get(name))
    for name, key in (("lock_files", None), ("outputs", "glob")):
        for each in params.get(name) or []:
            yield from _path_problems(name, each.get(key) if key and isinstance(each, dict) else each)


def _run_problems(run: Json) -> Iterator[str]:
    if isinstance(run, str) and ("\0" in run or not run.strip()):
        yield "'run' is empty or contains NUL: give the text of a command"
    elif isinstance(run, list) and run and not str(run[0]).strip():
        yield "'run' names no program: give its name or path first"


def _variable_problems(envs: Json, secrets: Json) -> Iterator[str]:
    named = [("envs", name) for name in envs] if isinstance(envs, dict) else []
    named += [("secrets", name) for name in secrets] if isinstance(secrets, list) else []
    for field, name in named:
        if not VARIABLE.fullmatch(str(name)):
            yield f"{field!r} has {name!r:.80}: give letters, digits and underscores, no digit first"
        elif name in RESERVED or name.startswith(RESERVED_PREFIX):
            yield f"{field!r} has {name!r:.80}, which the worker sets: choose another name"
    for name in sorted({name for _, name in named if [other for _, other in named].count(name) > 1}, key=str):
        yield f"{name!r:.80} is given twice among 'envs' and 'secrets': keep one of them"


def _workdir_problems(workdir: Json) -> Iterator[str]:
    if not isinstance(workdir, dict):
        return
    git, commit = workdir.get("git"), workdir.get("commit")
    if (workdir.get("manifest") is None) == (git is None):
        yield "'workdir' needs either 'manifest' or 'git': give one of them"
    elif git is not None:
        yield from git_problems(str(git))
        if not COMMIT.fullmatch(str(commit)):
            yield f"'workdir' has the commit {commit!r:.80}: give the full hash (git rev-parse HEAD)"


def git_problems(url: str) -> Iterator[str]:
    """What is wrong with the URL of a repository.

    Its text is never quoted: it may hold a password.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        yield "'workdir' has a Git URL that cannot be read: give https://host/owner/repository"
        return
    if "://" not in url:
        if url.startswith("-") or not re.fullmatch(r"[\w.-]+@[\w.-]+:[\w./~-]+", url, re.ASCII):
            yield "'workdir' has a Git URL without a scheme: give https://host/owner/repository"
    elif parts.scheme not in GIT_SCHEMES or not (parts.netloc or parts.scheme == "file"):
        yield f"'workdir' has a Git URL that is not supported: begin with one of {', '.join(GIT_SCHEMES)}"
    elif parts.password is not None or (parts.username is not None and parts.scheme != "ssh"):
        yield (
            "'workdir' has a Git URL with a user name or password, which everyone could read: submit a "
            "local clone of the repository, or use a public URL"
        )


def _path_problems(name: str, path: Json) -> Iterator[str]:
    if isinstance(path, str) and path:
        found = PurePosixPath(path)
        if found.is_absolute() or ".." in found.parts or "\0" in path:
            yield f"{name!r} has {path!r:.80}: give a path below the workdir, without '..'"
